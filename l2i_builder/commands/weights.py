"""``l2i weights list | pull | verify``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from l2i_builder.commands import console, log

app = typer.Typer(help="The pretrained weights: what there is, where from, under which licence.")


@app.command("list")
def list_weights() -> None:
    """List all weights: what for, size, licence, source, and whether they are on this machine."""
    from l2i_builder.weights import registry

    table = Table("name", "for", "MB", "licence", "source", "here")
    for name, entry in registry.REGISTRY.items():
        here = "yes" if registry.cached(name) else ""
        table.add_row(name, entry.what, f"{entry.size / 1e6:.1f}", entry.licence, entry.source, here)
    console.print(table)


@app.command("pull")
def pull_weights(names: Annotated[list[str], typer.Argument(help="Names from `l2i weights list`.")]) -> None:
    """Fetch weights into the cache and check their SHA-256."""
    from l2i_builder.weights import registry

    for name in names:
        with log.status(f"fetching {name}"):
            path = registry.pull(name)
        console.print(f"{name}  {path}", soft_wrap=True)


@app.command("verify")
def verify_weights(names: Annotated[list[str] | None, typer.Argument(help="Default: all cached ones.")] = None) -> None:
    """Check cached weights against their pinned SHA-256."""
    from l2i_builder.weights import registry

    for name in names or [name for name in registry.REGISTRY if registry.cached(name)]:
        registry.verify(name)
        console.print(f"{name}  good")
