"""Which samples are read, and a shard with the number of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from l2i_builder.sample import UNKNOWN, key_fraction

SCORES = ("mask_score", "inpainting_score")
READERS = 16  # files read at once: object stores answer slowly, but many at a time


@dataclass(frozen=True)
class Shard:
    """A tar and how many samples of it are read. keys: of those left out, or with ``only`` of those read alone."""

    url: str
    samples: int
    keys: frozenset[str] = frozenset()
    only: bool = False


@dataclass(frozen=True)
class Selection:
    """Which samples are read: a part of the keys, drawn by hash, and those with high enough stored scores."""

    part: Literal["all", "train", "held_out"] = "all"
    holdout: float = 0.0  # share of the keys that is "held_out"
    min_mask_score: float = UNKNOWN
    min_inpainting_score: float = UNKNOWN

    @property
    def everything(self) -> bool:
        by_score = self.min_mask_score > UNKNOWN or self.min_inpainting_score > UNKNOWN
        return not by_score and (self.part == "all" or (self.part == "train" and not self.holdout))

    def __str__(self) -> str:
        """Say it in words, for messages."""
        held_out = f"held out (share {self.holdout:g})"
        parts = {"all": [], "train": [f"not {held_out}"], "held_out": [held_out]}
        scores = [("mask score", self.min_mask_score), ("inpainting score", self.min_inpainting_score)]
        return ", ".join(
            parts[self.part] + [f"of {name} {least:g} or more" for name, least in scores if least > UNKNOWN]
        )

    def takes(self, key: str, facts: Mapping[str, Any]) -> bool:
        """Whether a sample is read; facts: its JSON or ledger line."""
        if self.part != "all" and (key_fraction(key, "held out") < self.holdout) != (self.part == "held_out"):
            return False
        wanted = (self.min_mask_score, self.min_inpainting_score)
        return all(facts.get(name, UNKNOWN) >= least for name, least in zip(SCORES, wanted, strict=True))

    def takes_members(self, key: str, members: Mapping[str, bytes]) -> bool:
        """Whether a stored sample is read."""
        return self.everything or self.takes(key, json.loads(members["json"]) if "json" in members else {})
