"""What the driver uses of Ray, on a simulated cluster, in this process."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import ObjectLostError

from benchmarks.simulated.actors import Actor, Call, Ref, Stream, raised
from benchmarks.simulated.clock import LoopTime, VirtualLoop
from benchmarks.simulated.nodes import Cluster
from l2i_builder.errors import OutputError
from l2i_builder.run import cluster as driver_module
from l2i_builder.run import pool as pool_module


class _Method:
    """An actor's method: ``.remote(...)``, with or without ``.options(...)``."""

    __slots__ = ("actor", "name")

    def __init__(self, actor: Actor, name: str) -> None:
        self.actor, self.name = actor, name

    def options(self, **_: Any) -> _Method:
        return self

    def remote(self, *args: Any) -> Any:
        if self.name == "stream":
            stream = Stream(*args)
            stream.actor = self.actor
            self.actor.send(stream)
            return stream
        refs = [_Made(self.actor) for _ in range(2 if self.name == "run" else 1)]
        call = Call(self.name, refs, args)
        for ref in refs:
            ref.call = call
        self.actor.send(call)
        return refs if len(refs) > 1 else refs[0]


class _Made(Ref):
    """A ref that an actor's call will settle."""

    __slots__ = ("actor", "call")

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor: Actor = actor
        self.call: Call | None = None

    def settle(self, *args: Any, **names: Any) -> None:
        super().settle(*args, **names)
        self.call = None  # what has been returned does not keep its input


class Handle:
    """An actor as the driver holds it."""

    def __init__(self, actor: Actor) -> None:
        self._actor_id, self._actor = id(actor), actor
        self.ready, self.run, self.stream = (_Method(actor, name) for name in ("ready", "run", "stream"))


class _Remote:
    """``ray.remote(...)(what)``: a class makes actors, a function runs once its arguments are there."""

    def __init__(self, cluster: Cluster, what: Any, options: dict[str, Any]) -> None:
        self.cluster, self.what, self.options = cluster, what, options

    def remote(self, *args: Any) -> Any:
        if isinstance(self.what, type):
            model = args[0]()
            return Handle(Actor(self.cluster, model, self.options["num_cpus"], self.options["num_gpus"]))
        ref = Ref()
        asyncio.get_running_loop().call_later(next(self.cluster.commit), self._run, ref, args)
        return ref

    def _run(self, ref: Ref, args: tuple[Any, ...]) -> None:
        counts, rate = self.cluster.counts, self.cluster.rate
        troubles = [arg.trouble() for arg in args if isinstance(arg, Ref)]
        if trouble := next((one for one in troubles if one), None):
            counts.lost_objects += isinstance(trouble, ObjectLostError)
            ref.settle(error=raised("_commit", trouble))
        elif self.cluster.random.random() < rate.bad_commits:
            counts.bad_commits += 1
            ref.settle(error=raised("_commit", OutputError("cannot write: the storage is busy.")))
        else:
            value = self.what(*(arg.value if isinstance(arg, Ref) else arg for arg in args))
            ref.settle(pickle.loads(pickle.dumps(value)))  # nothing in it is shared, as after a network


class StandIn:
    """The module ``ray``, as far as the driver goes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def remote(self, **options: Any) -> Callable[[Any], _Remote]:
        return lambda what: _Remote(self.cluster, what, options)

    def kill(self, handle: Handle, no_restart: bool = True) -> None:
        if not handle._actor.dead:
            handle._actor.die(for_good=no_restart)

    def cancel(self, what: Any) -> None:
        call = what if isinstance(what, Stream) else what.call
        if call is not None and what.actor is not None:
            what.actor.cancel(call)


@contextmanager
def installed(cluster: Cluster, loop: VirtualLoop) -> Iterator[StandIn]:
    """Put the stand-in, and the loop's clock, where the driver finds Ray and ``time``."""
    stand_in, clock = StandIn(cluster), LoopTime(loop)
    before = driver_module.ray, driver_module.time, pool_module.ray
    driver_module.ray, driver_module.time, pool_module.ray = stand_in, clock, stand_in  # type: ignore[assignment]
    try:
        yield stand_in
    finally:
        driver_module.ray, driver_module.time, pool_module.ray = before
