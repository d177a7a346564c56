"""What a driver tells those who watch it: the metrics, the JSON log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from l2i_builder.output.manifest import ShardManifest
from l2i_builder.sample import Batch

SETTLED = "retry"  # stage of rows that ``--retry-failed`` leaves as an earlier run settled them


@dataclass(frozen=True)
class Summary:
    """What came of a batch: all that the driver ever sees of it.

    rows, kept: counts; reasons: reason -> rows; seconds: stage -> busy wall seconds; images: stage -> pixel slots;
    fetched: bytes of the bodies.
    """

    rows: int
    kept: int
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    fetched: int = 0

    @classmethod
    def of(cls, batch: Batch) -> Summary:
        fresh = [row for row in batch.rows if row.stage != SETTLED]
        return cls(
            rows=len(batch.rows),
            kept=sum(row.kept for row in batch.rows),
            reasons=dict(Counter(row.reason for row in fresh if row.reason)),
            seconds=dict(batch.seconds),
            images=dict(batch.images),
            fetched=sum(row.bytes for row in fresh if row.bytes > 0),
        )


@dataclass(frozen=True)
class PoolState:
    """A pool of actors at this moment. Its slots, ``actors`` times the calls an actor is sent ahead of time, are
    busy, free, starting (the actor loads, or is coming back) or lost. waiting: calls that found no free slot."""

    name: str
    actors: int
    busy: int
    free: int
    starting: int
    lost: int
    waiting: int
    restarts: int  # since the start


@dataclass(frozen=True)
class DriverState:
    """The driver at this moment: batches between the pools, and how many there may be."""

    in_flight: int
    window: int
    pools: Sequence[PoolState]


class Observer:
    """Is told what the driver does. Every method does nothing unless it is overridden; none may raise."""

    def opened(self, state: Callable[[], DriverState], rows: int, shards: int) -> None:
        """The driver begins; ``state()`` may be asked from any thread until ``closed``."""

    def closed(self) -> None:
        """The driver has ended."""

    def began(self, shard: str, attempt: int) -> None:
        """An attempt at a shard begins; attempts count from 1."""

    def answered(self, pool: str, seconds: float) -> None:
        """A batch came back from a pool, after ``seconds`` that include its wait for an actor."""

    def batch(self, shard: str, attempt: int, summary: Summary) -> None:
        """A batch has been through all stages."""

    def failed(self, shard: str, attempt: int, last: bool, rows: int) -> None:
        """An attempt ended without a commit; the ``rows`` it had done are done again, unless it was the ``last``."""

    def finished(self, shard: str, attempt: int, seconds: float, manifest: ShardManifest) -> None:
        """A shard is committed."""


class Several(Observer):
    """Tells each of several observers."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def opened(self, state: Callable[[], DriverState], rows: int, shards: int) -> None:
        self._tell("opened", state, rows, shards)

    def closed(self) -> None:
        self._tell("closed")

    def began(self, shard: str, attempt: int) -> None:
        self._tell("began", shard, attempt)

    def answered(self, pool: str, seconds: float) -> None:
        self._tell("answered", pool, seconds)

    def batch(self, shard: str, attempt: int, summary: Summary) -> None:
        self._tell("batch", shard, attempt, summary)

    def failed(self, shard: str, attempt: int, last: bool, rows: int) -> None:
        self._tell("failed", shard, attempt, last, rows)

    def finished(self, shard: str, attempt: int, seconds: float, manifest: ShardManifest) -> None:
        self._tell("finished", shard, attempt, seconds, manifest)

    def _tell(self, method: str, *what: Any) -> None:
        for observer in self.observers:
            getattr(observer, method)(*what)
