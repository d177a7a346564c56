"""``l2i verify`` and ``l2i report``."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from l2i_builder.commands import OutArgument, console, log
from l2i_builder.commands.shardbar import shard_bar
from l2i_builder.errors import VerifyError

EVERY = 60.0  # seconds between lines


def verify(
    out: OutArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every triplet and check its layers.")] = False,
    digest: Annotated[str, typer.Option(help="Output digest from a trusted source.", show_default=False)] = "",
) -> None:
    """Prove a run complete and undamaged: counts, digests, ledgers against shards, every row accounted for.

    Prints the output's digest: with --digest, any change is found, also one that fits together.
    """
    from l2i_builder.output.verify import output_digest
    from l2i_builder.output.verify import verify as check

    with shard_bar(log, "verifying") as progress:
        findings = check(out, deep, progress)
    for finding in findings:
        console.print(finding.file, style="red" if finding.serious else "yellow", end=": ", markup=False)
        console.print(f"{finding.what}\n  {finding.advice}", soft_wrap=True, markup=False)
    serious = sum(finding.serious for finding in findings)
    if serious:
        raise VerifyError(f"{serious} of {len(findings)} findings in {out} are damage.")
    found = output_digest(out)
    if digest and digest.lower() != found:
        raise VerifyError(f"{out} fits together, but is not the output of that digest: its own is {found}.")
    console.print(f"{out}: complete and undamaged" + (", every triplet decodes" if deep else ""), soft_wrap=True)
    console.print(f"output digest {found}", soft_wrap=True)


def report(
    out: OutArgument,
    compare: Annotated[
        str, typer.Option(help="Output folder or report.json of another run. Default: this folder's last report.")
    ] = "",
    labels: Annotated[
        str,
        typer.Option(help="Labels: .sqlite, .parquet or folder, local or URL (parquet). Default: the output folder."),
    ] = "",
    samples: Annotated[
        int, typer.Option(min=0, max=20_000, help="Strips in the galleries; above 160 the others go to report-files/.")
    ] = 160,
    cpu_price: Annotated[float, typer.Option(min=0, help="Dollars per CPU-hour.")] = 0.04,
    gpu_price: Annotated[
        float | None,
        typer.Option(min=0, help="Dollars per GPU-hour, where the models ran on GPUs.", show_default=False),
    ] = None,
    storage_price: Annotated[float, typer.Option(min=0, help="Dollars per GB and month of what is stored.")] = 0.023,
) -> None:
    """Write the filter report of a run: report.html, one self-contained file, and report.json.

    Examples:

      l2i report runs/sample

      l2i report s3://me/l2i --compare s3://me/l2i-before --gpu-price 1.5 --samples 2000
    """
    from l2i_builder.report import write_report
    from l2i_builder.report.options import Options, Prices

    prices = Prices(cpu_price, gpu_price, storage_price)
    with Progress(console=log, transient=True) as bar:
        task = bar.add_task("counting shards", total=None)
        told = Lines(log)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            told(done, total)

        url = write_report(out, Options(compare, labels, samples, prices, tell))
    console.print(url, soft_wrap=True)


class Lines:
    """Where there is no terminal for a bar: a line a minute, of work that takes longer than that."""

    def __init__(self, to: Console) -> None:
        self.to, self.told = to, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if not self.to.is_terminal and time.monotonic() - self.told > EVERY:
            self.told = time.monotonic()
            self.to.print(f"{done:,} of {total:,} shards counted")
