"""What the card shows of ``l2i stats``: its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from l2i_builder.errors import OutputError
from l2i_builder.publish.markdown import escaped
from l2i_builder.report.run import Run

if TYPE_CHECKING:
    from l2i_builder.statistics.tables import Table


def statistics_section(run: Run, statistics: Mapping[str, Any]) -> str:
    """Return the tables of a dataset's statistics as Markdown, "" where there are none.

    Raises OutputError where they are another run's, or of another version of the project.
    """
    if not statistics:
        return ""
    from l2i_builder.statistics.tables import make_tables

    try:
        tables = make_tables(dict(statistics)) if statistics["run"] == run.digest else None
    except (KeyError, TypeError, ValueError, IndexError):
        tables = None
    if tables is None:
        raise OutputError(
            f"statistics.json in {run.out} is of another run or version. Write it anew with `l2i stats {run.out}`, or "
            "delete it to publish without."
        )
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    lines = [table.head, ["---", *("--:" for _ in table.head[1:])], *table.rows]
    rows = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
    notes = "".join(f"\n*{_cell(note)}*\n" for note in table.notes)
    return f"**{_cell(table.title)}**\n\n{rows}\n{notes}"


def _cell(text: str) -> str:
    return text if set(text) <= set("-:") else escaped(text)
