"""``python -m model.study --out runs/study``: trains and measures what the paper's Tables I to III compare.

Each row of each seed is a process with one thread, a few at a time; its folder under the output folder holds its log,
its models and, once finished, ``done.json``. Stopped and run again, the study goes on.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from l2i_builder.errors import L2IError
from model.study.plan import Budget


def main(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/study"),
    seeds: Annotated[int, typer.Option(help="Each has its own scenes, segmenter, filter and models.")] = Budget.seeds,
    autoencoder_steps: Annotated[int, typer.Option(help="Optimiser steps.")] = Budget.autoencoder_steps,
    diffusion_steps: Annotated[int, typer.Option(help="Optimiser steps; a third for the fine-tuned row.")] = (
        Budget.diffusion_steps
    ),
    samples: Annotated[int, typer.Option(help="Captions that each row is measured on.")] = Budget.samples,
    processes: Annotated[int, typer.Option(help="At a time, each with one thread.")] = 2,
    job: Annotated[str, typer.Option(help="Do this one job of the study only, in this process.")] = "",
) -> None:
    """Compare layered models, the paper's baselines and filtered with unfiltered masks on toy scenes."""
    console = Console(highlight=False)
    try:
        if job:
            from model.study.work import work

            work(out, job, console)
            return
        from model.study.run import run

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that jobs are stopped, too
        budget = Budget(
            seeds=seeds, autoencoder_steps=autoencoder_steps, diffusion_steps=diffusion_steps, samples=samples
        )
        run(budget, out, processes, console)
    except L2IError as error:
        console.print(f"[red]error[/red] {error}", markup=True, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; run the same command again to go on")
        sys.exit(130)


if __name__ == "__main__":
    typer.run(main)
