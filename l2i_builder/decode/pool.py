"""Decoding in child processes: what a hostile image does to its decoder stays with that image."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

import numpy as np

from l2i_builder.config import Image as ImageConfig
from l2i_builder.decode.decoder import Decoded, DecodeRefusal
from l2i_builder.errors import ClusterError
from l2i_builder.sample import Reason

_START_SECONDS = 120.0  # a child takes a fraction of a second; cold network file systems have been seen to take long
# glibc's allocator keeps what one image needed for the next, in place of asking the kernel for zeroed pages each time:
# half of the system time of decoding, a tenth of the whole.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": 32 * 2**20, "MALLOC_TRIM_THRESHOLD_": 64 * 2**20, "MALLOC_TOP_PAD_": 16 * 2**20}


class DecoderPool:
    """``workers`` decoder processes, one image at a time each.

    Every child has ``image.decode_memory_mb`` of address space and ``image.decode_timeout`` seconds an image; one
    that dies or overruns is replaced at once, and only its image is lost. Children see none of the environment
    (credentials) and die with this process. Use it from one event loop. ``decoder`` is the ``module:function``
    that the children run, with the signature of ``decode.decode``.
    """

    def __init__(
        self, config: ImageConfig, workers: int = 1, decoder: str = "l2i_builder.decode.decoder:decode"
    ) -> None:
        self.workers = workers
        self.busy_seconds = 0.0  # wall seconds of all children together
        self._children = [_Child(config, decoder) for _ in range(workers)]
        self._idle: asyncio.Queue[_Child] = asyncio.Queue()
        for child in self._children:
            self._idle.put_nowait(child)

    async def decode(self, data: bytes, place: Callable[[], np.ndarray] | None = None) -> Decoded:
        """Decode one image; raises DecodeRefusal as ``decode.decode`` does, and for crashes and overruns.

        place: called once the pixels are there, gives the array to put them into; None = a new one. Raises
        ClusterError when a decoder process cannot be started at all.
        """
        child = await self._idle.get()
        start = time.perf_counter()
        try:
            return await child.decode(data, place)
        finally:
            self.busy_seconds += time.perf_counter() - start
            self._idle.put_nowait(child)

    def close(self) -> None:
        """End the children. Safe to call twice."""
        for child in self._children:
            child.stop()


class _Child:
    def __init__(self, config: ImageConfig, decoder: str) -> None:
        self._config = config
        self._decoder = decoder
        self._start()

    def _start(self) -> None:
        """Start the process, without waiting for it. posix_spawn or vfork underneath: safe beside threads."""
        size = self._config.size
        self._socket, theirs = socket.socketpair()
        with theirs, _shared_file(size * size * 3) as pixels:
            self._pixels = mmap.mmap(pixels.fileno(), 0)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "l2i_builder.decode.child", "--decoder", self._decoder),
                    *("--socket", str(theirs.fileno()), "--pixels", str(pixels.fileno())),
                    *("--parent", str(os.getpid())),
                ],
                pass_fds=(theirs.fileno(), pixels.fileno()),
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        self._socket.sendall(_frame(self._config.model_dump_json().encode()))  # far below the socket's buffer
        self._socket.setblocking(False)
        self._ready = False

    async def decode(self, data: bytes, place: Callable[[], np.ndarray] | None) -> Decoded:
        try:
            if self._process.poll() is not None:  # ended while idle: no fault of this image
                self._replace(dead=True)
            if not self._ready:
                await self._wait_until_ready()
            async with asyncio.timeout(self._config.decode_timeout):
                answer = await self._ask(data)
        except TimeoutError:
            self._replace()
            detail = f"longer than image.decode_timeout ({self._config.decode_timeout:g} s)"
            raise DecodeRefusal(Reason.DECODE_TIMEOUT, detail) from None
        except (ConnectionError, EOFError):
            raise DecodeRefusal(Reason.DECODER_CRASHED, f"the decoder {self._replace(dead=True)}") from None
        except asyncio.CancelledError:
            self._replace()  # it is still busy with an image that nobody waits for
            raise
        if "reason" in answer:
            raise DecodeRefusal(Reason(answer["reason"]), answer["detail"])
        pixels = np.frombuffer(self._pixels, dtype=np.uint8).reshape(self._config.size, self._config.size, 3)
        image = np.empty_like(pixels) if place is None else place()
        image[:] = pixels  # the child writes over its own at the next image
        facts = (answer["width"], answer["height"], answer["format"], tuple(answer["notes"]), answer["pdq"])
        return Decoded(image, *facts)

    async def _wait_until_ready(self) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._receive()
        except (TimeoutError, ConnectionError, EOFError):
            ending = self._replace(dead=True)
            raise ClusterError(
                f"the decoder process does not start: it {ending}; run `python -m l2i_builder.decode.child --help`"
                f" on this machine, and see that image.decode_memory_mb ({self._config.decode_memory_mb}) is enough"
            ) from None
        self._ready = True

    async def _ask(self, data: bytes) -> dict:
        header = struct.pack(">I", len(data))
        try:  # both at once: a child that is woken for the length alone goes back to sleep
            sent = self._socket.sendmsg((header, data))
        except BlockingIOError:
            sent = 0
        if sent < len(header) + len(data):
            await asyncio.get_running_loop().sock_sendall(self._socket, memoryview(header + data)[sent:])
        return await self._receive()

    async def _receive(self) -> dict:
        loop = asyncio.get_running_loop()
        buffer = b""
        while len(buffer) < 4 or len(buffer) < 4 + struct.unpack(">I", buffer[:4])[0]:
            received = await loop.sock_recv(self._socket, 65536)
            if not received:
                raise EOFError
            buffer += received
        return json.loads(buffer[4:])

    def _replace(self, dead: bool = False) -> str:
        """End the process and start another; return how it ended. ``dead``: it has closed its socket by itself."""
        self.stop(patience=5 if dead else 0)
        code = self._process.wait()
        self._start()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def stop(self, patience: float = 0) -> None:
        """Kill the process, after ``patience`` seconds in which it may end by itself."""
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._process.kill()
        self._process.wait()
        self._socket.close()


def _frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def _shared_file(size: int) -> IO[bytes]:
    """Return an unnamed file of ``size`` bytes in memory, or on disk where the system has no such thing."""
    if sys.platform == "linux":
        file = os.fdopen(os.memfd_create("l2i-decoder"), "r+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    os.ftruncate(file.fileno(), size)
    return file


def _environment() -> dict[str, str]:
    """What a child needs to import the same modules, and nothing else."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH", "TMPDIR") if name in os.environ}
    # One image, one thread: BLAS would reserve tens of megabytes of address space for each core.
    modules = os.pathsep.join(path for path in sys.path if path)
    allocator = {name: str(size) for name, size in _ALLOCATOR.items()}
    return {**kept, **allocator, "PYTHONPATH": modules, "OPENBLAS_NUM_THREADS": "1"}
