"""Pools of Ray actors: who is free, who is dead, and who comes back.

A pool hands out *slots* of healthy actors. An actor that fails gets its slot back only when it answers
``ready`` again: choosing the least loaded actor would feed dead ones, since calls to them return at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RayActorError,
    RayError,
    RayTaskError,
)

from l2i_builder.errors import ClusterError, L2IError
from l2i_builder.run.observe import PoolState

READY_TRIES = 3  # times an actor may raise while it loads before it is given up
CALL_TRIES = 3  # actors a call is tried on before its shard's attempt fails
PATIENCE = 120.0  # seconds without an answer from a starting actor before people are told


class Slots:
    """Free slots of actors, preferring those on a given node: pixels then stay in that node's object store.

    The one that has been free longest comes first. Nothing here takes longer where there are more slots.
    """

    def __init__(self) -> None:
        self._free: OrderedDict[int, tuple[Any, str]] = OrderedDict()  # by the order in which they became free
        self._near: defaultdict[str, deque[int]] = defaultdict(deque)  # node -> places in ``_free``
        self._put = 0
        self._waiting: deque[asyncio.Future[tuple[Any, str]]] = deque()

    async def get(self, node: str = "") -> tuple[Any, str]:
        if self._free:
            near = self._near.get(node)
            place = near[0] if near else next(iter(self._free))
            actor, where = self._free.pop(place)
            self._near[where].popleft()  # the first that became free anywhere is the first on its node
            return actor, where
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.put(*turn.result())  # the slot was handed over while the caller was being cancelled
            raise

    def put(self, actor: Any, node: str) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result((actor, node))
                return
        self._put += 1
        self._free[self._put] = actor, node
        self._near[node].append(self._put)

    @property
    def free(self) -> int:
        """Slots nobody holds."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """Callers that found none."""
        return sum(not turn.done() for turn in tuple(self._waiting))


class Pool:
    """Actors of one kind. ``make()`` creates one; ``size`` actors with ``slots`` calls in flight each.

    ``fatal`` is done when the pool cannot go on: an error the user must mend, or no actor left. ``note`` is told, in
    a sentence, what keeps the pool waiting.
    """

    def __init__(
        self, name: str, make: Callable[[], Any], size: int, slots: int, timeout: float, note: Callable[[str], None]
    ) -> None:
        self.name, self.size, self.slots, self.timeout, self.note = name, size, slots, timeout, note
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.restarts = 0
        self._make, self._slots = make, Slots()
        self._given_up = 0
        self._told = asyncio.get_running_loop().time()
        self._heirs: dict[Any, Any] = {}  # id of an actor gone for good -> the one that took its place
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._actors = [make() for _ in range(size)]
        for actor in self._actors:
            for _ in range(slots):
                self._spawn(self._revive(actor))

    async def call(self, ref: Any, node: str = "") -> tuple[Any, Any]:
        """Run ``actor.run(ref)`` on a healthy actor. Returns (result ref, its small summary).

        An actor's death or silence costs another try elsewhere; what the call itself raises goes to the caller.
        """
        for left in reversed(range(CALL_TRIES)):
            actor, where = await self._slots.get(node)
            result, summary = actor.run.options(num_returns=2).remote(ref)
            self._busy += 1
            try:
                value = await asyncio.wait_for(summary, self.timeout)
            except RayTaskError:  # its code raised, or its input was lost; the actor lives
                self._slots.put(actor, where)
                raise
            except (RayActorError, TimeoutError) as error:
                if not isinstance(error, RayActorError):
                    ray.kill(actor, no_restart=False)
                self._spawn(self._revive(actor))
                self.restarts += 1
                if not left:
                    raise ClusterError(f"{CALL_TRIES} {self.name} actors in a row gave no answer.") from error
            except BaseException:
                ray.cancel(summary)
                self._spawn(self._revive(actor))
                raise
            else:
                self._slots.put(actor, where)
                return result, value
            finally:
                self._busy -= 1
        raise AssertionError("unreachable")

    async def stream(self, *args: Any) -> AsyncGenerator[tuple[Any, str], None]:
        """Yield (ref, node) of everything ``actor.stream(*args)`` yields, holding one slot meanwhile.

        An actor that is dead before it gave anything costs another try elsewhere. Raises ClusterError where it is
        silent for ``timeout`` seconds while somebody waits for it.
        """
        for left in reversed(range(CALL_TRIES)):
            actor, where = await self._slots.get()
            refs = actor.stream.options(num_returns="streaming", _generator_backpressure_num_objects=2).remote(*args)
            given = False
            self._busy += 1
            try:
                while (ref := await _next(refs, self.timeout)) is not None:
                    given = True
                    yield ref, where
                await refs.completed()  # raises what the source raised
            except TimeoutError as error:
                ray.kill(actor, no_restart=False)
                self.restarts += 1
                self._spawn(self._revive(actor))
                silent = f"a {self.name} actor gave nothing for {self.timeout:g} s; it is replaced."
                raise ClusterError(silent) from error
            except (ActorDiedError, ActorUnavailableError):
                self.restarts += 1
                self._spawn(self._revive(actor))
                if given or not left:
                    raise
            except BaseException:
                ray.cancel(refs)
                self._spawn(self._revive(actor))
                raise
            else:
                self._slots.put(actor, where)
                return
            finally:
                self._busy -= 1

    def state(self) -> PoolState:
        """What the pool is doing; may be asked from any thread."""
        busy, free, lost = self._busy, self._slots.free, self._given_up
        starting = max(0, self.size * self.slots - busy - free - lost)
        return PoolState(self.name, self.size, busy, free, starting, lost, self._slots.waiting, self.restarts)

    def close(self) -> None:
        """End the actors and what still waits for them."""
        for task in self._tasks:
            task.cancel()
        for actor in self._actors:
            ray.kill(actor)
        if self.fatal.done():
            self.fatal.exception()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _revive(self, actor: Any) -> None:
        """Give one slot of an actor back once it answers; replace an actor that is gone for good."""
        for left in reversed(range(READY_TRIES)):
            try:
                where = await self._answer(actor)
            except RayTaskError as error:
                if isinstance(error.cause, L2IError):
                    self._fail(error.cause)
                    return
                problem: Exception = error.cause or error
            except ActorDiedError as error:  # beyond Ray's own restarts, or it could not be made
                problem = error
                actor = self._heir(actor)
            else:
                self._slots.put(actor, where)
                return
            if not left:
                self._give_up(problem)
            else:
                await asyncio.sleep(1)

    async def _answer(self, actor: Any) -> str:
        """Wait until an actor answers; Ray may be restarting it, or waiting for a node to put it on."""
        while True:
            answer = asyncio.wrap_future(actor.ready.remote().future())
            answer.add_done_callback(lambda one: one.cancelled() or one.exception())  # at the end nobody asks any more
            while not (await asyncio.wait({answer}, timeout=PATIENCE))[0]:
                self._tell_waiting()
            try:
                return answer.result()
            except (RayTaskError, ActorDiedError):
                raise
            except RayError:
                await asyncio.sleep(1)

    def _tell_waiting(self) -> None:
        """Say that a starting actor is silent, once for all of them in each PATIENCE."""
        now = asyncio.get_running_loop().time()
        if now - self._told >= PATIENCE:
            self._told = now
            self.note(
                f"a {self.name} actor has not answered for {PATIENCE:.0f} s: it is loading its models, or waits for a "
                "node with what it reserves (`ray status` tells; cluster.groups and cluster.fetcher_cpus say how much)"
            )

    def _heir(self, actor: Any) -> Any:
        if actor._actor_id not in self._heirs:
            self._heirs[actor._actor_id] = self._make()
            self._actors.append(self._heirs[actor._actor_id])
        return self._heirs[actor._actor_id]

    def _give_up(self, problem: Exception) -> None:
        self._given_up += 1
        if self._given_up >= self.size * self.slots:
            lines = str(problem).strip().splitlines()
            self._fail(ClusterError(f"No {self.name} actor could start: {lines[-1] if lines else problem!r}"))

    def _fail(self, error: L2IError) -> None:
        if not self.fatal.done():
            self.fatal.set_exception(error)


async def _next(refs: Any, seconds: float) -> Any:
    """Return the next ref of a stream, None after the last. Raises TimeoutError, and what ended its actor."""
    async with asyncio.timeout(seconds):
        ref = await anext(refs, None)
    if ref is refs.completed():  # Ray's way to say that the actor is dead
        await ref
    return ref
