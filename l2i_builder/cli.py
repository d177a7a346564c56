"""The command line ``l2i``: puts the commands together, and turns errors into a sentence and an exit status."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from l2i_builder import __version__
from l2i_builder.commands import (
    build,
    console,
    diff,
    export,
    filters,
    generate,
    inspect,
    log,
    publish,
    refilter,
    review,
    splits,
    stats,
    takedown,
    train,
    weights,
)
from l2i_builder.errors import L2IError

EXIT_CODES = """
[bold]Exit status[/bold]: 0 done · 1 other error · 2 configuration · 3 metadata · 4 weights · 5 output ·
6 shards failed every attempt · 7 verify found damage · 8 cluster · 130 interrupted (run again to go on)
"""

app = typer.Typer(
    name="l2i",
    help="Turn image-text pairs into text-paired layered images: foreground, background, mask, caption.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(build.build)
app.command()(build.status)
app.command()(inspect.verify)
app.command()(inspect.report)
app.command()(refilter.refilter)
app.command()(splits.splits)
app.command()(stats.stats)
app.command()(takedown.takedown)
app.command()(export.export)
app.command()(publish.publish)
app.command()(diff.diff)
app.command()(review.review)
app.add_typer(review.app, name="labels", no_args_is_help=True)
app.command()(filters.calibrate)
app.command()(filters.train_filters)
app.command()(generate.generate)
app.command()(generate.evaluate)
app.command()(train.train_autoencoder)
app.command()(train.train_diffusion)
app.command()(train.cache_latents)
app.add_typer(weights.app, name="weights", no_args_is_help=True)


def main() -> None:
    """Run the CLI; an error the user can mend is one sentence and an exit status, never a traceback."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        app()
    except L2IError as error:
        log.print(f"[bold red]{type(error).__name__.removesuffix('Error')}:[/bold red]", end=" ")
        log.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _version(value: bool) -> None:
    if value:
        console.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
