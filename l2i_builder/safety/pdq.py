"""PDQ, the perceptual hash that hash lists of unsafe images are exchanged in (Meta, ThreatExchange, 2019).

256 bits: which of the 16x16 lowest cosine coefficients of a blurred 64x64 picture are above their median. Pictures
that look alike differ in few bits; up to 31 is the usual bound, and hashes of a quality below 50 (flat pictures) are
not compared. ``decode_with_pdq`` serves in the decoder's child process, in place of ``decoder.decode``.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from l2i_builder.decode.decoder import Decoded, decode

if TYPE_CHECKING:
    from l2i_builder.config import Image as ImageConfig

BITS = 256
MIN_QUALITY = 50
DECODER = "l2i_builder.safety.pdq:decode_with_pdq"
_SIDE = 512  # the whole picture is stretched to it first, as the reference does with larger ones
_GRID = 64
_BASIS = np.sqrt(2 / _GRID) * np.cos(
    np.pi / 2 / _GRID * np.arange(1, 17)[:, None] * (2 * np.arange(_GRID) + 1)[None]
)  # float64 [16, 64]


def pdq(image: np.ndarray) -> tuple[str, int]:
    """Return the hash as 64 hex digits, and its quality, 0..100. image: uint8 [H, W, 3], sRGB."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    for _ in range(2):
        luma = _box(_box(luma, 1), 0)
    rows, columns = (((np.arange(_GRID) + 0.5) * side / _GRID).astype(int) for side in luma.shape)
    small = luma[np.ix_(rows, columns)]
    coefficients = (_BASIS @ small @ _BASIS.T).ravel()
    median = np.partition(coefficients, BITS // 2 - 1)[BITS // 2 - 1]
    bits = np.packbits(coefficients > median, bitorder="little")
    return bits[::-1].tobytes().hex(), _quality(small)


def distance(one: str, other: str) -> int:
    """Return in how many bits two hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def decode_with_pdq(data: bytes, config: ImageConfig) -> Decoded:
    """Decode as ``decoder.decode`` does, and hash the whole upright picture, whatever ``image.resize`` cuts off.

    ``Decoded.pdq`` is "" where the quality is too low to compare. Raises DecodeRefusal.
    """
    decoded = decode(data, config)
    keys = ("fill", "min_size", "max_aspect", "max_pixels", "animated", "decode_memory_mb")
    whole = SimpleNamespace(**{key: getattr(config, key) for key in keys}, size=_SIDE, resize="stretch")
    found, quality = pdq(decode(data, whole).image)  # type: ignore[arg-type]
    return replace(decoded, pdq=found if quality >= MIN_QUALITY else "")


def _box(luma: np.ndarray, axis: int) -> np.ndarray:
    """Mean over a window of 1/128 of the side, cut off at the borders, as the reference's tent filter takes it."""
    side = luma.shape[axis]
    window = (side + 2 * _GRID - 1) // (2 * _GRID)
    ahead = (window + 2) // 2
    sums = np.insert(np.cumsum(luma, axis=axis), 0, 0, axis=axis)
    stop = np.minimum(np.arange(side) + ahead, side)
    start = np.maximum(np.arange(side) + ahead - window, 0)
    shape = (-1, 1) if axis == 0 else (1, -1)
    return (sums.take(stop, axis) - sums.take(start, axis)) / (stop - start).reshape(shape)


def _quality(small: np.ndarray) -> int:
    """How much there is to see: the sum of steps between neighbours."""
    steps = sum(np.abs((np.diff(small, axis=axis) * 100 / 255).astype(int)).sum() for axis in (0, 1))
    return min(int(steps / 90), 100)
