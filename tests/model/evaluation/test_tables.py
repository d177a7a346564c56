"""Results as JSON and HTML."""

from __future__ import annotations

import json

import numpy as np

from model.evaluation.tables import Cell, Column, Result, Table, mean, to_html, to_json

ROWS = [
    Result(
        "ours", "runs/<model>", 256, {"FD (x), LA": Cell(12.345, 11.0, 13.5, 2000), "IoU": Cell(0.9, 0.88, 0.92, 7)}
    ),
    Result("theirs", "b", 512, {"FD (x), LA": Cell(14.0, 13.0, 15.0, 2000), "IoU": Cell(None, why="its own judge")}),
    Result("pictures", "c", 256, {"FD (x), LA": Cell(13.0, 12.0, 14.0, 2000)}),
]
TABLE = Table("Table <I>", [Column("FD (x), LA", False, 2), Column("IoU", True)], ROWS, ["a note"])


def test_a_mean_comes_with_interval_and_count() -> None:
    cell = mean(np.array([0.0, 1.0, np.nan, 0.5]))
    assert cell.value == 0.5
    assert cell.samples == 3
    assert cell.low is not None
    assert cell.high is not None
    assert 0 <= cell.low < 0.5 < cell.high <= 1
    assert mean(np.array([np.nan])).value is None


def test_json_holds_every_number_and_why_one_is_missing() -> None:
    data = to_json([TABLE], {"seed": 0})
    content = json.loads(data)
    rows = content["tables"][0]["rows"]
    assert rows[0]["cells"]["FD (x), LA"] == {"value": 12.345, "low": 11.0, "high": 13.5, "samples": 2000}
    assert rows[1]["cells"]["IoU"] == {"value": None, "why": "its own judge"}
    assert "IoU" not in rows[2]["cells"]
    assert content["facts"] == {"seed": 0}
    assert to_json([TABLE], {"seed": 0}) == data


def test_the_page_shows_numbers_intervals_counts_and_the_best() -> None:
    page = to_html([TABLE], {"features": "x, SHA-256 abc", "models": {"a": "b"}, "seen": [{"name": "c"}]}).decode()
    assert "<b>12.35</b>" in page or "<b>12.34</b>" in page
    assert "11.00 to 13.50, n = 2,000" in page
    assert "undefined" in page
    assert "its own judge" in page
    assert "<td>–</td>" in page
    for line in ("x, SHA-256 abc", "a: b", "name c"):
        assert f"<dd>{line}</dd>" in page
    assert "IoU ↑" in page
    assert "FD (x), LA ↓" in page
    assert "<b>0.900</b>" not in page  # alone in its column: nothing to be better than


def test_the_page_escapes_what_it_shows_and_loads_nothing() -> None:
    page = to_html([TABLE], {}).decode()
    assert "runs/&lt;model&gt;" in page
    assert "Table &lt;I&gt;" in page
    assert "http" not in page
    assert "<script" not in page
