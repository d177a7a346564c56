"""What the two judges of a run ask for: thresholds, and the heads behind them where this machine has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from l2i_builder.errors import WeightsError
from l2i_builder.judge.judges import Head, load_head
from l2i_builder.output.manifest import RunManifest
from l2i_builder.sample import UNKNOWN, Reason

REASONS = {"mask": Reason.MASK_REJECTED, "inpainting": Reason.INPAINTING_REJECTED}


@dataclass(frozen=True)
class Rule:
    """One judge of a run.

    threshold: None where it is the head's own and this machine has not that head; head: None where it has not.
    """

    task: str
    enabled: bool
    threshold: float | None
    head: Head | None

    def score(self, row: Any) -> float:
        """Return a row's score (of a Row, or a ledger line), ``UNKNOWN`` where it was not judged."""
        name = f"{self.task}_score"
        return float(row[name] if isinstance(row, dict) else getattr(row, name))

    def refuses(self, row: Any) -> bool:
        """Whether a row was judged and is under the threshold."""
        return self.enabled and self.threshold is not None and UNKNOWN != self.score(row) < self.threshold


def rule_of(run: RunManifest, task: str) -> Rule:
    """Return what the judge of a task ("mask", "inpainting") asks for in a run."""
    settings = run.config.get("judge", {}).get(task, {})
    if not settings.get("enabled"):
        return Rule(task, False, None, None)
    head = _head(run, task, str(settings.get("head", "")))
    threshold = float(settings.get("threshold", -1))
    if threshold < 0:
        return Rule(task, True, float(head.card["threshold"]) if head else None, head)
    return Rule(task, True, threshold, head)


def head_digests(run: RunManifest, task: str) -> dict[str, str]:
    """Return what ``run.json`` says of a judge's head and backbone: name -> SHA-256."""
    return {name: digest for name, digest in run.weights.items() if name.startswith(f"judge {task}: ")}


def _head(run: RunManifest, task: str, name: str) -> Head | None:
    """Return the head that judged, None where this machine has it no more: by the name in the configuration, or by
    that in ``run.json``, since another one may be the default today."""
    mine = f"judge {task}: "
    for candidate in (name, *(full.removeprefix(mine) for full in head_digests(run, task))):
        try:
            head = load_head(candidate, task)
        except WeightsError:
            continue
        if run.weights.get(mine + head.card["name"]) == head.digest:
            return head
    return None
