"""An asyncio event loop whose clock jumps to the next timer: weeks pass in minutes."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jump(selectors.SelectSelector):
    """Waits for nothing: moves the loop's clock instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left to wait for: every task waits for another")
        self.loop.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``now``: virtual seconds since the loop was made. For one thread; files and sockets are never ready."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Jump()
        selector.loop = self
        super().__init__(selector)
        # A timer is due from this much before its time. As fine as a real clock's, it would be lost beside a time of
        # months, and a timer rounded down would be waited for without end.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.now

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)


class LoopTime:
    """What the driver uses of ``time``, on a loop's clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop

    def monotonic(self) -> float:
        return self.loop.now

    def time(self) -> float:
        return self.loop.now


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` on a new virtual loop. Raises RuntimeError where all tasks wait for one another."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop()))  # type: ignore[arg-type]
