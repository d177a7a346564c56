"""``l2i review`` and ``l2i labels export | import | agreement``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from l2i_builder.commands import OutArgument, console, log

app = typer.Typer(help="The labels of a run: to parquet, from parquet, and how far reviewers agree.")

LabelsOption = Annotated[
    str, typer.Option("--labels", help="Label file (.sqlite). Default: labels.sqlite in the run's folder.")
]


def review(
    out: OutArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own asks for a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = any free one.")] = 8765,
    token: Annotated[str, typer.Option(help="Ask for this token.", envvar="L2I_REVIEW_TOKEN")] = "",
    labels: LabelsOption = "",
    shards: Annotated[int, typer.Option(min=0, help="Shards to open, drawn by a hash; 0 = all.")] = 64,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Another name under which the page is opened. Repeatable.")
    ] = None,
) -> None:
    """Judge samples of a run in the browser: masks and inpaintings, kept and rejected ones.

    Several people can judge at once. Judgements go to labels.sqlite in the run's folder; for a run in an object
    store, to a file in the current folder.
    """
    from l2i_builder.review.server import Address
    from l2i_builder.review.server import review as serve

    serve(out, Address(host, port, token, tuple(allow_host or ())), labels, shards, log)


@app.command("export")
def export_labels(
    out: OutArgument,
    to: Annotated[str, typer.Option(help="Parquet file or URL. Default: labels.parquet in the run's folder.")] = "",
    labels: LabelsOption = "",
) -> None:
    """Write all judgements as parquet, also undone ones: nothing is lost, and it can be imported again."""
    from l2i_builder import storage
    from l2i_builder.labels import PARQUET, read_labels, write_labels

    table = read_labels(_location(out, labels))
    url = to or storage.join(out, PARQUET)
    write_labels(table, url)
    console.print(f"{len(table):,} judgements  {url}", soft_wrap=True)


@app.command("import")
def import_labels(
    out: OutArgument,
    source: Annotated[str, typer.Argument(help="Parquet with key, reviewer and mask or inpainting (good, bad).")],
    labels: LabelsOption = "",
) -> None:
    """Add judgements from parquet. Those that are there already are not added again."""
    from l2i_builder.errors import OutputError
    from l2i_builder.labels import LabelStore, read_table
    from l2i_builder.report.run import open_run
    from l2i_builder.review.server import labels_path

    table = read_table(source)
    with LabelStore(labels_path(out, labels, open_run(out).digest)) as store:
        try:
            added = store.import_(table)
        except ValueError as problem:
            raise OutputError(f"{source}: {problem} Nothing was imported; mend the file and try again.") from problem
        console.print(f"{added:,} of {len(table):,} judgements added  {store.path}", soft_wrap=True)


@app.command("agreement")
def agreement(out: OutArgument, labels: LabelsOption = "") -> None:
    """How far reviewers agree: Cohen's kappa of every pair with samples in common."""
    from l2i_builder.labels import current, kappa, read_labels

    judgements = read_labels(_location(out, labels))
    table = Table("", "reviewers", "samples", "agreement", "kappa")
    for task, result in kappa(judgements).items():
        for pair in result["pairs"]:
            names = escape(f"{pair['a']} · {pair['b']}")
            table.add_row(task, names, f"{pair['n']:,}", f"{pair['agreement']:.1%}", _number(pair["kappa"]))
        if len(result["pairs"]) > 1:
            numbers = f"{result['n']:,}", f"{result['agreement']:.1%}", _number(result["kappa"])
            table.add_row(task, "all pairs", *numbers, style="bold")
    if not table.row_count:
        console.print(f"{len(current(judgements)):,} judgements, none of a sample that two people judged.")
        console.print("The queue of second opinions in `l2i review` leads to some.")
        return
    console.print(table)


def _location(out: str, labels: str) -> str:
    """Return where to read labels: as given, else the run's folder, else what ``l2i review`` wrote for it here."""
    from l2i_builder import storage
    from l2i_builder.report.run import open_run
    from l2i_builder.review.server import labels_path

    if labels:
        return labels
    run = open_run(out)
    beside = labels_path(out, "", run.digest)
    return beside if not storage.is_local(out) and storage.exists(beside) else out


def _number(value: float) -> str:
    return "not defined" if value != value else f"{value:.2f}"
