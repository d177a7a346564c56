"""The report of a run: one self-contained HTML page, and the same numbers as JSON.

Imports stay inside the functions: the encode stage imports ``report.strip`` and nothing else of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l2i_builder.report.options import Options
    from l2i_builder.report.steps import Funnel


def write_report(out: str, options: Options | None = None) -> str:
    """Write ``report.html`` and ``report.json`` into an output folder; return the URL of the page.

    Works on finished shards alone, so also while a build is going on or where nothing was kept.
    Raises OutputError where the folder holds no run, a finished shard's ledger is damaged, or what the options name
    cannot be read.
    """
    from l2i_builder.report.options import Options
    from l2i_builder.report.page import write

    return write(out, options or Options())


def funnel(out: str) -> Funnel:
    """Return how many rows are left after each step, over the finished shards. Raises as ``write_report``."""
    from l2i_builder.report.run import open_run
    from l2i_builder.report.scan import scan_reasons
    from l2i_builder.report.steps import make_funnel

    run = open_run(out)
    return make_funnel(scan_reasons(run), run.finished_rows)
