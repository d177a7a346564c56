"""What a reader may ask of a report beyond its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

ON_PAGE = 160  # strips of the page itself; more go to pages beside it
MOST_SAMPLES = 20_000


@dataclass(frozen=True)
class Prices:
    """Dollars. cpu, gpu: per busy hour of an actor; gpu None: the models ran on CPUs. storage: per GB and month."""

    cpu: float = 0.04
    gpu: float | None = None
    storage: float = 0.023


@dataclass(frozen=True)
class Options:
    """compare: output folder or report.json of the run to compare with; "" = what this folder's report said before.
    labels: where the labels are; "" = in the output folder. samples: strips shown in all. told: called with (shards
    counted, shards in all).
    """

    compare: str = ""
    labels: str = ""
    samples: int = ON_PAGE
    prices: Prices = field(default_factory=Prices)
    told: Callable[[int, int], None] = lambda done, total: None
