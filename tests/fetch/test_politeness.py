"""Manners towards hosts: how many at once, how many a second, and waiting when asked to."""

import asyncio

import pytest

from l2i_builder.fetch import politeness
from l2i_builder.fetch.politeness import HostGate, Politeness


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for, in order; nobody really waits."""
    asked: list[float] = []
    sleep = asyncio.sleep

    async def remember(seconds: float) -> None:
        asked.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", remember)
    return asked


async def visits(gate: HostGate, count: int) -> int:
    """Send ``count`` through at once; return how many were inside together."""
    inside = most = 0

    async def one() -> None:
        nonlocal inside, most
        async with gate:
            inside += 1
            most = max(most, inside)
            for _ in range(5):
                await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(one() for _ in range(count)))
    return most


def test_as_many_at_once_as_allowed():
    assert asyncio.run(visits(Politeness(3, 0).gate("a.test"), 10)) == 3


def test_hosts_do_not_wait_for_each_other():
    async def main() -> int:
        manners = Politeness(2, 0)
        assert manners.gate("a.test") is manners.gate("a.test")
        return sum(await asyncio.gather(*(visits(manners.gate(host), 5) for host in ("a.test", "b.test"))))

    assert asyncio.run(main()) == 4


def test_rate_spaces_requests_evenly(waits):
    async def main() -> None:
        gate = Politeness(8, rate=4).gate("a.test")
        await asyncio.gather(*(through(gate) for _ in range(4)))

    asyncio.run(main())
    assert waits == pytest.approx([0.25, 0.5, 0.75], abs=0.1)


async def through(gate: HostGate) -> None:
    async with gate:
        pass


def test_no_rate_no_wait(waits):
    asyncio.run(visits(HostGate(8, 0), 4))
    assert set(waits) == {0}


def test_a_hold_lets_nobody_through_until_it_ends(waits):
    async def main() -> None:
        gate = HostGate(8, 0)
        gate.hold(7)
        gate.hold(3)  # does not shorten it
        await asyncio.gather(through(gate), through(gate))

    asyncio.run(main())
    assert waits == pytest.approx([7, 7], abs=0.1)


def test_crawl_delay_slows_down_and_never_speeds_up(waits):
    async def main() -> None:
        gate = HostGate(8, 0)
        gate.slow_down(2)
        gate.slow_down(1)
        await through(gate)
        await through(gate)

    asyncio.run(main())
    assert waits == pytest.approx([2], abs=0.1)


def test_a_cancelled_visitor_leaves_no_trace():
    async def main() -> int:
        gate = HostGate(1, 0)
        gate.hold(60)
        held = asyncio.create_task(through(gate))
        queued = asyncio.create_task(through(gate))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in (held, queued):
            task.cancel()
        await asyncio.gather(held, queued, return_exceptions=True)
        gate._hold_until = 0.0
        await through(gate)
        return gate.pending

    assert asyncio.run(main()) == 0


def test_a_connection_is_worth_keeping_when_the_host_is_met_again():
    async def main() -> list[bool]:
        gate = HostGate(8, 0)
        async with gate:
            first = gate.visit(within=60)
        async with gate:
            again = gate.visit(within=60)
            late = gate.visit(within=-1)
            async with gate:
                together = gate.visit(within=-1)
        return [first, again, late, together]

    assert asyncio.run(main()) == [False, True, False, True]


def test_idle_hosts_are_forgotten_and_busy_ones_are_not(monkeypatch):
    monkeypatch.setattr(politeness, "_REMEMBERED", 3)

    async def main() -> None:
        manners = Politeness(1, 0)
        held, busy, idle = (manners.gate(f"{name}.test") for name in ("held", "busy", "idle"))
        held.hold(60)
        async with busy:
            manners.gate("new.test")
            assert manners.gate("held.test") is held
            assert manners.gate("busy.test") is busy
            assert manners.gate("idle.test") is not idle

    asyncio.run(main())
