"""People's labels beside what the ledgers say of the same samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import labels
from l2i_builder.report.bins import bin_of
from l2i_builder.report.run import Run, ledger_of
from l2i_builder.report.scan import ahead
from l2i_builder.sample import UNKNOWN, Reason

COLUMNS = ("key", "mask_score", "inpainting_score", "reason", "stage", "mask_area")
READERS = 8
_DECIDED = ("", Reason.MASK_REJECTED.value, Reason.INPAINTING_REJECTED.value)


@dataclass
class Labelled:
    """Samples with labels that this run's ledgers know; arrays of one length [n].

    mask, inpainting: 1 good, 0 bad, NaN not judged or reviewers evenly split. weight: how many samples of the run
    one stands for, 0 where the queue was no random draw. Scores are the ledger's; UNKNOWN (-1) where there are none.
    """

    key: list[str] = field(default_factory=list)
    shard: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    mask: np.ndarray = field(default_factory=lambda: np.zeros(0))
    inpainting: np.ndarray = field(default_factory=lambda: np.zeros(0))
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mask_score: np.ndarray = field(default_factory=lambda: np.zeros(0))
    inpainting_score: np.ndarray = field(default_factory=lambda: np.zeros(0))
    reason: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    counts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.key)

    @property
    def good(self) -> np.ndarray:
        """1 where mask and inpainting are good, 0 where one of them is bad, NaN where that is not known; float [n]."""
        known = ~np.isnan(self.mask) & ~np.isnan(self.inpainting)
        return np.where((self.mask == 0) | (self.inpainting == 0), 0.0, np.where(known, 1.0, np.nan))

    @property
    def decided(self) -> np.ndarray:
        """Whether the judges decided what became of the row, bool [n]."""
        return np.isin(self.reason, _DECIDED)


def read_labelled(run: Run, location: str = "") -> Labelled:
    """Read the labels of a run, or those at ``location``, and what the ledgers say of their samples.

    Reads the ledgers of labelled shards alone. Raises OutputError where a named file is missing or damaged.
    """
    table = labels.read_labels(location or run.out)
    standing = labels.current(table)
    if not len(standing):
        return Labelled(counts={"judgements": len(table), "samples": 0, "found": 0})
    agreed = labels.consensus(table)
    places = dict(zip(standing["key"].to_pylist(), standing["shard"].to_pylist(), strict=True))
    wanted = sorted(set(places.values()) & set(run.finished))
    keys = pa.array(list(places), pa.string())

    def rows(number: int) -> pa.Table:
        ledger = ledger_of(run.out, number, COLUMNS)
        # Of the rows of one key, that which had a mask; its duplicates were refused before.
        mine = ledger.filter(pc.and_(pc.is_in(ledger["key"], keys), pc.not_equal(ledger["mask_area"], UNKNOWN)))
        return mine.append_column("shard", pa.array([number] * len(mine), pa.int64())).replace_schema_metadata(None)

    tables = [rows_of for rows_of in ahead(rows, wanted, READERS) if len(rows_of)]
    found = pa.concat_tables(tables).to_pylist() if tables else []
    by_key = {row["key"]: row for row in found}
    lines = [(line, by_key[line["key"]]) for line in agreed.to_pylist() if line["key"] in by_key]
    result = _joined(lines)
    result.counts = _counts(run, table, standing, agreed, result)
    return result


def _joined(lines: list[tuple[dict[str, Any], dict[str, Any]]]) -> Labelled:
    def numbers(place: int, name: str) -> np.ndarray:
        return np.array([line[place][name] for line in lines], np.float64)

    def answers(name: str) -> np.ndarray:
        given = numbers(0, name)
        return np.where(given == 0.5, np.nan, np.round(given))

    weight = numbers(0, "weight")
    return Labelled(
        key=[row["key"] for _, row in lines],
        shard=np.array([row["shard"] for _, row in lines], np.int64),
        mask=answers("mask_good"),
        inpainting=answers("inpainting_good"),
        weight=np.where(np.isfinite(weight) & (weight > 0), weight, 0.0),
        mask_score=numbers(1, "mask_score"),
        inpainting_score=numbers(1, "inpainting_score"),
        reason=np.array([row["reason"] for _, row in lines], object),
    )


def _counts(run: Run, table: pa.Table, standing: pa.Table, agreed: pa.Table, found: Labelled) -> dict[str, Any]:
    kappa = labels.kappa(table)
    good = found.good
    return {
        "judgements": len(table),
        "standing": len(standing),
        "samples": len(agreed),
        "found": len(found),
        "audit": int((found.weight > 0).sum()),
        "of_this_run": int(pc.sum(pc.equal(standing["run"], run.digest)).as_py() or 0),
        "good": int((good == 1).sum()),
        "bad": int((good == 0).sum()),
        "unclear": int(np.isnan(good).sum()),
        "reviewers": len(standing["reviewer"].unique()),
        "queues": dict(sorted(Counter(agreed["queue"].to_pylist()).items(), key=lambda item: (-item[1], item[0]))[:20]),
        "kappa": {task: {name: _finite(kappa[task][name]) for name in ("n", "agreement", "kappa")} for task in kappa},
    }


def label_bins(found: Labelled, mask_edges: np.ndarray, inpainting_edges: np.ndarray) -> dict[str, Any]:
    """Return what the sliders estimate precision and recall from: the audit labels, added up by bins of both scores.

    cells: [mask bin, inpainting bin, samples, good ones, sum w, sum w^2, sum w of the good, sum w^2 of the good].
    """
    good = found.good
    used = found.decided & (found.weight > 0) & ~np.isnan(good)
    # A mask that was never inpainted has no place among the pairs of scores; of a judge that is off all have -1.
    used &= (found.inpainting_score != UNKNOWN) | (found.reason == "")
    i = bin_of(found.mask_score[used], mask_edges)
    j = bin_of(found.inpainting_score[used], inpainting_edges)
    w, fine = found.weight[used], good[used] == 1
    sums: dict[tuple[int, int], np.ndarray] = {}
    for a, b, one, is_good in zip(i.tolist(), j.tolist(), w.tolist(), fine.tolist(), strict=True):
        line = np.array([1, is_good, one, one**2, one * is_good, one**2 * is_good], np.float64)
        sums[a, b] = sums.get((a, b), np.zeros(6)) + line
    cells = [[a, b, int(v[0]), int(v[1]), *(round(x, 6) for x in v[2:].tolist())] for (a, b), v in sorted(sums.items())]
    return {"samples": int(used.sum()), "good": int(fine.sum()), "cells": cells}


def wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share seen in n draws, 95 % by default; n of weighted ones: the effective size."""
    if not n:
        return 0.0, 1.0
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
