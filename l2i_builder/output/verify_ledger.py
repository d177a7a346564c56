"""What can be wrong with the lines of a ledger by themselves: keys, verdicts against thresholds, tombstones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2i_builder.output.features import TASKS, Features
from l2i_builder.output.ledger import to_row
from l2i_builder.output.rules import REASONS, Rule
from l2i_builder.output.tombstones import KINDS, Takedowns, is_tombstone
from l2i_builder.output.verify_further import wrong_peels
from l2i_builder.sample import NEVER_SHOWN, UNKNOWN, Reason, sample_key

_CLOSE = 1e-4  # scores are float32 sums: other processors round otherwise

Line = dict[str, Any]
Problem = tuple[Line, str]  # the line, what is wrong with it


@dataclass(frozen=True)
class LedgerCheck:
    """Checks ledgers of one run. rules: of both judges; takedowns: the run's log; layers: its ``layers.count``;
    derived: made by ``l2i refilter``, which leaves further objects as they were judged."""

    rules: Sequence[Rule]
    takedowns: Takedowns
    layers: int = 2
    derived: bool = False

    def wrong(self, lines: Sequence[Line]) -> Iterator[Problem]:
        """Yield each line that contradicts itself, the thresholds or the log of takedowns."""
        for line in lines:
            what = self._taken_down(line) or self._key(line) or self._verdict(line)
            if not what and self.layers > 2:
                what = wrong_peels(line, self.layers, self.rules, self.derived)
            if what:
                yield line, what

    def _taken_down(self, line: Line) -> str:
        named = any(self.takedowns.holds(kind, line[kind]) for kind in KINDS)
        if line["reason"] != Reason.TAKEN_DOWN:
            return "it was taken down, but is still here" if named else ""
        if not named:
            return f"it is a tombstone, but no takedown names it: {line['key']}"
        return "" if is_tombstone(to_row(line)) else "its tombstone says more than place and key"

    def _key(self, line: Line) -> str:
        """The key is a hash of URL and caption, unless credentials were cut out of the URL since."""
        if line["reason"] == Reason.TAKEN_DOWN or "***@" in line["url"]:
            return ""
        return (
            "" if sample_key(line["url"], line["caption"]) == line["key"] else "its key is not that of URL and caption"
        )

    def _verdict(self, line: Line) -> str:
        """What the judges decided must follow from the scores."""
        reason = line["reason"]
        for rule in self.rules:
            refused = REASONS[rule.task].value
            if reason == refused and not rule.refuses(line) and rule.threshold is not None:
                return f"it is {refused} with a score of {rule.score(line):.3f}, the threshold is {rule.threshold:.3f}"
            if reason in ("", Reason.UNDECIDED) and rule.refuses(line):
                state = reason or "kept"
                return f"it is {state} with a {rule.task} score of {rule.score(line):.3f} under {rule.threshold:.3f}"
            if reason == "" and rule.enabled and rule.threshold is not None and rule.score(line) == UNKNOWN:
                return f"it is kept without a {rule.task} score"
        return ""


def scored(rows: dict[str, Line], task: str) -> dict[str, Line]:
    """Return key -> ledger line of the rows that a judge scored and that may be shown."""
    score = f"{task}_score"
    return {key: row for key, row in rows.items() if row[score] != UNKNOWN and row["reason"] not in NEVER_SHOWN}


def wrong_features(features: Features, rows: dict[str, Line], rules: Sequence[Rule], deep: bool) -> Iterator[str]:
    """Yield what is wrong with a shard's features. rows: key -> ledger line; deep: score them again."""
    heads = {rule.task: rule.head for rule in rules}
    for task in TASKS:
        vectors, judged, kind = features.vectors[task], scored(rows, task), features.kinds.get(task, {})
        if odd := sorted(vectors.keys() ^ judged.keys())[:5]:
            yield f"{task}: rows with only one of score and features: {', '.join(odd)}"
        if any(len(vector) != kind.get("dim") or not np.isfinite(vector).all() for vector in vectors.values()):
            yield f"{task}: vectors are not {kind.get('dim')} finite numbers"
            continue
        if odd := sorted({row[f"{task}_head"] for row in judged.values()} - {kind.get("head")}):
            yield f"{task}: the ledger says that {', '.join(odd)[:200]} scored, not {kind.get('head')}"
        head = heads.get(task)
        if deep and head is not None and kind.get("dim") == head.card["dim"]:
            keys = sorted(vectors.keys() & judged.keys())
            scores = head.predict(np.stack([vectors[key] for key in keys])) if keys else np.empty(0)
            told = np.array([judged[key][f"{task}_score"] for key in keys])
            if odd := [key for key, far in zip(keys, np.abs(scores - told) > _CLOSE, strict=True) if far][:5]:
                yield f"{task}: the scores in the ledger are not those of the features: {', '.join(odd)}"
