"""The random numbers of a training step: they follow from seed and step, and not from how many processes there are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from model.data import Place


class Draw:
    """The random numbers of one forward pass. All ranks draw for all ranks, and each takes its own part."""

    def __init__(self, seed: int, step: int, part: int, place: Place, device: torch.device | str) -> None:
        digest = hashlib.blake2b(f"{seed}/{step}/{part}".encode(), digest_size=7).digest()
        self.place = place
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest))
        self.cpu = torch.Generator().manual_seed(int.from_bytes(digest))  # for what draws on the CPU, for all ranks
        # For what draws by itself, like dropout: another stream on each rank.
        torch.manual_seed(int.from_bytes(digest) + place.rank)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers; shape[0] is this rank's batch."""
        return self.own(torch.randn(self._all(shape), generator=self.generator, device=self.generator.device), shape[0])

    def uniform(self, count: int) -> Tensor:
        """Uniform numbers in 0..1 [count]."""
        drawn = torch.rand(count * self.place.ranks, generator=self.generator, device=self.generator.device)
        return self.own(drawn, count)

    def own(self, values: Tensor, count: int) -> Tensor:
        """Return this rank's ``count`` of values drawn for all ranks."""
        return values[self.place.rank * count : (self.place.rank + 1) * count]

    def _all(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0] * self.place.ranks, *shape[1:])
