"""The thresholds a run was made with: set in its configuration, on the card of the very head it used, or, where a
later version of the project brings another head, found from what its ledgers kept and refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from l2i_builder.errors import WeightsError
from l2i_builder.judge.judges import load_head
from l2i_builder.report.run import Run
from l2i_builder.report.scan import Block, flag, scan
from l2i_builder.sample import UNKNOWN, Reason

JUDGES = {"mask": Reason.MASK_REJECTED, "inpainting": Reason.INPAINTING_REJECTED}


@dataclass(frozen=True)
class Threshold:
    """source: "configuration", "head" or "ledgers"; found from ledgers it is the shortest number that divides the
    refused scores from the others, so counts are exact where the last digits may not be."""

    value: float
    source: str


def thresholds(run: Run) -> dict[str, Threshold | None]:
    """Return the threshold of each judge, None where it is off or cannot be told. Raises OutputError."""
    found: dict[str, Threshold | None] = {}
    missing = []
    for judge in JUDGES:
        settings = run.judge(judge)
        value = settings.get("threshold", -1)
        if not settings.get("enabled", True):
            found[judge] = None
        elif isinstance(value, (int, float)) and value >= 0:
            found[judge] = Threshold(float(value), "configuration")
        elif (value := head_threshold(run, judge)) is not None:
            found[judge] = Threshold(value, "head")
        else:
            missing.append(judge)
    return found | from_ledgers(run, missing)


def head_threshold(run: Run, judge: str) -> float | None:
    """Return the threshold on the card of a judge's head, None unless it is the head whose digest the run names."""
    try:
        head = load_head(str(run.judge(judge).get("head", "")), judge)
    except WeightsError:
        return None
    known = run.weights.get(f"judge {judge}: {head.card['name']}") == head.digest
    return float(head.card["threshold"]) if known else None


def from_ledgers(run: Run, judges: list[str]) -> dict[str, Threshold | None]:
    """Return what divides the scores that each judge refused from those it let pass; reads three columns."""
    if not judges:
        return {}
    columns = ["reason", *(f"{judge}_score" for judge in judges)]
    ends = list(scan(run, columns, lambda blocks: _ends(blocks, judges)))
    found = {}
    for judge in judges:
        low = max((one[judge][0] for one in ends), default=-np.inf)
        found[judge] = _between(low, min((one[judge][1] for one in ends), default=np.inf))
    return found


def _ends(blocks: Iterator[Block], judges: list[str]) -> dict[str, tuple[float, float]]:
    """Return each judge's highest refused and lowest passed score."""
    ends = dict.fromkeys(judges, (-np.inf, np.inf))
    for block in blocks:
        codes, reasons = block.codes("reason")
        for judge in judges:
            score = block.ledger[f"{judge}_score"].to_numpy()
            refused = flag(codes, reasons, [JUDGES[judge].value])
            # A row that was refused before this judge, and goes on for the audit, says nothing of its threshold.
            after = [Reason.INPAINTING_REJECTED.value, ""] if judge == "mask" else [""]
            passed = flag(codes, reasons, after) & (score != UNKNOWN)
            low, high = ends[judge]
            ends[judge] = (score[refused].max(initial=low), score[passed].min(initial=high))
    return ends


def _between(low: float, high: float) -> Threshold | None:
    """Return the number with the fewest decimals in (low, high], None where one side is empty or they overlap."""
    if not -np.inf < low < high < np.inf:
        return None
    for digits in range(17):
        value = np.floor(high * 10**digits) / 10**digits
        if low < value <= high:
            return Threshold(float(value), "ledgers")
    return Threshold(float(high), "ledgers")
