"""Labels: what people judged of a run's samples. Written by the review app, read by training and calibration.

A judgement is one row of ``LABELS`` and is never changed: taking one back adds a row that names it. ``current``
gives what stands, ``consensus`` one row a sample, ``kappa`` how far reviewers agree.
"""

from __future__ import annotations

import io
from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import L2IError, OutputError
from l2i_builder.judgements import CRITERIA, INPAINTING_CRITERIA, LABELS, MASK_CRITERIA, Judgement, to_table
from l2i_builder.review.store import LabelStore, read_store

__all__ = [
    "AUDIT",
    "CONSENSUS",
    "CRITERIA",
    "INPAINTING_CRITERIA",
    "LABELS",
    "MASK_CRITERIA",
    "Judgement",
    "LabelStore",
    "consensus",
    "current",
    "kappa",
    "read_labels",
    "read_table",
    "to_table",
    "write_labels",
]

SQLITE, PARQUET = "labels.sqlite", "labels.parquet"  # in a run's output folder
AUDIT = "audit"  # the queue whose labels give unbiased figures

CONSENSUS = pa.schema(
    [
        ("key", pa.string()),
        ("mask_good", pa.float64()),
        ("inpainting_good", pa.float64()),
        ("reviewers", pa.int64()),
        ("weight", pa.float64()),
        ("mask_score", pa.float32()),
        ("inpainting_score", pa.float32()),
        ("queue", pa.string()),
    ]
)


def read_labels(location: str) -> pa.Table:
    """Return all judgements, also undone ones, as a ``LABELS`` table ordered by time.

    location: a .sqlite file of this machine, a .parquet path or URL, or a run's output folder, where labels.sqlite
    and labels.parquet are read together; a folder that has neither gives an empty table. Raises OutputError where a
    named file is missing, or something is no table of labels.
    """
    if location.endswith(".parquet"):
        return _unique([_read_parquet(location)])
    if location.endswith(".sqlite"):
        if not storage.is_local(location) or not storage.local_path(location).is_file():
            raise OutputError(f"no labels at {location}: give a .sqlite file of this machine, or exported .parquet.")
        return read_store(storage.local_path(location))
    tables = []
    sqlite, parquet = storage.join(location, SQLITE), storage.join(location, PARQUET)
    if storage.is_local(location) and storage.local_path(sqlite).is_file():
        tables.append(read_labels(sqlite))
    if storage.exists(parquet):
        tables.append(_read_parquet(parquet))
    return _unique(tables)


