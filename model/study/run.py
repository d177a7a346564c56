"""Runs the study's jobs, a few processes at a time, and writes the tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from l2i_builder.errors import L2IError
from model.study.plan import DONE, Budget, Job, jobs
from model.study.score import read_scores
from model.study.summary import write_summary

LOG = "log.txt"  # in a job's folder: what its process printed
POLL = 0.5  # seconds


class StudyError(L2IError):
    """A job of the study failed."""


def run(budget: Budget, out: Path, processes: int, console: Console) -> None:
    """Do what is left of a study and write its tables. Raises ConfigError, StudyError; what stops it ends all jobs."""
    budget.claim(out)
    everything = jobs(budget)
    left = [job for job in everything if not job.done(out)]
    console.print(f"{len(everything) - len(left)} of {len(everything)} jobs are done, {len(left)} left; folder {out}")
    running: dict[str, subprocess.Popen[bytes]] = {}
    began: dict[str, float] = {}
    failed: list[str] = []
    try:
        while running or (left and not failed):
            for job in _ready(left, everything, out) if not failed else []:
                if len(running) < processes:
                    left.remove(job)
                    running[job.name], began[job.name] = _start(job, out), time.monotonic()
                    console.print(f"{job.name}: begun")
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode:
                    failed.append(name)
                else:
                    _tell(name, time.monotonic() - began[name], len(left) + len(running), out, console)
                    if read_scores(out, budget.seeds):
                        write_summary(budget, out)  # so far
            time.sleep(POLL)
    finally:
        _stop(running)
    if failed:
        last = (out / failed[0] / LOG).read_text().strip().splitlines()[-3:]
        raise StudyError(
            f"{failed[0]} failed: {' '.join(last)} (all of it: {out / failed[0] / LOG}); run again to go on"
        )
    console.print(write_summary(budget, out))
    console.print(f"tables  {out}/results.html results.md results.json")


def _ready(left: list[Job], everything: list[Job], out: Path) -> list[Job]:
    done = {job.name for job in everything if job.done(out)}
    return [job for job in left if done.issuperset(job.needs)]


def _start(job: Job, out: Path) -> subprocess.Popen[bytes]:
    folder = out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "model.study", "--out", str(out), "--job", job.name],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | one,
        )


def _tell(name: str, seconds: float, left: int, out: Path, console: Console) -> None:
    cost = json.loads((out / name / DONE).read_text())["cpu_seconds"]
    console.print(f"{name}: done in {seconds / 60:.1f} min ({cost / 60:.1f} CPU min); {left} jobs left")


def _stop(running: dict[str, subprocess.Popen[bytes]]) -> None:
    """End what still runs; trainers write a checkpoint first."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait()
