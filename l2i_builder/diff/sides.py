"""One side of a comparison: an output folder with its ledgers, or a published folder with its sidecars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import RUN_FILE
from l2i_builder.publish.release import FACTS, read_release
from l2i_builder.report.compare import settings
from l2i_builder.report.run import ledger_of, open_run
from l2i_builder.report.scan import REMOTE_READERS, ahead, scan_reasons
from l2i_builder.report.steps import Funnel, make_funnel

COLUMNS = ("key", "url", "reason", "sha256", "pixels", "split")
LOCAL_READERS = 4


@dataclass
class Side:
    """published: whether it is a published folder, which has kept samples alone. settings: what it was made with,
    nested; rows: lines in its ledgers or sidecars; read: yields them in blocks, with ``COLUMNS``."""

    name: str
    published: bool
    digest: str
    settings: dict[str, Any]
    funnel: Funnel
    rows: int
    read: Callable[[], Iterator[pa.Table]] = field(repr=False)


def open_side(location: str) -> Side:
    """Open an output folder or a published one. Raises OutputError where it is neither, or damaged."""
    if storage.exists(storage.join(location, RUN_FILE)):
        return _run_side(location)
    if storage.exists(storage.join(location, FACTS)):
        return _published_side(location)
    raise OutputError(f"{location} holds neither {RUN_FILE} nor {FACTS}: give the folder of a run, or a published one.")


def _run_side(location: str) -> Side:
    run = open_run(location)
    funnel = make_funnel(scan_reasons(run), run.finished_rows)
    made = settings({"config": run.config, "weights": run.weights, "input": run.input_digest, "version": run.version})

    def read() -> Iterator[pa.Table]:
        ledger = ("key", "url", "reason", "sha256")
        yield from ahead(lambda number: _even(ledger_of(location, number, ledger)), run.finished, _readers(location))

    return Side(location, False, run.digest, made, funnel, funnel.total, read)


def _published_side(location: str) -> Side:
    release = read_release(location)
    if not release.get("complete"):
        raise OutputError(f"{location} is not completely published. Run that `l2i publish` again first.")
    try:
        counts = Counter({(reason, stage): rows for reason, stage, rows in release["facts"]["counts"]})
        run, names = release["run"], [f"metadata/{name}.parquet" for name, _ in release["shards"]]
        made, rows = settings(run), sum(split["samples"] for split in release["splits"])
        digest = str(run["digest"])
    except (KeyError, TypeError, ValueError) as problem:
        raise OutputError(
            f"{location}/{FACTS} is damaged: {type(problem).__name__} {problem}. Restore it."
        ) from problem

    def read() -> Iterator[pa.Table]:
        yield from ahead(lambda name: _sidecar(storage.join(location, name)), names, _readers(location))

    return Side(location, True, digest, made, make_funnel(counts, sum(counts.values())), rows, read)


def _sidecar(url: str) -> pa.Table:
    data = pa.BufferReader(storage.read_bytes(url))
    try:
        return _even(pq.read_table(data, columns=list(COLUMNS), use_threads=False))
    except (pa.ArrowException, OSError) as problem:
        raise OutputError(f"{url} cannot be read: {' '.join(str(problem).split())[:200]}. Publish again.") from problem


def _even(table: pa.Table) -> pa.Table:
    """Return a table with exactly ``COLUMNS``, as strings; "" where there is nothing."""
    columns = {}
    for name in COLUMNS:
        there = name in table.column_names
        columns[name] = pc.cast(table[name], pa.string()) if there else pa.array([""] * len(table), pa.string())
    return pa.table(columns)


def _readers(location: str) -> int:
    return LOCAL_READERS if storage.is_local(location) else REMOTE_READERS
