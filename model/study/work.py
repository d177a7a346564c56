"""One job of the study, in a process of its own."""

from __future__ import annotations

import resource
from pathlib import Path

import torch
from rich.console import Console

from l2i_builder import storage
from l2i_builder.output.manifest import pretty
from model.study.labels import make_labels
from model.study.plan import ARMS, DONE, JUDGES, LABELS, Arm, arm_config, read_budget
from model.study.score import make_judges, score
from model.train_autoencoder import train_autoencoder
from model.train_diffusion import train_diffusion


def work(out: Path, name: str, console: Console) -> None:
    """Do a job (see ``plan.jobs``) on one thread, and write ``done.json`` with its CPU seconds into its folder.

    Trainers go on from their checkpoints. Raises what they raise.
    """
    torch.set_num_threads(1)
    budget, folder = read_budget(out), out / name
    if name == JUDGES:
        make_judges(budget, folder)
    else:
        seed, kind = int(folder.parent.name.removeprefix("seed-")), folder.name
        if kind == LABELS:
            make_labels(budget, seed, folder)
        else:
            arm = next(arm for arm in ARMS if arm.name == kind)
            _train(arm, out, seed, console)
            score(budget, out, seed, arm)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime
    storage.write_bytes(str(folder / DONE), pretty({"cpu_seconds": round(seconds, 1)}))


def _train(arm: Arm, out: Path, seed: int, console: Console) -> None:
    config = arm_config(arm, read_budget(out), out / f"seed-{seed}", seed)
    if not config.autoencoder.source:
        train_autoencoder(config, console)
    train_diffusion(config, console)
