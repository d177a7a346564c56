"""The command line: ``l2i build | status | verify | report | weights``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from l2i_builder import __version__
from l2i_builder.errors import L2IError, VerifyError

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
weights_app = typer.Typer(help="The pretrained weights: what there is, where from, under which licence.")
app.add_typer(weights_app, name="weights", no_args_is_help=True)
console = Console(highlight=False)
log = Console(stderr=True, highlight=False)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; pipelines/ has ready ones.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="One key, e.g. inpaint.backend=lama. Repeatable.")
]
OutArgument = Annotated[str, typer.Argument(help="Output folder of a run, or its URL.")]


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


@app.command()
def build(
    config: ConfigFile = None,
    metadata: Annotated[str | None, typer.Option(help="Parquet file, folder or glob; local or URL.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder; local or URL.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan, actors, hours and cost; run nothing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Fetch rows again whose failure was transient.")
    ] = False,
    inline: Annotated[bool, typer.Option("--inline", help="One process, no Ray: for debugging.")] = False,
    gpu_price: Annotated[float, typer.Option(help="Dollars per GPU-hour, for --dry-run.")] = 1.5,
    cpu_price: Annotated[float, typer.Option(help="Dollars per CPU-hour, for --dry-run.")] = 0.04,
) -> None:
    """Build shards of layered images from metadata. Finished shards are skipped: run it again to go on.

    Examples:

      l2i build --metadata laion/ --out runs/laion

      l2i build -c pipelines/cluster.yaml --metadata s3://laion/meta --out s3://me/l2i --dry-run
    """
    from l2i_builder.configfile import load_config

    settings = load_config(config, overrides or (), metadata=metadata, out=out)
    if dry_run:
        from l2i_builder.run.dryrun import dry_run as plan_only

        plan_only(settings, console, gpu_price, cpu_price)
        return
    from l2i_builder.run.build import build as run

    try:
        result = run(settings, log, inline=inline, retry_failed=retry_failed)
    except KeyboardInterrupt:
        log.print("Stopped. Finished shards are kept; run the same command again to go on.")
        raise typer.Exit(130) from None
    finally:
        _outcome(settings.out)
    console.print(f"\nshards  {result.out}/shards\nreport  {result.report}", soft_wrap=True)


@app.command()
def status(out: OutArgument) -> None:
    """How far a run is: shards finished, the funnel so far. Reads only the output folder."""
    from l2i_builder.run.status import print_status

    print_status(out, console)


@app.command()
def verify(
    out: OutArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every triplet and check its layers.")] = False,
) -> None:
    """Prove a run complete and undamaged: counts, digests, ledgers against shards, every row accounted for."""
    from l2i_builder.output.verify import verify as check

    with log.status("verifying"):
        findings = check(out, deep)
    for finding in findings:
        console.print(finding.file, style="red" if finding.serious else "yellow", end=": ", markup=False)
        console.print(f"{finding.what}\n  {finding.advice}", soft_wrap=True, markup=False)
    serious = sum(finding.serious for finding in findings)
    if serious:
        raise VerifyError(f"{serious} of {len(findings)} findings in {out} are damage.")
    console.print(f"{out}: complete and undamaged" + (", every triplet decodes" if deep else ""), soft_wrap=True)


@app.command()
def report(out: OutArgument) -> None:
    """Write the filter report of a run (report.html, one self-contained file, and report.json)."""
    from l2i_builder.report import write_report

    console.print(write_report(out), soft_wrap=True)


@weights_app.command("list")
def weights_list() -> None:
    """List all weights: what for, size, licence, source, and whether they are on this machine."""
    from l2i_builder.weights import registry

    table = Table("name", "for", "MB", "licence", "source", "here")
    for name, entry in registry.REGISTRY.items():
        here = "yes" if registry.cached(name) else ""
        table.add_row(name, entry.what, f"{entry.size / 1e6:.1f}", entry.licence, entry.source, here)
    console.print(table)


@weights_app.command("pull")
def weights_pull(names: Annotated[list[str], typer.Argument(help="Names from `l2i weights list`.")]) -> None:
    """Fetch weights into the cache and check their SHA-256."""
    from l2i_builder.weights import registry

    for name in names:
        with log.status(f"fetching {name}"):
            path = registry.pull(name)
        console.print(f"{name}  {path}", soft_wrap=True)


@weights_app.command("verify")
def weights_verify(names: Annotated[list[str] | None, typer.Argument(help="Default: all cached ones.")] = None) -> None:
    """Check cached weights against their pinned SHA-256."""
    from l2i_builder.weights import registry

    for name in names or [name for name in registry.REGISTRY if registry.cached(name)]:
        registry.verify(name)
        console.print(f"{name}  good")


def _outcome(out: str) -> None:
    """Print the funnel of what is committed; silent where nothing is."""
    from l2i_builder.output import manifest
    from l2i_builder.report import funnel

    if out and manifest.finished(out):
        console.print(funnel(out).table())


if __name__ == "__main__":
    main()
