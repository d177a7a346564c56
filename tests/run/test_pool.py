import asyncio

import pytest

from l2i_builder.run.pool import Slots


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 10))


def test_a_slot_on_the_pixels_node_comes_first():
    async def scene():
        slots = Slots()
        for actor, node in (("a", "n1"), ("b", "n2"), ("c", "n1")):
            slots.put(actor, node)
        return [(await slots.get("n2"))[0], (await slots.get("n2"))[0], (await slots.get())[0]]

    assert run(scene()) == ["b", "a", "c"]


def test_waiters_are_served_in_turn():
    async def scene():
        slots = Slots()
        waiters = [asyncio.create_task(slots.get()) for _ in range(3)]
        await asyncio.sleep(0)
        for actor in "abc":
            slots.put(actor, "n")
        return [(await waiter)[0] for waiter in waiters]

    assert run(scene()) == ["a", "b", "c"]


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_cancelled_waiter_loses_no_slot(handed_over):
    async def scene():
        slots = Slots()
        waiter = asyncio.create_task(slots.get())
        await asyncio.sleep(0)
        if handed_over:
            slots.put("a", "n")
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        if not handed_over:
            slots.put("a", "n")
        return (await slots.get())[0]

    assert run(scene()) == "a"
