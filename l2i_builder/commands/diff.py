"""``l2i diff``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from l2i_builder.commands import console, log

if TYPE_CHECKING:
    from l2i_builder.diff.versions import Difference

MEANINGS = {
    "added": "keys only B has",
    "removed": "keys only A has",
    "verdict": "another verdict or reason",
    "content": "another file behind the same URL",
    "pixels": "other pictures, by hash",
    "split": "in another split",
    "caption": "the same URL with another caption (among added and removed)",
}
SHOWN = 20  # changes of verdict, and settings


def diff(
    a: Annotated[str, typer.Argument(help="Output folder of a run, or a published folder; local or URL.")],
    b: Annotated[str, typer.Argument(help="The same, later.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    listed: Annotated[
        str, typer.Option("--list", help="Write every difference to this parquet file.", show_default=False)
    ] = "",
) -> None:
    """Compare two versions of a dataset: keys, verdicts, files and pictures by hash, funnel, settings.

    Of an output folder and a published one, kept samples are compared. Exit status as of diff: 0 the same samples
    with the same verdicts and pictures, 1 differences; others are errors.

    Examples:

      l2i diff runs/laion runs/laion-strict

      l2i diff runs/laion /data/l2i --list changes.parquet
    """
    from l2i_builder.diff.versions import compare

    with log.status("reading both"):
        found = compare(a, b, listed)
    if as_json:
        console.print_json(json.dumps(found.to_json()))
    else:
        _print(found)
    raise typer.Exit(0 if found.same else 1)


def _print(found: Difference) -> None:
    table = Table("step", box=None, pad_edge=False)
    for heading in ("A", "B", "change"):
        table.add_column(heading, justify="right")
    for line in found.funnel:
        counts = [line["a"], line["b"]]
        change = f"{counts[1] - counts[0]:+,}" if None not in counts else ""
        table.add_row(line["step"], *("–" if count is None else f"{count:,}" for count in counts), change)
    console.print(table)
    console.print()
    kinds = Table("samples", box=None, pad_edge=False)
    kinds.add_column("", justify="right")
    kinds.add_column("for example")
    kinds.add_row("keys of both", f"{found.common:,}", "")
    for kind, meaning in MEANINGS.items():
        if found.counts[kind]:
            example = found.examples[kind][0]["key"][:12]
            kinds.add_row(meaning, f"{found.counts[kind]:,}", example)
    console.print(kinds)
    if found.verdicts:
        changes = Table("was", "is", box=None, pad_edge=False)
        changes.add_column("rows", justify="right")
        for (before, after), rows in sorted(found.verdicts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]:
            changes.add_row(before, after, f"{rows:,}")
        console.print()
        console.print(changes)
    if found.settings:
        console.print("\nmade with other settings (A -> B):")
        for setting in found.settings[:SHOWN]:
            console.print(f"  {setting}", markup=False, soft_wrap=True)
        if len(found.settings) > SHOWN:
            console.print(f"  and {len(found.settings) - SHOWN} more")
    console.print("\nthe same samples" if found.same else "\nthey differ")
