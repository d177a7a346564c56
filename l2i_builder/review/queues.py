"""Which sample a reviewer sees next, and how far a queue is worked off.

- ``audit``: the audit slice in the order of a hash, kept and rejected alike: the only queue for unbiased figures.
- ``uncertain``: the samples nearest to a judge's threshold, which teach a classifier most.
- ``reason:<r>``: what was rejected for a reason, in the order of a hash.
- ``second``: what others judged and the reviewer did not.

A sample handed to one reviewer is not handed to another for ``LEASE`` seconds, so that nobody works twice by
accident; agreement comes from the second queue. A sample judged in another queue still counts as open in ``audit``:
otherwise the audit would lack exactly the difficult ones.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from l2i_builder.labels import AUDIT
from l2i_builder.review.board import Board
from l2i_builder.review.samples import Sample, Samples
from l2i_builder.sample import UNKNOWN, key_fraction

UNCERTAIN, SECOND, REASON = "uncertain", "second", "reason:"
NEAREST = 1000  # samples of the uncertain queue
LEASE = 600.0  # seconds


@dataclass
class Queue:
    """How far a queue is. total, done: samples in it, and those that have a judgement; mine: those of the reviewer;
    skipped: open ones that the reviewer skipped. empty: why nothing is left, and what to do; "" while there is."""

    name: str
    total: int = 0
    done: int = 0
    mine: int = 0
    skipped: int = 0
    empty: str = ""


@dataclass
class Queues:
    """The queues of a run. ``clock``: seconds, for leases."""

    samples: Samples
    board: Board
    clock: Callable[[], float] = time.monotonic
    _orders: dict[str, list[Sample]] = field(default_factory=dict)
    _keys: dict[str, frozenset[str]] = field(default_factory=dict)
    _version: int = -1
    _leases: dict[str, tuple[str, float]] = field(default_factory=dict)  # key -> reviewer, until
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def names(self) -> list[str]:
        """Return the queues there are, in the order in which to offer them."""
        with self._lock:
            self._refresh()
            return [*self._orders, SECOND]

    def weight(self, sample: Sample, queue: str) -> float:
        """Return 1 / the probability with which a queue shows a sample; 0 where it is not known.

        Among the shards that are opened, which a hash draws as a whole. A sample of the audit slice whose layers are
        lost has a preview only by another draw: 0.
        """
        rate = self.samples.audit_rate
        return 1 / rate if queue == AUDIT and sample.audit and sample.full and rate else 0.0

    def take(self, name: str, reviewer: str, count: int, have: Collection[str] = ()) -> list[Sample]:
        """Return the next samples for a reviewer, none of ``have`` (keys), and lease them. KeyError: no such queue."""
        with self._lock:
            now = self.clock()
            taken: list[Sample] = []
            for key in have:
                self._leases[key] = (reviewer, now + LEASE)
            for sample in self._order(name, reviewer):
                if len(taken) == count:
                    break
                if sample.key in have or not self._open(sample, name, reviewer):
                    continue
                holder, until = self._leases.get(sample.key, ("", 0.0))
                if name != SECOND and holder not in ("", reviewer) and until > now:
                    continue
                self._leases[sample.key] = (reviewer, now + LEASE)
                taken.append(sample)
            return taken

    def release(self, reviewer: str, keep: Collection[str] = ()) -> None:
        """Give back what a reviewer holds but has not judged, when another queue is opened."""
        with self._lock:
            mine = [key for key, (holder, _) in self._leases.items() if holder == reviewer and key not in keep]
            for key in mine:
                del self._leases[key]

    def settle(self, key: str) -> None:
        """A sample was judged or skipped: nobody holds it any more."""
        with self._lock:
            self._leases.pop(key, None)

    def progress(self, name: str, reviewer: str) -> Queue:
        """Return how far a queue is, for a reviewer. KeyError: no such queue."""
        with self._lock:
            queue = Queue(name)
            if name == SECOND:
                members = frozenset(sample.key for sample in self._order(name, reviewer, everything=True))
            else:
                members = self._members(name)
            queue.total = len(members)
            for key in self.board.known():
                if key not in members:
                    continue
                who = self.board.judged(key, audit=name == AUDIT)
                queue.mine += reviewer in who
                done = reviewer in who if name == SECOND else bool(who)
                queue.done += done
                queue.skipped += not done and self.board.skipped(key, reviewer)
            if queue.done + queue.skipped >= queue.total:
                queue.empty = self._why_empty(queue)
            return queue

    def holds(self, name: str, key: str) -> bool:
        """Whether a judgement of a sample may come from a queue.

        Only the audit is strict: of the others a sample can drop out, for nearer ones, while it is on a screen.
        """
        with self._lock:
            return key in self._members(AUDIT) if name == AUDIT else name in self.names()

    def _open(self, sample: Sample, name: str, reviewer: str) -> bool:
        """Whether a sample still waits for this reviewer."""
        if name == SECOND:
            return not self.board.skipped(sample.key, reviewer)
        return not self.board.judged(sample.key, audit=name == AUDIT) and not self.board.skipped(sample.key, reviewer)

    def _members(self, name: str) -> frozenset[str]:
        self._refresh()
        if name not in self._keys:
            self._keys[name] = frozenset(sample.key for sample in self._orders[name])
        return self._keys[name]

    def _order(self, name: str, reviewer: str, everything: bool = False) -> list[Sample]:
        """Return a queue's samples, best first. ``everything``: also those of second opinion that are done."""
        self._refresh()
        if name != SECOND:
            return self._orders[name]
        found = []
        for key in self.board.known():
            who = self.board.judged(key)
            sample = self.samples.by_key.get(key)
            if sample and who - {reviewer} and (everything or reviewer not in who):
                found.append((len(who), key_fraction(key, SECOND), sample))
        return [sample for *_, sample in sorted(found, key=lambda entry: entry[:2])]

    def _refresh(self) -> None:
        if self._version == self.samples.version:
            return
        self._version, self._keys = self.samples.version, {}
        every = list(self.samples.by_key.values())
        audit = [one for one in every if one.audit and (one.full or self._distance(one) is not None)]
        reasons = Counter(one.reason for one in every if one.reason)
        near = sorted((place, one.key, one) for one in every if (place := self._distance(one)) is not None)
        self._orders = {
            AUDIT: sorted(audit, key=lambda one: key_fraction(one.key, "review")),
            UNCERTAIN: [one for *_, one in near[:NEAREST]],
        }
        for reason, _ in reasons.most_common():
            chosen = [one for one in every if one.reason == reason]
            self._orders[REASON + reason] = sorted(chosen, key=lambda one: key_fraction(one.key, "preview"))

    def _distance(self, sample: Sample) -> float | None:
        """Return how far a sample's scores are from the thresholds, the nearer one; None where nothing is scored."""
        found = [
            abs(score - limit)
            for score, limit in (
                (sample.mask_score, self.samples.thresholds["mask"]),
                (sample.inpainting_score, self.samples.thresholds["inpainting"]),
            )
            if limit is not None and score != UNKNOWN
        ]
        return min(found, default=None)

    def _why_empty(self, queue: Queue) -> str:
        if not self.samples.opened:
            return "No shard of this run is finished yet. This page looks again by itself."
        if queue.skipped:
            return f"All {queue.total} samples are judged or skipped. Undo (u) brings the last one back."
        if queue.name == SECOND:
            return (
                "Nobody else has judged a sample that you have not. Ask a colleague to open this page under another "
                "name, or go on with the random audit."
            )
        if queue.total:
            after = (
                "Give second opinions next; l2i calibrate then finds thresholds from these labels."
                if queue.name == AUDIT
                else "Give second opinions, or go on with the random audit."
            )
            return f"All {queue.total} samples of this queue are judged. {after}"
        if queue.name == AUDIT and not self.samples.audit_rate:
            return (
                "This run has no audit slice (ingest.audit_rate is 0), so nothing in it gives unbiased figures. Build "
                "with ingest.audit_rate=0.01 to have one; to train a classifier, take the uncertain samples."
            )
        if queue.name == AUDIT:
            return (
                "No sample of the audit slice is in the shards that are finished, or none got as far as a mask. Wait "
                "for more shards, build with a higher ingest.audit_rate, or take the uncertain samples."
            )
        return "No sample has a score near a threshold: the judges of this run are off. Take the random audit."