def write_labels(table: pa.Table, url: str) -> None:
    """Write a ``LABELS`` table as parquet to a path or URL; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table.cast(LABELS), sink, compression="zstd")
    storage.write_bytes(url, sink.getvalue())


def current(table: pa.Table) -> pa.Table:
    """Return the judgements that stand: undone and skipped ones out, the last word per key and reviewer, by time."""
    says = pc.and_(pc.invert(table["skipped"]), pc.equal(table["undoes"], ""))
    undone = pc.is_in(table["id"], value_set=table["undoes"].combine_chunks())
    table = table.filter(pc.and_(says, pc.invert(undone))).sort_by("time")
    last = {pair: place for place, pair in enumerate(zip(*_lists(table, "key", "reviewer"), strict=True))}
    return table.take(pa.array(sorted(last.values()), pa.int64()))


def consensus(table: pa.Table) -> pa.Table:
    """Return one ``CONSENSUS`` row per judged key of a ``LABELS`` table, ordered by key.

    mask_good, inpainting_good: share of the reviewers who judged it that said good, NaN where none did. reviewers:
    how many judged anything. A key that anyone met in the audit queue is an audit sample, with that queue's weight;
    of the others queue and weight are the first judgement's. Scores are those of the last judgement.
    """
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in current(table).to_pylist():
        groups[row["key"]].append(row)
    rows = []
    for key, judged in sorted(groups.items()):
        shown = next((row for row in judged if row["queue"] == AUDIT and row["weight"] > 0), judged[0])
        rows.append(
            {
                "key": key,
                "mask_good": _share(row["mask"] for row in judged),
                "inpainting_good": _share(row["inpainting"] for row in judged),
                "reviewers": len(judged),
                "weight": shown["weight"],
                "mask_score": judged[-1]["mask_score"],
                "inpainting_score": judged[-1]["inpainting_score"],
                "queue": shown["queue"],
            }
        )
    return pa.Table.from_pylist(rows, schema=CONSENSUS)


def kappa(table: pa.Table) -> dict[str, Any]:
    """Return how far reviewers agree, for "mask" and "inpainting": {"n", "agreement", "kappa", "pairs"}.

    n: samples that two reviewers judged, each pair of reviewers counted. agreement: share of them with the same
    answer. kappa: Cohen's (1960), for several pairs their mean weighted by n; NaN where it is not defined: nothing
    in common, or everybody always gave one answer. pairs: the same for each pair, with the names "a" and "b".
    """
    rows = current(table).select(["key", "reviewer", "mask", "inpainting"]).to_pylist()
    result = {}
    for task in ("mask", "inpainting"):
        answers: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        for row in rows:
            if row[task]:
                answers[row["reviewer"]][row["key"]] = row[task] == "good"
        pairs = []
        for a, b in combinations(sorted(answers), 2):
            common = sorted(answers[a].keys() & answers[b].keys())
            if common:
                both = np.array([[answers[a][key], answers[b][key]] for key in common])
                pairs.append({"a": a, "b": b, **_cohen(both)})
        result[task] = _pooled(pairs) | {"pairs": pairs}
    return result


def _cohen(both: np.ndarray) -> dict[str, Any]:
    """both: bool [N, 2], the answers of two reviewers to the same samples."""
    observed = float((both[:, 0] == both[:, 1]).mean())
    p, q = both.mean(axis=0)
    chance = p * q + (1 - p) * (1 - q)
    kappa = (observed - chance) / (1 - chance) if chance < 1 else float("nan")
    return {"n": len(both), "agreement": observed, "kappa": float(kappa)}


def _pooled(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    defined = [pair for pair in pairs if not np.isnan(pair["kappa"])]
    return {
        "n": sum(pair["n"] for pair in pairs),
        "agreement": _mean(pairs, "agreement"),
        "kappa": _mean(defined, "kappa"),
    }


def _mean(pairs: list[dict[str, Any]], name: str) -> float:
    if not pairs:
        return float("nan")
    return float(np.average([pair[name] for pair in pairs], weights=[pair["n"] for pair in pairs]))


def _share(answers: Any) -> float:
    given = [answer == "good" for answer in answers if answer]
    return sum(given) / len(given) if given else float("nan")


def _lists(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _unique(tables: list[pa.Table]) -> pa.Table:
    """Put tables together, each id once, ordered by time."""
    table = pa.concat_tables(tables) if tables else LABELS.empty_table()
    first = {id: place for place, id in reversed(list(enumerate(table["id"].to_pylist())))}
    return table.take(pa.array(sorted(first.values()), pa.int64())).sort_by("time")


def read_table(url: str) -> pa.Table:
    """Read a parquet file of any columns. Raises OutputError where it is missing or damaged."""
    with storage.open_read(url, cache="none") as file:
        try:
            return pq.read_table(file, use_threads=False)
        except L2IError:
            raise
        except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
            raise _no_labels(url, problem) from problem


def _read_parquet(url: str) -> pa.Table:
    """Read exported labels. Raises OutputError where they are missing, damaged or something else."""
    table = read_table(url)
    try:
        return table.select(LABELS.names).cast(LABELS)
    except (KeyError, ValueError, pa.ArrowException) as problem:
        raise _no_labels(url, problem) from problem


def _no_labels(url: str, problem: Exception) -> OutputError:
    return OutputError(
        f"{url} is no table of labels: {' '.join(str(problem).split())[:200]}. "
        "Give what `l2i labels export` wrote, or bring other tables in with `l2i labels import`."
    )
