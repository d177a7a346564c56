"""The results as one JSON and one HTML page, shaped as the paper's Tables I to III."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2i_builder.metrics import interval


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval, None where one sample gives none, and sample count; ``value`` None where it is
    undefined, and ``why``."""

    value: float | None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    why: str = ""


@dataclass
class Result:
    """A row: a model's measures by column name."""

    model: str
    what: str
    resolution: int
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of a table: the measure's name, and whether more is better."""

    name: str
    more: bool
    digits: int = 3


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[Column]
    rows: list[Result]
    notes: list[str]


def mean(values: np.ndarray) -> Cell:
    """Return the mean of float [N], NaN left out, with its bootstrap interval."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Cell(None, why="no sample has it")
    low, high = interval(lambda chosen: float(known[chosen].mean()), np.arange(len(known)))
    return Cell(float(known.mean()), low, high, len(known))


def to_json(tables: Sequence[Table], facts: dict[str, Any]) -> bytes:
    """Return the tables and the facts of the run; the same results give the same bytes."""
    content = {
        "facts": facts,
        "tables": [
            {
                "title": table.title,
                "columns": [column.name for column in table.columns],
                "notes": table.notes,
                "rows": [
                    {
                        "model": row.model,
                        "what": row.what,
                        "resolution": row.resolution,
                        "cells": {
                            column.name: _plain(row.cells[column.name])
                            for column in table.columns
                            if column.name in row.cells
                        },
                    }
                    for row in table.rows
                ],
            }
            for table in tables
        ],
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def to_html(tables: Sequence[Table], facts: dict[str, Any]) -> bytes:
    """Return one self-contained page. The best value of a column is bold; bars of intervals are in the cells."""
    import jinja2

    source = (Path(__file__).parent / "tables.html.j2").read_text("utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    return template.render(tables=tables, facts=_lines(facts), show=_show, best=_best).encode()


def _lines(facts: dict[str, Any]) -> dict[str, list[str]]:
    """Return each fact as lines for people: an entry of a list or dictionary is a line."""
    lines = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            lines[name] = [f"{key}: {each}" for key, each in value.items()]
        elif isinstance(value, list):
            lines[name] = [", ".join(f"{key} {each}" for key, each in entry.items()) for entry in value]
        else:
            lines[name] = [str(value)]
    return lines


def _show(cell: Cell, digits: int) -> str:
    if cell.value is None:
        return "undefined"
    return f"{cell.value:.{digits}f}"


def _best(table: Table, column: Column) -> float | None:
    """Return the best value of a column, None where fewer than two rows have one."""
    found = [row.cells[column.name].value for row in table.rows if column.name in row.cells]
    values = [value for value in found if value is not None]
    if len(values) < 2:
        return None
    return max(values) if column.more else min(values)


def _plain(cell: Cell) -> dict[str, Any]:
    if cell.value is None or not math.isfinite(cell.value):
        return {"value": None, "why": cell.why}
    return {"value": cell.value, "low": cell.low, "high": cell.high, "samples": cell.samples}
