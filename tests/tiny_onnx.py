"""Smallest ONNX graphs, written field by field (https://onnx.ai/onnx/repo-docs/IR.html): tests need no onnx package."""

from __future__ import annotations

import struct

FLOAT = 1  # TensorProto.FLOAT


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _tensor(field: int, name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    kind = _bytes(1, _number(1, FLOAT) + _bytes(2, dims))
    return _bytes(field, _bytes(1, name) + _bytes(2, kind))


def _node(operation: str, source: str, result: str, more: tuple[str, ...] = ()) -> bytes:
    inputs = b"".join(_bytes(1, name) for name in (source, *more))
    return _bytes(1, inputs + _bytes(2, result) + _bytes(4, operation))


def _constant(name: str, values: list[float], shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_number(1, size) for size in shape)
    return _bytes(5, dims + _number(2, FLOAT) + _bytes(8, name) + _bytes(9, struct.pack(f"<{len(values)}f", *values)))


def saliency_model(side: int) -> bytes:
    """A model that finds what is bright: input [1, 3, side, side] -> sigmoid of the channels' mean [1, 1, ...]."""
    graph = _node("Conv", "x", "mean", more=("weight",)) + _node("Sigmoid", "mean", "saliency") + _bytes(2, "saliency")
    graph += _constant("weight", [1 / 3] * 3, (1, 3, 1, 1))
    graph += _tensor(11, "x", (1, 3, side, side)) + _tensor(12, "saliency", (1, 1, side, side))
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _number(2, 13))
