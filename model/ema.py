"""Averaged weights: what is validated, sampled from and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Averaged:
    """Exponential moving average of a module's trained parameters and floating-point buffers, in float32.

    The decay rises with the number of updates n, min(decay, (1 + n) / (10 + n)), so that early weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.sources = _tracked(module)
        self.values = [source.detach().float().clone() for source in self.sources]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present weights."""
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.values, [source.detach().float() for source in self.sources], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages in place of the module's weights while the block runs."""
        kept = [source.detach().clone() for source in self.sources]
        self._set(self.values)
        try:
            yield
        finally:
            self._set(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for source, value in zip(self.sources, values, strict=True):
            source.copy_(value)


def _tracked(module: nn.Module) -> list[Tensor]:
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    return [parameter for parameter in module.parameters() if parameter.requires_grad] + buffers
