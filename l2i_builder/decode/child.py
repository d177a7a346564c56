"""The decoder process: ``python -m l2i_builder.decode.child``, started and watched by ``decode_pool``.

Reads images from an inherited socket, decodes them under a memory limit, answers on the socket and leaves the
pixels in an inherited shared memory file. Frames are a big-endian uint32 length and so many bytes; the first frame
in is the image configuration as JSON, the first one out says that the child is ready; every other frame in is an
image, every other one out is JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from l2i_builder.decode.decoder import Decoded, DecodeRefusal

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until the socket closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", default="l2i_builder.decode.decoder:decode", help="module:function(data, config)")
    parser.add_argument("--socket", type=int, required=True, help="inherited file descriptor")
    parser.add_argument("--pixels", type=int, required=True, help="inherited file descriptor of the shared memory")
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent")
    args = parser.parse_args()
    _die_with(args.parent)
    module, _, function = args.decoder.partition(":")
    decoder = getattr(importlib.import_module(module), function)
    with socket.socket(fileno=args.socket) as connection:
        first = _receive(connection)
        if first is None:
            return
        # A plain namespace: importing pydantic would double the time a child takes to start.
        config = SimpleNamespace(**json.loads(first))
        config.fill = tuple(config.fill)
        _limit_memory(config.decode_memory_mb)
        pixels = np.frombuffer(mmap.mmap(args.pixels, 0), dtype=np.uint8).reshape(config.size, config.size, 3)
        _send(connection, b"{}")
        _silence_libraries()
        while (data := _receive(connection)) is not None:
            _send(connection, json.dumps(_answer(data, config, decoder, pixels)).encode())


def _answer(
    data: bytes, config: SimpleNamespace, decoder: Callable[[bytes, Any], Decoded], pixels: np.ndarray
) -> dict[str, object]:
    try:
        decoded = decoder(data, config)
    except DecodeRefusal as refusal:
        return {"reason": refusal.reason, "detail": refusal.detail}
    pixels[:] = decoded.image
    size = {"width": decoded.width, "height": decoded.height}
    return {**size, "format": decoded.format, "notes": decoded.notes, "pdq": decoded.pdq}


def _receive(connection: socket.socket) -> bytes | None:
    """Return the next frame, None when the parent has closed the socket."""
    header = connection.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        return None
    (length,) = struct.unpack(">I", header)
    data = connection.recv(length, socket.MSG_WAITALL) if length else b""
    return data if len(data) == length else None


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(struct.pack(">I", len(message)) + message)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, also in the middle of a decode (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)


def _limit_memory(megabytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _silence_libraries() -> None:
    """Drop what libtiff and others print about malformed files."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


if __name__ == "__main__":
    main()
