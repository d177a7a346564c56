"""Whole output folders made by toy models, or by the project's own judges on a tiny backbone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tiny_judges import tiny_backbone, tiny_head
from toy import Silent, ToyInpaint, ToySegment, ToySource, toy_config, toy_parts, write_metadata

from l2i_builder import stages, storage
from l2i_builder.config import Config
from l2i_builder.ingest import planning
from l2i_builder.judge.judges import load_head
from l2i_builder.output.features import TASKS
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.output.shards import wids_index
from l2i_builder.run.cluster import Parts
from l2i_builder.run.inline import run_inline
from l2i_builder.splits import Splits, draw_splits

THRESHOLDS = ("judge.mask.threshold=0.3", "judge.inpainting.threshold=0.5")
LOOSE = ("judge.mask.threshold=0.05", "judge.inpainting.threshold=0.1")


def toy_run(folder: Path, out: Path | str, *overrides: str, rows: int = 40, parts: Parts | None = None) -> Config:
    """Build ``rows`` rows in shards of 20 into ``out``, as ``build`` would; metadata go to ``folder``."""
    config = toy_config(write_metadata(folder / "metadata", rows), Path("x"), *(overrides or THRESHOLDS))
    config = config.model_copy(update={"out": str(out)})
    plain_run(config, parts or toy_parts(config))
    return config


def plain_run(config: Config, parts: Parts) -> None:
    """Build everything in this process, as ``build`` would."""
    plan = planning.plan(config)
    run = claim(config.out, RunManifest.of(config, plan.digest, weights_of(config)))
    storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
    run_inline(config, plan.shards, run.digest, Silent(), parts)
    storage.write_bytes(storage.join(config.out, "index.json"), wids_index(config.out))


def weights_of(config: Config) -> dict[str, str]:
    """What ``run.json`` says of the heads, where the configuration names some."""
    digests = {}
    for task in TASKS:
        if name := getattr(config.judge, task).head:
            head = load_head(name, task)
            digests[f"judge {task}: {head.card['name']}"] = head.digest
            digests[f"judge {task}: {head.card['backbone']['name']}"] = head.card["backbone"]["sha256"]
    return digests


def tiny_heads(folder: Path, family: str = "rich", seed: int = 0) -> dict[str, Path]:
    """Write a tiny backbone and a head of each task for it; return task -> path of the card."""
    weights = tiny_backbone(folder, seed)
    return {task: tiny_head(folder, f"{task}-{family}-{seed}", task, f"{task}-{family}", weights) for task in TASKS}


def judged_run(folder: Path, out: Path | str, heads: dict[str, Path], rows: int = 20) -> Config:
    """Like ``toy_run``, judged by real heads at their own thresholds."""
    keys = [f"judge.{task}.head={path}" for task, path in heads.items()]
    config = toy_config(folder / "metadata", Path("x"), *keys)
    return toy_run(folder, out, *keys, rows=rows, parts=Parts(partial(ToySource, config), partial(tiny_stages, config)))


def tiny_stages(config: Config, names: list[str], device: str = "cpu", threads: int = 1) -> list[stages.Stage]:
    """Toy models, and the project's own judges."""
    judges = [stages.JudgeMaskStage(config, device, 1), stages.JudgeInpaintingStage(config, device, 1)]
    return [ToySegment(config), judges[0], ToyInpaint(config), judges[1], stages.EncodeStage(config, device, 1)]


def split_toy_run(folder: Path) -> str:
    """Build toy samples, some of the audit slice, and draw train, test and la; returns the output folder."""
    out = folder / "out"
    toy_run(folder, out, "ingest.audit_rate=0.4", "judge.mask.threshold=0.3", rows=60)
    draw_splits(str(out), Splits(test=0.3, la=0.7, radius=0))  # toy pictures look alike
    return str(out)
