"""Layered PSD files, written byte by byte (Adobe's "Photoshop File Formats Specification", version 1 files).

Only what layered images need: RGB, 8 bits, layers with an optional layer mask, a merged image, Unicode names.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_SIDE = 30_000  # pixels; larger pictures would need the big format, PSB

_ALPHA, _MASK = -1, -2  # numbers of channels
_RAW = struct.pack(">H", 0)  # channel data without compression


@dataclass(frozen=True)
class PsdLayer:
    """A layer over the whole canvas.

    pixels uint8 [H, W, 3]; ``mask`` uint8 [H, W]: a layer mask, which leaves the pixels under it editable; ``alpha``
    uint8 [H, W]: transparency. None = opaque.
    """

    name: str
    pixels: np.ndarray
    mask: np.ndarray | None = None
    alpha: np.ndarray | None = None


def psd_bytes(layers: Sequence[PsdLayer], merged: np.ndarray) -> bytes:
    """Return a PSD file: ``layers`` from the bottom up, and what they look like together, uint8 [H, W, 3].

    Raises ValueError when there are none, sizes differ, or a side is over 30,000 pixels.
    """
    height, width = merged.shape[:2]
    if not layers or max(height, width) > MAX_SIDE:
        raise ValueError(f"a PSD needs at least one layer and sides of at most {MAX_SIDE} pixels")
    for layer in layers:
        parts = [layer.pixels, *(plane for plane in (layer.mask, layer.alpha) if plane is not None)]
        if any(part.shape[:2] != (height, width) or part.dtype != np.uint8 for part in parts):
            raise ValueError(f"layer {layer.name!r} is not uint8 of {height} x {width} pixels")
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, height, width, 8, 3)
    records, pixels = zip(*(_layer(layer, height, width) for layer in layers), strict=True)
    info = struct.pack(">h", len(layers)) + b"".join(records) + b"".join(pixels)
    info = _sized(info + b"\0" * (-len(info) % 2))
    layer_section = _sized(info + _sized(b""))  # an empty global mask follows the layers
    planes = b"".join(merged[:, :, channel].tobytes() for channel in range(3))
    return header + _sized(b"") + _sized(_resources()) + layer_section + _RAW + planes


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _resources() -> bytes:
    """Image resources: 72 dots an inch, without which some programs take the picture for damaged."""
    inch = struct.pack(">IHHIHH", 72 << 16, 1, 1, 72 << 16, 1, 1)
    return b"8BIM" + struct.pack(">HH", 1005, 0) + _sized(inch)


def _layer(layer: PsdLayer, height: int, width: int) -> tuple[bytes, bytes]:
    """Return (record, channel data) of a layer."""
    opaque = np.full((height, width), 255, np.uint8)
    channels = [(_ALPHA, opaque if layer.alpha is None else layer.alpha)]
    channels += [(number, layer.pixels[:, :, number]) for number in range(3)]
    if layer.mask is not None:
        channels.append((_MASK, layer.mask))
    data = [_RAW + plane.tobytes() for _, plane in channels]
    box = struct.pack(">4i", 0, 0, height, width)
    mask = box + struct.pack(">BBH", 0, 0, 0) if layer.mask is not None else b""  # outside it: hidden
    extra = _sized(mask) + _sized(b"") + _pascal(layer.name) + _unicode(layer.name)
    record = box + struct.pack(">H", len(channels))
    for (number, _), plane in zip(channels, data, strict=True):
        record += struct.pack(">hI", number, len(plane))
    record += b"8BIMnorm" + struct.pack(">BBBB", 255, 0, 0, 0) + _sized(extra)
    return record, b"".join(data)


def _pascal(name: str) -> bytes:
    """A name for old readers: ASCII, at most 31 bytes, padded to a multiple of four with its length."""
    short = name.encode("ascii", "replace")[:31]
    data = bytes([len(short)]) + short
    return data + b"\0" * (-len(data) % 4)


def _unicode(name: str) -> bytes:
    """The whole name, UTF-16."""
    text = name.encode("utf-16-be", "replace")
    data = struct.pack(">I", len(text) // 2) + text
    return b"8BIMluni" + _sized(data + b"\0" * (-len(data) % 4))
