"""Manners towards hosts: how many requests at once, how many a second, and waiting when asked to."""

from __future__ import annotations

import asyncio

_REMEMBERED = 20_000  # hosts; beyond it those nobody waits for are forgotten


class HostGate:
    """The door of one host: ``async with gate`` waits until a request may be sent."""

    __slots__ = ("_hold_until", "_interval", "_last", "_next", "_slots", "pending")

    def __init__(self, slots: int, interval: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._interval = interval  # seconds between requests; 0 = no limit
        self._next = 0.0  # loop time at which the next request may start
        self._hold_until = 0.0
        self._last = float("-inf")  # loop time of the last request
        self.pending = 0  # requests inside or waiting

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: the host said Retry-After."""
        self._hold_until = max(self._hold_until, asyncio.get_running_loop().time() + seconds)

    def slow_down(self, interval: float) -> None:
        """Leave at least so many seconds between requests: the host's Crawl-delay."""
        self._interval = max(self._interval, interval)

    def visit(self, within: float) -> bool:
        """Count a request that starts now; return whether others wait, or the last one was so many seconds ago
        at most: whether keeping the connection is likely to pay."""
        last, self._last = self._last, asyncio.get_running_loop().time()
        return self.pending > 1 or self._last - last <= within

    def idle(self, now: float) -> bool:
        """Whether forgetting the host changes nothing."""
        return not self.pending and self._hold_until <= now and self._next <= now

    async def __aenter__(self) -> None:
        self.pending += 1
        try:
            await self._slots.acquire()
        except BaseException:
            self.pending -= 1
            raise
        if self._interval or self._hold_until:
            try:
                await self._wait_turn()
            except BaseException:
                await self.__aexit__()
                raise

    async def __aexit__(self, *_: object) -> None:
        self.pending -= 1
        self._slots.release()

    async def _wait_turn(self) -> None:
        now = asyncio.get_running_loop().time()
        start = max(now, self._next, self._hold_until)
        self._next = start + self._interval
        if start > now:
            await asyncio.sleep(start - now)


class Politeness:
    """The gates of all hosts.

    per_host: requests in flight per host; rate: requests a second per host, 0 = no limit.
    """

    def __init__(self, per_host: int, rate: float) -> None:
        self._per_host = per_host
        self._interval = 1 / rate if rate > 0 else 0.0
        self._gates: dict[str, HostGate] = {}

    def gate(self, host: str) -> HostGate:
        """Return the gate of a host."""
        gate = self._gates.get(host)
        if gate is None:
            if len(self._gates) >= _REMEMBERED:
                now = asyncio.get_running_loop().time()
                self._gates = {name: other for name, other in self._gates.items() if not other.idle(now)}
            gate = self._gates[host] = HostGate(self._per_host, self._interval)
        return gate
