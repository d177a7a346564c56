"""Actors of the simulated cluster: one call at a time, in turn, each taking the time that was drawn for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError, TaskCancelledError

from benchmarks.simulated.nodes import Cluster, Node
from l2i_builder.errors import MetadataError

AHEAD = 2  # objects of a stream that nobody has taken, at most


class Ref:
    """A reference to an object that is, or will be, on a node. node: None where it lies with the driver."""

    __slots__ = ("error", "node", "ready", "value", "waiting")

    def __init__(self, node: Node | None = None) -> None:
        self.node, self.ready = node, False
        self.value: Any = None
        self.error: Exception | None = None
        self.waiting: list[Any] = []

    def settle(self, value: Any = None, error: Exception | None = None, node: Node | None = None) -> None:
        if self.ready:
            return
        self.ready, self.value, self.error, self.node = True, value, error, node
        for future in self.waiting:
            if not future.done():
                future.set_exception(error) if error else future.set_result(value)
                if error:
                    future.exception()  # whoever awaited it may have gone meanwhile: that is no mistake
        self.waiting = []

    def _add(self, future: Any) -> Any:
        self.waiting.append(future)
        if self.ready:
            self.ready = False
            self.settle(self.value, self.error, self.node)
        return future

    def __await__(self) -> Generator[Any, None, Any]:
        return self._add(asyncio.get_running_loop().create_future()).__await__()

    def future(self) -> Future[Any]:
        return self._add(Future())

    def trouble(self) -> Exception | None:
        """Return why the object cannot be had: it was never made, or went with its node."""
        if self.error is None and self.node is not None and not self.node.alive:
            return ObjectLostError("00", None, "")
        return self.error


def raised(name: str, cause: Exception) -> Exception:
    """Return what Ray makes of an exception in a call."""
    return RayTaskError(name, str(cause), cause, "worker", 1, "10.0.0.1").as_instanceof_cause()


class Model(Protocol):
    """What an actor's ``make()`` gives on the simulated cluster. load: seconds until it is there."""

    load: Iterator[float]


class Call:
    """A call an actor has been sent: refs of what it returns, and what it needs."""

    __slots__ = ("args", "name", "refs")

    def __init__(self, name: str, refs: Sequence[Ref], args: Sequence[Any]) -> None:
        self.name, self.refs, self.args = name, refs, args

    def fail(self, error: Exception) -> None:
        for ref in self.refs:
            ref.settle(error=error)


