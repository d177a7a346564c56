"""Labels of a synthetic run, by people who see the truth: a score is right as often as it says."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder import labels, storage

RATE = 0.05  # of write_run's audit slice


def label(key: str, number: int = 0, **values: Any) -> dict[str, Any]:
    """One judgement: a good mask and a good inpainting of an audit sample, unless told otherwise."""
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=number)
    known = {"id": f"{number:032x}", "time": moment, "run": "", "shard": 0, "key": key, "reviewer": "ada"}
    known |= {"queue": "audit", "mask": "good", "inpainting": "good", "criteria": [], "skipped": False, "undoes": ""}
    known |= {"mask_score": 0.5, "inpainting_score": 0.5, "mask_head": "mask-v1", "inpainting_head": "inpainting-v1"}
    return known | {"weight": 1 / RATE} | values


def write(out: str, judgements: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(judgements, schema=labels.LABELS)
    labels.write_labels(table, storage.join(out, labels.PARQUET))


def label_run(out: str, seed: int = 0, reviewer: str = "ada", uncertain: int = 30) -> pa.Table:
    """Label all judged audit rows of a local run, and some others that were chosen by their score.

    Returns the audited ledger rows with the columns ``mask_good`` and ``inpainting_good`` (bool).
    """
    rng = np.random.default_rng(seed)
    ledger = pa.concat_tables(pq.read_table(path) for path in sorted(Path(out, "ledger").iterdir()))
    decided = np.isin(ledger["reason"].to_numpy(), ["", "mask_rejected", "inpainting_rejected"])
    mask, inpainting = ledger["mask_score"].to_numpy(), ledger["inpainting_score"].to_numpy()
    judged = decided & (mask != -1) & (inpainting != -1)
    audit = judged & ledger["audit"].to_numpy(zero_copy_only=False)
    good = {"mask": rng.random(len(ledger)) < mask, "inpainting": rng.random(len(ledger)) < inpainting}
    nearest = np.argsort(np.where(judged & ~audit, np.abs(mask - 0.5), 9.0), kind="stable")[:uncertain]
    judgements = []
    for number, i in enumerate([*np.flatnonzero(audit), *nearest]):
        said = {name: "good" if good[name][i] else "bad" for name in good}
        chosen = {} if audit[i] else {"queue": "uncertain", "weight": 0.0}
        row = {name: ledger[name][i].as_py() for name in ("key", "shard", "mask_score", "inpainting_score")}
        judgements.append(label(number=number, reviewer=reviewer, **row, **said, **chosen))
    write(out, judgements)
    audited = ledger.filter(pa.array(audit))
    return audited.append_column("mask_good", pa.array(good["mask"][audit])).append_column(
        "inpainting_good", pa.array(good["inpainting"][audit])
    )
