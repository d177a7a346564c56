"""CPU time and memory of a process with everything it started, on Linux."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "l2i-benchmarks"
_SHARED = ("/dev/shm/", "/memfd:")  # what object stores and shared memory segments are files of


@dataclass(frozen=True)
class Memory:
    """Bytes held. anonymous: pages of the processes' own, those shared after a fork once; shared: pages of shared
    memory files that any of them has open, as an object store's, once. processes: how many there were."""

    anonymous: int = 0
    shared: int = 0
    processes: int = 0

    @property
    def total(self) -> int:
        return self.anonymous + self.shared


class Point(NamedTuple):
    """What had been used at a time of ``time.time()``: CPU seconds of the whole tree since the watch began."""

    time: float
    cpu: float


class ProcessTree(threading.Thread):
    """Follows a process and its descendants until ``stop``, those that outlive their parents as well.

    CPU is read every ``every`` seconds: what a process used between the last look and its end is not seen. Memory is
    read every ``memory_every`` seconds, since the kernel has to walk every page table for it.
    """

    def __init__(self, pid: int, every: float = 0.2, memory_every: float = 1.0) -> None:
        super().__init__(name="process-tree", daemon=True)
        self.points: list[Point] = []
        self.peak = Memory()
        self._root, self._every, self._memory_every = psutil.Process(pid), every, memory_every
        self._known: dict[psutil.Process, float] = {}  # -> CPU seconds at the last look
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def run(self) -> None:
        due = time.monotonic()
        while not self._stopped.wait(self._every):
            self.look()
            if time.monotonic() >= due:
                self.weigh()
                due = time.monotonic() + self._memory_every

    def stop(self) -> None:
        """Look a last time, and end the thread."""
        self._stopped.set()
        if self.is_alive():
            self.join()
        self.look()

    def look(self) -> Point:
        """Read the CPU time of everything alive now."""
        with self._lock:
            with suppress(psutil.Error):
                for process in (self._root, *self._root.children(recursive=True)):
                    self._known.setdefault(process, 0.0)
            for process in self._known:
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self._known[process] = times.user + times.system
            self.points.append(Point(time.time(), sum(self._known.values())))
            return self.points[-1]

    def weigh(self) -> Memory:
        """Read the memory of everything alive now, and remember the most."""
        anonymous = count = 0
        files: dict[tuple[int, int], int] = {}
        for process in list(self._known):
            with suppress(OSError, psutil.Error):
                if not process.is_running():
                    continue
                anonymous += _anonymous(process.pid)
                files |= _shared_files(process.pid)
                count += 1
        memory = Memory(anonymous, sum(files.values()), count)
        self.peak = max(self.peak, memory, key=lambda one: one.total)
        return memory

    def end(self) -> None:
        """Stop, and kill what is left of the tree."""
        self.stop()
        for process in self._known:
            with suppress(psutil.Error):
                if process.is_running():  # the same process, not another that has its number now
                    process.kill()

    def between(self, start: float, end: float) -> tuple[float, float]:
        """Return wall and CPU seconds between two times of ``time.time()``, the CPU interpolated."""
        return end - start, self._cpu_at(end) - self._cpu_at(start)

    def _cpu_at(self, moment: float) -> float:
        before = Point(0.0, 0.0)
        for point in self.points:
            if point.time >= moment:
                share = (moment - before.time) / (point.time - before.time)
                return before.cpu + share * (point.cpu - before.cpu) if before.time else point.cpu
            before = point
        return before.cpu


@dataclass(frozen=True)
class Spent:
    """What a command took: wall and CPU seconds, and the most memory of all its processes together."""

    wall: float
    cpu: float
    peak: Memory


def ended_by_signal() -> None:
    """Make SIGTERM an exception like any other, so that what was started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def environment(**more: str) -> dict[str, str]:
    """Variables for what is measured: this repository can be imported, libraries take one thread, bytecode is kept.

    Without kept bytecode, as where an image sets PYTHONDONTWRITEBYTECODE, every process compiles all it imports: what
    starts the most processes would be measured by that.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    alike = {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(CACHE / "bytecode"), "OMP_NUM_THREADS": "1"}
    return kept | alike | {"NO_ALBUMENTATIONS_UPDATE": "1"} | more  # which would ask the network


def run_watched(command: Sequence[str | Path], log: Path, **more: str) -> Spent:
    """Run a command to its end, what it says into ``log``; more: environment variables.

    Raises SystemExit where it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(**more),
            cwd=ROOT,
        )
        tree = ProcessTree(process.pid, every=0.1)
        tree.start()
        try:
            code = process.wait()
            wall = time.perf_counter() - began
        finally:
            tree.end()
    if code:
        raise SystemExit(f"{command[0]} ended with code {code}:\n{log.read_text(errors='replace')[-2000:]}")
    return Spent(wall, tree.points[-1].cpu, tree.peak)


def _anonymous(pid: int) -> int:
    """Bytes of anonymous pages, each divided by the number of processes that map it."""
    with Path(f"/proc/{pid}/smaps_rollup").open("rb") as file:
        for line in file:
            if line.startswith(b"Pss_Anon:"):
                return int(line.split()[1]) * 1024
    return 0


def _shared_files(pid: int) -> dict[tuple[int, int], int]:
    """Return (device, inode) -> bytes in memory of the shared memory files a process has open, deleted ones too."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(_SHARED):
                facts = link.stat()
                found[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return found
