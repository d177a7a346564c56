"""Two groups of processes by turns of a few seconds, so that both meet the same machine: the work of one minute takes a
virtual machine a tenth more CPU time in another."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil


@dataclass
class Side:
    """One of the groups. roots: pids, each with all its descendants; pipes: each gives one message when its work is
    done. wall: seconds it was allowed to run until then; found: the messages."""

    roots: list[int]
    pipes: list[Connection]
    wall: float = 0.0
    found: list[Any] = field(default_factory=list)


def by_turns(sides: Iterable[Side], seconds: float) -> None:
    """Let each side run alone for ``seconds``, the others stopped, until all are done.

    Leaves all of them running. Raises SystemExit where a process ends without a message.
    """
    sides = list(sides)
    try:
        for side in sides:
            _signal(side, signal.SIGSTOP)
        while any(side.pipes for side in sides):
            for side in sides:
                if side.pipes:
                    _turn(side, seconds)
    finally:
        for side in sides:
            _signal(side, signal.SIGCONT)


def _turn(side: Side, seconds: float) -> None:
    _signal(side, signal.SIGCONT)
    began = time.perf_counter()
    while side.pipes and (left := began + seconds - time.perf_counter()) > 0:
        for pipe in wait(side.pipes, timeout=left):
            assert isinstance(pipe, Connection)
            side.found.append(heard(pipe))
            side.pipes.remove(pipe)
    side.wall += time.perf_counter() - began
    _signal(side, signal.SIGSTOP)


def heard(pipe: Connection) -> Any:
    """Return a process's next message. Raises SystemExit where it ended without one."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        raise SystemExit("A process ended before its work was done; what it said is above.") from None


def _signal(side: Side, number: signal.Signals) -> None:
    """Send a signal to a side's processes, parents first, so that none is started behind its back."""
    for root in side.roots:
        with suppress(psutil.Error):
            process = psutil.Process(root)
            for one in (process, *process.children(recursive=True)):
                with suppress(ProcessLookupError):
                    os.kill(one.pid, number)
