"""Nodes with CPUs and GPUs, where actors are put, and the faults that take both away."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

from benchmarks.simulated.timing import Rate, Timing

if TYPE_CHECKING:
    from benchmarks.simulated.actors import Actor


@dataclass(eq=False)
class Node:
    """A machine from the moment it joins until it goes; what comes back in its place is another one."""

    name: str
    cpus: float
    gpus: float
    alive: bool = True
    free_cpus: float = field(init=False)
    free_gpus: float = field(init=False)
    actors: dict[Actor, None] = field(default_factory=dict)  # a set in the order of arrival: draws repeat themselves

    def __post_init__(self) -> None:
        self.free_cpus, self.free_gpus = self.cpus, self.gpus

    def has(self, actor: Actor) -> bool:
        return self.alive and self.free_cpus >= actor.cpus - 1e-6 and self.free_gpus >= actor.gpus - 1e-6


@dataclass
class Counts:
    """What went wrong so far, and what it cost."""

    actor_deaths: int = 0
    hangs: int = 0
    evictions: int = 0
    bad_streams: int = 0
    bad_batches: int = 0
    bad_commits: int = 0
    lost_objects: int = 0  # calls and commits whose input went with its node


class Cluster:
    """Places actors, most free GPUs or CPUs first as Ray's SPREAD does, and disturbs them from ``disturb`` on."""

    def __init__(self, timing: Timing, rate: Rate, seed: int, nodes: Iterable[tuple[float, float]]) -> None:
        self.timing, self.rate, self.random = timing, rate, random.Random(seed)
        self.nodes = [Node(f"node-{number}", cpus, gpus) for number, (cpus, gpus) in enumerate(nodes)]
        self.actors: list[Actor] = []
        self.waiting: deque[Actor] = deque()
        self.counts = Counts()
        self.gpu_seconds, self.gpu_rows = 0.0, 0  # that batches took, that came out
        self.restart, self.absence = cycle(timing.restart), cycle(timing.absence)
        self.commit = cycle(timing.commit)
        self.tasks: list[asyncio.Task[None]] = []

    def place(self, actor: Actor) -> None:
        """Start an actor, or have it wait for a node with room for it."""
        fitting = [node for node in self.nodes if node.has(actor)]
        if not fitting:
            self.waiting.append(actor)
            return
        # Like Ray's scheduler, which spreads actors, and keeps GPU nodes free of those that need no GPU.
        suited = bool(actor.gpus)
        node = max(fitting, key=lambda one: ((one.gpus > 0) == suited, one.free_gpus, one.free_cpus))
        node.free_cpus, node.free_gpus = node.free_cpus - actor.cpus, node.free_gpus - actor.gpus
        node.actors[actor] = None
        actor.start(node)

    def leave(self, actor: Actor) -> None:
        """Free what an actor held."""
        node, actor.node = actor.node, None
        if node is not None:
            node.free_cpus, node.free_gpus = node.free_cpus + actor.cpus, node.free_gpus + actor.gpus
            node.actors.pop(actor, None)
            self._place_waiting()

    def _place_waiting(self) -> None:
        waiting, self.waiting = self.waiting, deque()
        for actor in waiting:
            if not actor.dead:
                self.place(actor)

    def disturb(self) -> None:
        """Begin to kill actors and to take nodes away, at the rates given."""
        if self.rate.actor_deaths:
            self.tasks.append(asyncio.create_task(self._kill_actors()))
        for place, node in enumerate(self.nodes):
            if rate := self.rate.evictions if node.gpus else self.rate.cpu_evictions:
                self.tasks.append(asyncio.create_task(self._evict(place, rate)))

    async def stop(self) -> None:
        """End the disturbances."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _kill_actors(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(self.rate.actor_deaths * max(1, len(self.actors)) / 3600))
            actor = self.random.choice(self.actors) if self.actors else None
            if actor is None or actor.node is None:
                continue
            if self.random.random() < self.rate.hangs and actor.current is not None:
                self.counts.hangs += 1
                actor.hang()
                continue
            self.counts.actor_deaths += 1
            actor.die(for_good=self.random.random() < self.rate.for_good)

    async def _evict(self, place: int, rate: float) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(rate / 3600))
            node = self.nodes[place]
            self.counts.evictions += 1
            node.alive = False
            for actor in list(node.actors):
                actor.die()
            await asyncio.sleep(next(self.absence))
            self.nodes[place] = Node(f"{node.name}'", node.cpus, node.gpus)
            self._place_waiting()
