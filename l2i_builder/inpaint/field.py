"""Nearest-neighbour fields (Barnes et al. 2009): for every patch on a hole the known patch that is most like it.

The loops over pixels are compiled by numba when first called, and kept beside this file or in the user's cache. What is
compared are whole numbers, so nothing depends on the order in which a processor adds. They take the side of a patch as
an argument: where it is a constant the compiler unrolls the loops over its pixels, a sixth as fast as vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numba import njit

PATCH = 7  # pixels a side
REACH = PATCH // 2
CHANNELS = 4
_NEVER = np.int32(2**30)  # cost of a look-alike that is none: it has next to no vote


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: compile when first called; keep the result where there is somewhere to keep it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)


@dataclass
class Field:
    """Where each patch on the hole finds its look-alike. Patches are named by the pixel in their middle.

    y, x, like_y, like_x: int32 [P]; cost int32 [P], squared differences summed over ``PATCH`` x ``PATCH`` x
    ``CHANNELS``; place int32 [H, W]: the number of the patch at a pixel, -1 where there is none.
    """

    y: np.ndarray
    x: np.ndarray
    like_y: np.ndarray
    like_x: np.ndarray
    cost: np.ndarray
    place: np.ndarray


def whole_patches(hole: np.ndarray) -> np.ndarray:
    """Return, bool [H, W], where a patch lies inside the image and on known pixels only. hole: bool [H, W]."""
    square = np.ones((PATCH, PATCH), np.uint8)
    return cv2.erode((~hole).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)


def new_field(hole: np.ndarray, known: np.ndarray, random: np.ndarray, above: Field | None = None) -> Field:
    """Return look-alikes for all patches that touch a hole: those of the level ``above``, else random ones.

    hole: bool [H, W]; known: bool [H, W], not empty, the patches to choose from; random: uint32 [1], the generator's
    state, is moved on; above: the field at half size. Costs are those from above, or next to infinite.
    """
    y, x = _positions(cv2.dilate(hole.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8)).astype(bool))
    place = np.full(hole.shape, -1, np.int32)
    place[y, x] = np.arange(len(y), dtype=np.int32)
    field = Field(y, x, np.empty_like(y), np.empty_like(x), np.full(len(y), _NEVER), place)
    _scatter(*_positions(known), field.like_y, field.like_x, random)
    if above is not None:
        looks = (above.place, above.like_y, above.like_x, above.cost)
        _inherit(*looks, known, y, x, field.like_y, field.like_x, field.cost)
    return field


def improve(
    field: Field, image: np.ndarray, target: np.ndarray, known: np.ndarray, random: np.ndarray, passes: int, span: int
) -> None:
    """Look for better look-alikes: those of neighbours, shifted, and random ones nearer and nearer, ``passes`` times.

    image, target: uint8 [H, W, CHANNELS], where patches are taken from and what is to be matched; span: pixels around
    a look-alike from which random ones are drawn. Changes ``field`` and ``random``.
    """
    patches = (field.y, field.x, field.place, field.like_y, field.like_x, field.cost)
    _search(_rows(image), _rows(target), known, *patches, random, passes, span, PATCH)


def vote(field: Field, image: np.ndarray, hole: np.ndarray, tolerance: float) -> np.ndarray:
    """Return what the look-alikes say of each pixel of the hole: uint8 [n, CHANNELS] in ``hole``'s order.

    tolerance: the cost at which a patch has half a vote.
    """
    rows = _rows(image)
    total, weights = np.zeros(rows.shape, np.float32), np.zeros((len(rows), rows.shape[1] // CHANNELS), np.float32)
    patches = (field.y, field.x, field.like_y, field.like_x, field.cost)
    _vote(rows, *patches, np.float32(tolerance), total, weights, PATCH)
    inside = np.s_[REACH:-REACH, REACH:-REACH]
    colours = total.reshape(*weights.shape, CHANNELS)[inside][hole] / weights[inside][hole][:, None]
    return np.rint(colours).astype(np.uint8)


def spread(field: Field, detail: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the detail around each look-alike, averaged where patches overlap: float32 [2H, 2W, 3], else 0.

    detail: float32 [2H, 2W, 3], at twice the field's size; kernel: float32 [2n, 2n], the weight of the pixels around
    a patch's middle, which at that size lies between two pixels.
    """
    height, width = detail.shape[:2]
    total, weights = np.zeros(detail.shape, np.float32), np.zeros((height, width), np.float32)
    found = field.cost < _NEVER
    patches = [axis[found] for axis in (field.y, field.x, field.like_y, field.like_x)]
    _spread(np.ascontiguousarray(detail, np.float32), *patches, kernel, total, weights)
    return total / np.maximum(weights, 1e-6)[..., None]


