"""``l2i train-filters`` and ``l2i calibrate``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from l2i_builder.commands import OutArgument, console, log

if TYPE_CHECKING:
    from l2i_builder.judge.calibrate import Calibration, Interval, Report


def train_filters(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the heads and their cards.")] = Path("runs/heads"),
    tag: Annotated[str, typer.Option(help="Version: heads are called mask-TAG and inpainting-TAG.")] = "mine",
    data: Annotated[
        Path, typer.Option("--data", help="Folder of the bootstrapped labels; made where there are none.")
    ] = Path("runs/labels"),
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help="Run folder whose labels (l2i review) are mixed in. Repeatable."),
    ] = None,
    bootstrap_weight: Annotated[
        float, typer.Option(help="Weight of a bootstrapped label beside a person's, which weighs 1.", min=0.0)
    ] = 0.2,
    scenes: Annotated[int, typer.Option(help="Scenes to make, where labels have to be bootstrapped.", min=1)] = 110,
    plain: Annotated[bool, typer.Option("--plain", help="The paper's form: one neuron on pooled features.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train the two filters' heads, from bootstrapped labels and people's.

    Features are computed once and kept; training takes seconds. A head never replaces another: give a new --tag.

    Examples:

      l2i train-filters

      l2i train-filters --labels runs/laion --bootstrap-weight 0.2 --out runs/heads --tag v3
    """
    from classifiers.command import train_filters as train

    cards = train(folder, tag, data, labels or [], bootstrap_weight, scenes, plain, seed, log)
    table = Table("head", "trained on", "labels of people", "AUC", "precision", "kept", "threshold")
    for card in cards:
        test, made = card["test"], card["data"]
        figures = (_shown(test[key]) for key in ("auc", "field precision", "field yield"))
        people = str(made.get("labels of people", 0))
        table.add_row(card["name"], str(made["training samples"]), people, *figures, f"{card['threshold']:.3f}")
    console.print(table)
    console.print(
        f"[dim]Figures of the test side, with 95 % intervals; precision and kept of what the pipeline itself makes. "
        f"Use them: --set judge.mask.head={folder}/mask-{tag}.json[/dim]",
        soft_wrap=True,
    )


def calibrate(
    out: OutArgument,
    labels: Annotated[str, typer.Option(help="Labels (.sqlite, .parquet, run folder). Default: the run's own.")] = "",
    precision: Annotated[
        float, typer.Option(help="Share of good ones wanted among what each filter keeps.", min=0.01, max=1.0)
    ] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Propose thresholds for a wanted precision from people's labels of the audit slice, and what they cost.

    Examples:

      l2i calibrate runs/laion --precision 0.9
    """
    from l2i_builder.judge.calibrate import calibrate as propose

    with log.status("reading ledgers and labels"):
        report = propose(out, labels, precision)
    if as_json:
        console.print_json(json.dumps(report.to_json()))
        return
    _print(report, out)


def _print(report: Report, out: str) -> None:
    table = Table("filter", "labels (bad)", "threshold", "precision", "recall", "kept")
    for found in report.judges:
        name, counts = f"{found.task} ({', '.join(found.heads)})", f"{found.labels} ({found.bad})"
        if found.current is not None:
            now = (f"{found.current:.3f} now", _shown(found.current_precision), "", _shown(found.current_yield))
            table.add_row(name, counts, *now)
            name = counts = ""
        new = (found.threshold, found.precision, found.recall, found.kept)
        table.add_row(name, counts, *(_shown(value) for value in new), style="bold", end_section=True)
    table.add_row("both", "", "", _shown(report.precision), "", _shown(report.kept))
    console.print(table)
    console.print(
        f"[dim]Wanted precision {report.wanted:.2f}; {report.audit_rows:,} audit rows; 95 % intervals. Kept: of rows "
        "with a mask; for the inpainting, of those whose mask is kept.[/dim]"
    )
    for found in report.judges:
        if found.advice:
            console.print(found.advice, style="yellow", soft_wrap=True, markup=False)
    chosen = " ".join(_setting(found) for found in report.judges if not math.isnan(found.threshold[0]))
    if chosen:
        target = f"{out.rstrip('/')}-calibrated"
        console.print(f"Apply them: l2i refilter {out} --to {target} {chosen}", soft_wrap=True, markup=False)


def _setting(found: Calibration) -> str:
    return f"--set judge.{found.task}.threshold={found.threshold[0]:.4f}"


def _shown(value: Interval | list[float]) -> str:
    """A value and its interval: 0.91 [0.85, 0.95]."""
    if value[0] is None or math.isnan(value[0]):
        return "–"
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
