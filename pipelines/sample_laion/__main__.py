"""``python -m pipelines.sample_laion --out FOLDER``: gather the photographs and write the metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from l2i_builder.errors import L2IError
from pipelines.sample_laion import gather


def main(out: Annotated[Path, typer.Option(help="folder to fill; what is there already is not fetched again")]) -> None:
    """Gather real photographs with captions and licences, and write LAION-shaped metadata that links to them."""
    try:
        sample = gather(out)
    except L2IError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    typer.echo(f"{sample.photos} photographs, {sample.rows} rows in {sample.metadata}")


if __name__ == "__main__":
    typer.run(main)