def _positions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.nonzero(mask)
    return y.astype(np.int32), x.astype(np.int32)


def _rows(image: np.ndarray) -> np.ndarray:
    """Return an image continued, mirrored, by the reach of a patch, pixels of a row side by side: uint8."""
    padded = cv2.copyMakeBorder(image, REACH, REACH, REACH, REACH, cv2.BORDER_REFLECT_101)
    return padded.reshape(len(padded), -1)


@njit
def _advance(state: np.ndarray) -> np.uint32:
    x = state[0]
    x = np.uint32(x ^ np.uint32(x << np.uint32(13)))  # xorshift (Marsaglia 2003)
    x = np.uint32(x ^ np.uint32(x >> np.uint32(17)))
    x = np.uint32(x ^ np.uint32(x << np.uint32(5)))
    state[0] = x
    return x


@njit(inline="always")
def _difference(
    image: np.ndarray, top: int, left: int, target: np.ndarray, y: int, x: int, limit: np.int32, side: int
) -> np.int32:
    total = np.int32(0)
    for row in range(np.uint64(side)):
        for k in range(np.uint64(CHANNELS * side)):
            one = np.int32(image[np.uint64(top) + row, np.uint64(CHANNELS * left) + k])
            apart = np.int32(one - np.int32(target[np.uint64(y) + row, np.uint64(CHANNELS * x) + k]))
            total = np.int32(total + np.int32(apart * apart))
        if total >= limit:
            return limit
    return total


@njit(inline="always")
def _better(
    image: np.ndarray,
    try_y: int,
    try_x: int,
    target: np.ndarray,
    y: int,
    x: int,
    known: np.ndarray,
    best: tuple[np.int32, np.int32, np.int32],
    side: int,
) -> tuple[np.int32, np.int32, np.int32]:
    """Return (like_y, like_x, cost) of the better one: what is tried, or the best so far."""
    height, width = known.shape
    another = try_y != best[0] or try_x != best[1]
    if another and 0 <= try_y < height and 0 <= try_x < width and known[try_y, try_x]:
        apart = _difference(image, try_y, try_x, target, y, x, best[2], side)
        if apart < best[2]:
            return np.int32(try_y), np.int32(try_x), apart
    return best


@_kernel
def _scatter(
    from_y: np.ndarray,
    from_x: np.ndarray,
    like_y: np.ndarray,
    like_x: np.ndarray,
    random: np.ndarray,
) -> None:
    for i in range(len(like_y)):
        chosen = np.int64((np.uint64(_advance(random)) * np.uint64(len(from_y))) >> np.uint64(32))
        like_y[i], like_x[i] = from_y[chosen], from_x[chosen]


