"""Forms of one computation by turns on the same inputs: what each costs, and how far it is from the first."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Run:
    """cpu, wall: seconds an image, the least of all rounds; result: what the form computed."""

    cpu: float
    wall: float
    result: Any


def cpu() -> float:
    """Seconds of this process, all its threads."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def by_turns(forms: Mapping[str, Callable[[], Any]], images: int, rounds: int) -> dict[str, Run]:
    """Run every form once in every round, so that all of them see the same machine; before several rounds, once."""
    runs: dict[str, Run] = {}
    for _ in range(rounds):
        for name, form in forms.items():
            if name not in runs:
                runs[name] = Run(float("inf"), float("inf"), form() if rounds > 1 else None)
            used, began = cpu(), time.perf_counter()
            result = form()
            spent = (cpu() - used) / images, (time.perf_counter() - began) / images
            runs[name] = Run(min(runs[name].cpu, spent[0]), min(runs[name].wall, spent[1]), result)
    return runs


def table(title: str, runs: Mapping[str, Run], closeness: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table as text: a row a form, speed against the first, and what ``closeness`` says of each."""
    first = next(iter(runs.values()))
    columns = list(next(iter(closeness.values())))
    lines = [title, f"  {'':34}{'CPU ms':>9}{'wall ms':>9}{'speed':>7}" + "".join(f"{name:>20}" for name in columns)]
    for name, run in runs.items():
        speed = f"{first.cpu / run.cpu:.2f}" if run.cpu else "-"
        close = "".join(f"{closeness[name][column]:>20.6g}" for column in columns)
        lines.append(f"  {name:34}{run.cpu * 1e3:>9.1f}{run.wall * 1e3:>9.1f}{speed:>7}{close}")
    return "\n".join(lines)


def plain(runs: Mapping[str, Run], closeness: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the same as JSON types."""
    return {name: {"cpu": run.cpu, "wall": run.wall, **closeness[name]} for name, run in runs.items()}
