"""The study's tables over seeds: means, 95 % intervals, paired differences; as JSON, HTML and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from l2i_builder import storage
from model.evaluation.tables import Cell, Column, Result, Table, to_html, to_json
from model.study.plan import ARMS, DONE, FILTERING, JUDGES, LABELS, SEGMENTED, Budget, jobs
from model.study.score import MAKER, THIRD, Scores, read_scores

FD_TEST, FD_LA, RIGHT = "FD (attribute features), LL2I-E", "FD (attribute features), LA", "attributes right"
IOU, IOU_MAKER = f"IoU, {THIRD}", f"IoU, {MAKER}"
IMAGES = [Column(FD_TEST, False, 2), Column(FD_LA, False, 2), Column(RIGHT, True)]
MASKS = [Column(IOU_MAKER, True), Column(IOU, True)]
BACK = [
    Column("PSNR F inside m, dB", True, 1),
    Column("PSNR B, dB", True, 1),
    Column("PSNR composite, dB", True, 1),
    Column("mask IoU", True),
]
TITLES = {arm.name: arm.title for arm in ARMS}
PAIRS = (  # (row, other row, column): what the paper says about them is in docs/study.md
    ("cat2i", "unfiltered", IOU),
    ("true-masks", "cat2i", IOU),
    ("cat2i", "unfiltered", FD_TEST),
    ("cat2i", "no-sup", IOU),
    ("cat2i", "no-sup", FD_TEST),
    ("cat2i", "sd-ae-unet", IOU),
    ("cat2i", "sd-ae-unet", FD_TEST),
    ("cat2i", "sd-ae-unet", RIGHT),
    ("cat2i", "image-only", RIGHT),
    ("cat2i", SEGMENTED, IOU),
)


def student_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return mean and 95 % interval by Student's t; None, None for the interval of a single value."""
    from scipy import stats

    x = np.array(values, float)
    centre = float(x.mean())
    if len(x) < 2:
        return centre, None, None
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return centre, centre - half, centre + half


def tables_of(scores: Scores, size: int) -> list[Table]:
    """Return the paper's tables, each number a mean over seeds."""
    trained = [arm.title for arm in ARMS if arm.labels == "filtered"]
    filtering = [TITLES[name] for name in FILTERING]
    seeds = f"n: seeds ({', '.join(map(str, sorted(scores)))}). Intervals: Student's t over them."
    own = f"The row “{SEGMENTED}” has no number against the segmenter that made its masks: 1 by construction."
    rows = {title: _row(title, scores, size) for title in [*trained, SEGMENTED, *filtering]}
    return [
        Table("Table I. Composites", IMAGES, [rows[title] for title in trained], [seeds]),
        Table("Table II. Masks", MASKS, _with([rows[t] for t in [*trained, SEGMENTED]], MASKS), [seeds, own]),
        Table("Table III. Effect of filtering", [*IMAGES, *MASKS], [rows[title] for title in filtering], [seeds]),
        Table(
            "Autoencoders: what they give back",
            BACK,
            _with([rows[t] for t in dict.fromkeys([*trained, *filtering])], BACK),
            [
                seeds,
                "Of the filtered test scenes with the weak segmenter's masks. Image only: F, B and m do not exist.",
            ],
        ),
    ]


def write_summary(budget: Budget, out: Path) -> str:
    """Write ``results.json``, ``.html`` and ``.md`` from the seeds that are measured; return the Markdown."""
    scores = read_scores(out, budget.seeds)
    facts = _facts(budget, out, sorted(scores))
    tables = tables_of(scores, budget.size)
    differences = _differences(scores)
    storage.write_bytes(str(out / "results.html"), to_html(tables, facts))
    content = json.loads(to_json(tables, facts)) | {"differences": differences, "seeds": scores}
    storage.write_bytes(str(out / "results.json"), (json.dumps(content, indent=1) + "\n").encode())
    text = "\n\n".join([*(_markdown(table) for table in tables), _markdown_differences(differences)]) + "\n"
    storage.write_bytes(str(out / "results.md"), text.encode())
    return text


def _row(title: str, scores: Scores, size: int) -> Result:
    """Return a row whose cells are means over the seeds that have it."""
    columns = {name for rows in scores.values() for name in rows.get(title, {})}
    row = Result(title, "", size)
    for name in columns:
        values = [rows[title][name] for rows in scores.values() if name in rows.get(title, {})]
        mean, low, high = student_interval(values)
        row.cells[name] = Cell(mean, low, high, len(values))
    return row


def _with(rows: list[Result], columns: Sequence[Column]) -> list[Result]:
    return [row for row in rows if any(column.name in row.cells for column in columns)]


def _differences(scores: Scores) -> list[dict[str, Any]]:
    """Return paired differences between rows of the same seeds."""
    found = []
    for one, other, column in PAIRS:
        titles = TITLES.get(one, one), TITLES.get(other, other)
        each = [
            rows[titles[0]][column] - rows[titles[1]][column]
            for rows in scores.values()
            if all(column in rows.get(title, {}) for title in titles)
        ]
        if each:
            mean, low, high = student_interval(each)
            found.append(
                {
                    "row": titles[0], "minus": titles[1], "column": column,
                    "mean": mean, "low": low, "high": high, "each seed": each,
                }
            )  # fmt: skip
    return found


def _facts(budget: Budget, out: Path, seeds: list[int]) -> dict[str, Any]:
    facts: dict[str, Any] = {"budget": asdict(budget)}
    done = [out / job.name / DONE for job in jobs(budget)]
    cost = sum(json.loads(path.read_text())["cpu_seconds"] for path in done if path.is_file())
    facts["CPU minutes, all jobs"] = round(cost / 60, 1)
    facts["judges"] = json.loads((out / JUDGES / "judges.json").read_text())
    facts["labels"] = {
        f"seed {seed}": json.loads((out / f"seed-{seed}" / LABELS / "labels.json").read_text()) for seed in seeds
    }
    return facts


def _markdown(table: Table) -> str:
    head = " | ".join(f"{column.name} {'↑' if column.more else '↓'}" for column in table.columns)
    lines = [f"### {table.title}", "", f"| | {head} |", "|---|" + "---|" * len(table.columns)]
    for row in table.rows:
        cells = [_cell(row.cells.get(column.name), column.digits) for column in table.columns]
        lines.append(f"| {row.model} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *table.notes])


def _markdown_differences(differences: list[dict[str, Any]]) -> str:
    lines = [
        "### Differences, seed by seed",
        "",
        "| | minus | in | mean and interval | each seed |",
        "|---|---|---|---|---|",
    ]
    for line in differences:
        digits = 2 if line["column"].startswith("FD") else 3
        cell = _cell(Cell(line["mean"], line["low"], line["high"]), digits, "+")
        each = ", ".join(f"{value:+.{digits}f}" for value in line["each seed"])
        lines.append(f"| {line['row']} | {line['minus']} | {line['column']} | {cell} | {each} |")
    return "\n".join(lines)


def _cell(cell: Cell | None, digits: int, sign: str = "") -> str:
    if cell is None or cell.value is None:
        return "–"
    if cell.low is None or cell.high is None:
        return f"{cell.value:{sign}.{digits}f}"
    return f"{cell.value:{sign}.{digits}f} ± {(cell.high - cell.low) / 2:.{digits}f}"