@_kernel
def _inherit(
    place: np.ndarray,
    above_y: np.ndarray,
    above_x: np.ndarray,
    above_cost: np.ndarray,
    known: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    like_y: np.ndarray,
    like_x: np.ndarray,
    cost: np.ndarray,
) -> None:
    height, width = known.shape
    for i in range(len(y)):
        above = place[y[i] // 2, x[i] // 2]
        if above < 0:
            continue
        there_y, there_x = 2 * above_y[above] + y[i] % 2, 2 * above_x[above] + x[i] % 2
        if there_y < height and there_x < width and known[there_y, there_x]:
            like_y[i], like_x[i], cost[i] = there_y, there_x, above_cost[above]


@_kernel
def _search(
    image: np.ndarray,
    target: np.ndarray,
    known: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    place: np.ndarray,
    like_y: np.ndarray,
    like_x: np.ndarray,
    cost: np.ndarray,
    random: np.ndarray,
    passes: int,
    span: int,
    side: int,
) -> None:
    height, width = known.shape
    for i in range(len(y)):
        cost[i] = _difference(image, like_y[i], like_x[i], target, y[i], x[i], _NEVER, side)
    for turn in range(passes):
        step = -1 if turn % 2 == 0 else 1
        for j in range(len(y)):
            i = j if step < 0 else len(y) - 1 - j
            best = (like_y[i], like_x[i], cost[i])
            for axis in range(2):
                beside_y, beside_x = y[i] + (step if axis == 0 else 0), x[i] + (step if axis == 1 else 0)
                if 0 <= beside_y < height and 0 <= beside_x < width and place[beside_y, beside_x] >= 0:
                    beside = place[beside_y, beside_x]
                    try_y, try_x = like_y[beside] + y[i] - beside_y, like_x[beside] + x[i] - beside_x
                    best = _better(image, try_y, try_x, target, y[i], x[i], known, best, side)
            around = span
            while around >= 1:
                drawn = np.int64(_advance(random))
                try_y = best[0] - around + (((drawn & 0xFFFF) * (2 * around + 1)) >> 16)
                try_x = best[1] - around + (((drawn >> 16) * (2 * around + 1)) >> 16)
                best = _better(image, try_y, try_x, target, y[i], x[i], known, best, side)
                around //= 2
            like_y[i], like_x[i], cost[i] = best


@_kernel
def _vote(
    image: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    like_y: np.ndarray,
    like_x: np.ndarray,
    cost: np.ndarray,
    tolerance: np.float32,
    total: np.ndarray,
    weights: np.ndarray,
    side: int,
) -> None:
    for i in range(len(y)):
        share = np.float32(cost[i]) / tolerance
        weight = np.float32(1) / (np.float32(1) + share * share)
        from_y, from_x = np.uint64(like_y[i]), np.uint64(CHANNELS * like_x[i])
        to_y, to_x = np.uint64(y[i]), np.uint64(x[i])
        for row in range(np.uint64(side)):
            for k in range(np.uint64(CHANNELS * side)):
                total[to_y + row, np.uint64(CHANNELS) * to_x + k] += weight * np.float32(
                    image[from_y + row, from_x + k]
                )
            for k in range(np.uint64(side)):
                weights[to_y + row, to_x + k] += weight


@_kernel
def _spread(
    detail: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    like_y: np.ndarray,
    like_x: np.ndarray,
    kernel: np.ndarray,
    total: np.ndarray,
    weights: np.ndarray,
) -> None:
    height, width = weights.shape
    reach = len(kernel) // 2
    for i in range(len(y)):
        for dy in range(-reach, reach):
            to_y, from_y = 2 * y[i] + 1 + dy, 2 * like_y[i] + 1 + dy
            if not (0 <= to_y < height and 0 <= from_y < height):
                continue
            for dx in range(-reach, reach):
                to_x, from_x = 2 * x[i] + 1 + dx, 2 * like_x[i] + 1 + dx
                if not (0 <= to_x < width and 0 <= from_x < width):
                    continue
                weight = kernel[dy + reach, dx + reach]
                weights[to_y, to_x] += weight
                for channel in range(3):
                    total[to_y, to_x, channel] += weight * detail[from_y, from_x, channel]
