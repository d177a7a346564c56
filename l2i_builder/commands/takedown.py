"""``l2i takedown``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from l2i_builder.commands import OutArgument, console, log
from l2i_builder.commands.shardbar import shard_bar
from l2i_builder.errors import ConfigError

Several = Annotated[list[str] | None, typer.Option(help="Repeatable.", show_default=False)]


def takedown(
    out: OutArgument,
    key: Several = None,
    url: Several = None,
    sha256: Annotated[list[str] | None, typer.Option("--sha256", help="Of the fetched file. Repeatable.")] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", help="File with a URL, key or SHA-256 a line.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Shards at once.", min=1)] = 4,
) -> None:
    """Take samples down: rewrite the shards that hold them or a copy, and keep them out for good.

    Their ledger lines become tombstones; takedowns.jsonl keeps their hashed identifiers, so that no later build
    brings them back. Safe to interrupt: run it again, also without identifiers, to finish.

    Examples:

      l2i takedown runs/laion --url https://example.org/me.jpg

      l2i takedown s3://me/l2i --list requests.txt
    """
    from l2i_builder.output.takedown import read_list, take_down
    from l2i_builder.output.tombstones import Identifier
    from l2i_builder.report import write_report

    given = {"key": key, "url": url, "sha256": sha256}
    identifiers = [Identifier.of(kind, value) for kind, values in given.items() for value in values or ()]
    if listed is not None:
        try:
            identifiers += read_list(listed.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the list {listed} cannot be read: {error}. Give a text file, one a line.") from error
    try:
        with shard_bar(log, "taking down") as progress:
            result = take_down(out, identifiers, progress, workers)
    except KeyboardInterrupt:
        log.print("Stopped. Nothing is lost and the list is kept; run `l2i takedown` again to finish.")
        raise typer.Exit(130) from None
    for identifier in result.unknown:
        console.print(f"in no ledger, kept out of later builds: {identifier.value}", soft_wrap=True, markup=False)
    write_report(out)
    console.print(
        f"{result.rows:,} rows are gone from {result.shards:,} shards of {out}. Copies elsewhere (refiltered versions, "
        "published folders, old versions that an object store keeps) need the same.",
        soft_wrap=True,
    )
