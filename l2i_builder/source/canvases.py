"""Memory for the pixels of batches, used again once nobody holds it.

The kernel clears fresh memory page by page as it is first written to, which takes longer than the copying.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

_KEPT = 8  # arrays that wait to be used again; more than that are let go


class Canvases:
    """Hands out uint8 arrays of one shape, whatever they hold. From any thread."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[memoryview] = []

    def none(self) -> np.ndarray:
        """Return an array of no images."""
        return np.empty((0, *self._shape[1:]), np.uint8)

    def take(self) -> np.ndarray:
        """Return an array, C-contiguous; its memory comes back when neither it nor a view of it is left."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, np.uint8).reshape(-1).data
        owner = np.frombuffer(memory, np.uint8)  # what all views of it have as their base
        weakref.finalize(owner, _give_back, self._free, memory).atexit = False
        return owner.reshape(self._shape)


def _give_back(free: list[memoryview], memory: memoryview) -> None:
    if len(free) < _KEPT:
        free.append(memory)


class Canvas:
    """The pixels of one batch: put down in the order in which images are decoded, so that refused rows take no place,
    and then brought into the order of the rows."""

    def __init__(self, canvases: Canvases) -> None:
        self._canvases = canvases
        self._array: np.ndarray | None = None  # taken with the first image
        self._slots: dict[int, int] = {}  # position of a row -> where its image is

    def place(self, position: int) -> np.ndarray:
        """Return the place of a row's image, uint8 [S, S, 3]; whatever it holds."""
        if self._array is None:
            self._array = self._canvases.take()
        slot = self._slots[position] = len(self._slots)
        return self._array[slot]

    def images(self, positions: Sequence[int]) -> np.ndarray:
        """Return the images of these rows, uint8 [N, S, S, 3] in their order, C-contiguous. To be called once."""
        if self._array is None:
            return self._canvases.none()
        _arrange(self._array, [self._slots[position] for position in positions])
        return self._array[: len(positions)]


def _arrange(images: np.ndarray, order: Sequence[int]) -> None:
    """Bring the images at ``order`` to the front, in that order: each is moved once, in place."""
    sources = {to: at for to, at in enumerate(order) if to != at}
    wanted = set(sources.values())
    for to in [slot for slot in sources if slot not in wanted]:
        while to in sources:
            at = sources.pop(to)
            images[to] = images[at]
            to = at
    while sources:  # what is left goes in circles
        first, at = sources.popitem()
        to, spare = first, images[first].copy()
        while at != first:
            images[to] = images[at]
            to, at = at, sources.pop(at)
        images[to] = spare
