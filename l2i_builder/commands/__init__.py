"""The commands of ``l2i``, one module for each group; ``cli`` puts them together. Heavy imports stay in functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)
log = Console(stderr=True, highlight=False)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; pipelines/ has ready ones.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="One key, e.g. inpaint.backend=lama. Repeatable.")
]
OutArgument = Annotated[str, typer.Argument(help="Output folder of a run, or its URL.")]