class Actor:
    """An actor process: starts where the cluster puts it, dies, is started again."""

    def __init__(self, cluster: Cluster, model: Any, cpus: float, gpus: float) -> None:
        self.cluster, self.model, self.cpus, self.gpus = cluster, model, cpus, gpus
        self.loop = asyncio.get_running_loop()
        self.node: Node | None = None
        self.dead = self.loaded = self.born = False
        self.took = 0.0  # seconds of the batch it is at
        self.queue: deque[Call | Stream] = deque()
        self.current: Call | Stream | None = None
        self.timer: asyncio.Handle | None = None
        cluster.actors.append(self)
        cluster.place(self)

    def start(self, node: Node) -> None:
        self.node, self.born, self.loaded = node, True, False
        self._next()

    def send(self, call: Call | Stream) -> None:
        """Take a call; it fails at once where the actor is dead or being restarted."""
        if self.dead:
            self.loop.call_soon(call.fail, ActorDiedError())
        elif self.born and self.node is None:
            self.loop.call_soon(call.fail, ActorUnavailableError("the actor is being restarted", None))
        else:
            self.queue.append(call)
            self._next()

    def die(self, for_good: bool = False) -> None:
        """End the process. What it was doing, and what it was to do, fails; Ray starts it anew after a while."""
        if self.dead or (self.node is None and not for_good):
            return  # there is no process
        if self.timer:
            self.timer.cancel()
        died: Exception = ActorDiedError() if for_good else ActorUnavailableError("the actor has died", None)
        lost = [self.current, *self.queue] if self.current else [*self.queue]
        self.current, self.timer = None, None
        self.queue.clear()
        self.dead = self.dead or for_good
        self.cluster.leave(self)
        if self.dead:
            self.cluster.actors.remove(self)
        else:
            self.loop.call_later(next(self.cluster.restart), self._again)
        for call in lost:
            call.fail(died)

    def _again(self) -> None:
        if not self.dead:
            self.cluster.place(self)

    def hang(self) -> None:
        """Never finish what it is doing."""
        if self.timer:
            self.timer.cancel()

    def _next(self) -> None:
        if self.current is not None or not self.queue or self.node is None:
            return
        self.current = call = self.queue.popleft()
        seconds = 0.0
        if not self.loaded:
            seconds, self.loaded = next(self.model.load), True
        if isinstance(call, Stream):
            self.timer = self.loop.call_later(seconds, call.begin, self)
            return
        if call.name == "run" and call.args[0].trouble() is None:
            self.took = self.model.seconds(call.args[0].value)
            seconds += self.took
        self.timer = self.loop.call_later(seconds, self._finish, call)

    def _finish(self, call: Call) -> None:
        node = self.node
        if call.name == "ready":
            call.refs[0].settle(node.name if node else "")
        else:
            ref, cluster = call.args[0], self.cluster
            if trouble := ref.trouble():
                cluster.counts.lost_objects += isinstance(trouble, ObjectLostError)
                call.fail(raised("run", trouble))
            elif cluster.random.random() < cluster.rate.bad_batches:
                cluster.counts.bad_batches += 1
                call.fail(raised("run", RuntimeError("the model is broken")))
            else:
                summary = self.model.summary(ref.value)
                if self.gpus:
                    cluster.gpu_seconds, cluster.gpu_rows = (
                        cluster.gpu_seconds + self.took,
                        cluster.gpu_rows + summary.rows,
                    )
                call.refs[0].settle(ref.value, node=node)
                call.refs[1].settle(summary)
        self.done()

    def done(self) -> None:
        """Go on with the next call."""
        self.current, self.timer = None, None
        self._next()

    def cancel(self, call: Call | Stream) -> None:
        """Drop what has not begun; a stream ends, a batch on its way runs to its end."""
        if call in self.queue:
            self.queue.remove(call)
            call.fail(TaskCancelledError())
        elif call is self.current and isinstance(call, Stream):
            if self.timer:
                self.timer.cancel()
            call.fail(TaskCancelledError())
            self.done()


class Stream:
    """A generator task: refs of a shard's batches as they come, at most ``AHEAD`` that nobody has taken."""

    def __init__(self, shard: Any) -> None:
        self.shard, self.loop = shard, asyncio.get_running_loop()
        self.made: deque[Ref] = deque()
        self.taker: asyncio.Future[None] | None = None
        self.end = Ref()
        self.batches: Iterator[tuple[float, float, Any]] = iter(())
        self.stuck = False
        self.actor: Actor | None = None

    def begin(self, actor: Actor) -> None:
        self.actor, self.started = actor, self.loop.time()
        self.batches = actor.model.batches(self.shard)
        rate, random = actor.cluster.rate, actor.cluster.random
        self.breaks = random.random() < rate.bad_streams
        self._produce()

    def fail(self, error: Exception) -> None:
        """End with an error: as in Ray, a last object, of its own where the code raised, else the end's."""
        if not self.end.ready:
            last = Ref() if isinstance(error, RayTaskError) else self.end
            last.settle(error=error)
            self.made.append(last)
            self.end.settle(error=error)
            self._wake()

    def _produce(self) -> None:
        assert self.actor is not None
        actor = self.actor
        found = next(self.batches, None)
        if found is None:
            self.end.settle()
            self._wake()
            actor.done()
            return
        if self.breaks and actor.cluster.random.random() < 0.1:
            actor.cluster.counts.bad_streams += 1
            self.fail(raised("stream", MetadataError("the metadata cannot be read just now")))
            actor.done()
            return
        there, gap, content = found
        delay = max(self.started + there - self.loop.time(), gap)
        actor.timer = self.loop.call_later(delay, self._made, content)

    def _made(self, content: Any) -> None:
        assert self.actor is not None
        ref = Ref()
        ref.settle(content, node=self.actor.node)
        self.made.append(ref)
        self._wake()
        if len(self.made) < AHEAD:
            self._produce()
        else:
            self.stuck = True

    def _wake(self) -> None:
        if self.taker and not self.taker.done():
            self.taker.set_result(None)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Ref:
        while not self.made:
            if self.end.ready:
                raise StopAsyncIteration
            self.taker = self.loop.create_future()
            await self.taker
        ref = self.made.popleft()
        if self.stuck and not self.end.ready:
            self.stuck = False
            self._produce()
        return ref

    def completed(self) -> Ref:
        return self.end
