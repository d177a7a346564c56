"""A coroutine runs to its end in a script, and inside the loop that a notebook's cell runs in."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from l2i_builder.run.eventloop import run_to_end


async def name_of_the_thread() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_without_a_loop_the_work_stays_in_the_thread() -> None:
    assert run_to_end(name_of_the_thread) == threading.current_thread().name


def test_inside_a_loop_it_gets_a_thread() -> None:
    async def cell() -> str:
        return run_to_end(name_of_the_thread)

    assert asyncio.run(cell()) == "l2i-driver"
    assert "l2i-driver" not in [thread.name for thread in threading.enumerate()]


def test_errors_come_out_as_they_are() -> None:
    async def fails() -> None:
        raise ValueError("as it is")

    async def cell() -> None:
        run_to_end(fails)

    with pytest.raises(ValueError, match="as it is"):
        asyncio.run(cell())


def test_an_interrupt_lets_the_work_clean_up() -> None:
    cleaned = []

    async def long() -> None:
        try:
            await asyncio.sleep(0.2)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    async def cell() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(long)

    loop = asyncio.new_event_loop()  # as a notebook has it; asyncio.run would take the interrupt for itself
    loop.run_until_complete(cell())
    loop.close()
    assert cleaned == [True]
