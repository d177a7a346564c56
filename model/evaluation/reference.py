"""What generated images are compared with: the samples of a split, read from its shards in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import REBUILD
from model.config import Data
from model.pixels import View, decode
from model.shard_selection import Selection
from model.shard_set import find_shards, selected


@dataclass(frozen=True)
class Reference:
    """The first ``samples`` samples of a split. ``name``: as in the tables, LL2I-E or LA."""

    name: str
    location: str  # folder of a build, tar or glob, as the trainers take it
    samples: int

    def captions(self) -> list[tuple[str, str]]:
        """Return (key, caption) of the samples. Raises ConfigError where there are none."""
        found = [(key, members.get("txt", b"").decode("utf-8", "replace")) for key, members in self._members()]
        if not found:
            raise ConfigError(f"{self.location} holds no samples; give shards of a build as {self.name}")
        return found

    def images(self) -> Iterator[np.ndarray]:
        """Yield the images I, uint8 [H, W, 3], at their stored size. Any tar with images will do: LA has no layers."""
        for key, members in self._members():
            data = next((members[kind] for kind in ("jpg", "png", "webp") if kind in members), b"")
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
            if image is None:
                raise OutputError(f"{self.location}: the image of {key} is missing or does not decode. {REBUILD}")
            yield image

    def layers(self, size: int) -> Iterator[np.ndarray]:
        """Yield F, B, m, I, uint8 [10, size, size], as the trainers see them: cut as the paper does, not mirrored."""
        config = Data(size=size, flip=False)
        for key, members in self._members():
            yield decode(key, members, config, View(), self.location)

    def _members(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        done = 0
        for shard in find_shards(self.location):
            for key, members in selected(shard, Selection()):
                if done == self.samples:
                    return
                done += 1
                yield key, members


def caption_seed(key: str, seed: int) -> int:
    """Return the seed of a sample's noise: of the key alone, so that all models start from the same."""
    return int.from_bytes(hashlib.blake2b(json.dumps([key, seed]).encode(), digest_size=6).digest())
