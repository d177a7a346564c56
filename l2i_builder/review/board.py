"""What stands of a run's judgements, kept in memory and brought up to date from the label file."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

from l2i_builder.judgements import Judgement, to_table
from l2i_builder.labels import AUDIT, LabelStore, kappa


class Board:
    """Who judged what in one run. Judgements that other processes add are seen too. Threads may share it."""

    def __init__(self, store: LabelStore, run: str) -> None:
        self.store, self.run = store, run
        self._position = 0
        self._lock = threading.RLock()
        self._rows: list[Judgement] = []  # of this run
        self._undone: set[str] = set()
        self._by_key: defaultdict[str, list[Judgement]] = defaultdict(list)
        self._agreement: tuple[int, dict[str, Any]] = (-1, {})

    def add(self, judgement: Judgement) -> Judgement:
        """See ``LabelStore.add``."""
        stored = self.store.add(judgement)
        self.catch_up()
        return stored

    def undo(self, reviewer: str, id: str) -> Judgement | None:
        """See ``LabelStore.undo``; only judgements of this run."""
        undone = self.store.undo(reviewer, self.run, id)
        self.catch_up()
        return undone

    def catch_up(self) -> int:
        """Read what was added since; return the position reached, which grows with every judgement."""
        with self._lock:
            new, self._position = self.store.since(self._position)
            for one in new:
                if one.run != self.run:
                    continue
                self._rows.append(one)
                if one.undoes:
                    self._undone.add(one.undoes)
                self._by_key[one.key].append(one)
            return self._position

    def standing(self, key: str) -> list[Judgement]:
        """Return what is said of a key and not taken back, skips too, in order."""
        with self._lock:
            return [one for one in self._by_key.get(key, ()) if not one.undoes and one.id not in self._undone]

    def judged(self, key: str, audit: bool = False) -> set[str]:
        """Return who judged a key; ``audit``: only in the audit queue."""
        return {one.reviewer for one in self.standing(key) if not one.skipped and (not audit or one.queue == AUDIT)}

    def skipped(self, key: str, reviewer: str) -> bool:
        """Whether the reviewer's last word on a key is a skip."""
        mine = [one for one in self.standing(key) if one.reviewer == reviewer]
        return bool(mine) and mine[-1].skipped

    def known(self) -> list[str]:
        """Return every key of which something was said."""
        with self._lock:
            return list(self._by_key)

    def agreement(self) -> dict[str, Any]:
        """Return ``labels.kappa`` of this run's judgements."""
        with self._lock:
            if self._agreement[0] != len(self._rows):
                self._agreement = (len(self._rows), kappa(to_table(self._rows)))
            return self._agreement[1]
