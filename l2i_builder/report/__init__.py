"""The report of a run: one self-contained HTML page, and the same numbers as JSON.

Imports stay inside the functions: the encode stage imports ``report.strip`` and nothing else of this package.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l2i_builder.report.steps import Funnel


def write_report(out: str) -> str:
    """Write ``report.html`` and ``report.json`` into an output folder; return the URL of the page.

    Works on finished shards alone, so also while a build is going on or where nothing was kept.
    Raises OutputError where the folder holds no run, or a finished shard's ledger or manifest is damaged.
    """
    from l2i_builder.report.page import write

    return write(out)


def funnel(out: str) -> Funnel:
    """Return how many rows are left after each step, over the finished shards. Raises as ``write_report``."""
    from l2i_builder.report.run import ahead, ledger_of, open_run
    from l2i_builder.report.steps import make_funnel

    run = open_run(out)
    counts: Counter[tuple[str, str]] = Counter()
    for ledger in ahead(lambda number: ledger_of(out, number, ("reason", "stage")), run.finished):
        for line in ledger.group_by(["reason", "stage"]).aggregate([([], "count_all")]).to_pylist():
            counts[line["reason"], line["stage"] if line["reason"] else ""] += line["count_all"]
    return make_funnel(counts, run.finished_rows)
