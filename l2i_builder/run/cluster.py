"""The run on Ray: a source pool, a pool per stage group, and one asyncio driver.

    source.stream(shard) --ref--> group 1 --ref--> group 2 ... --refs--> commit(shard)

Only object refs and counts pass through the driver; pixels stay in the object store. One input shard is one
attempt and one atomic commit: an attempt that fails is cancelled as a whole and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from l2i_builder.config import Config, Group
from l2i_builder.errors import ClusterError, L2IError, MetadataError, OutputError
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import ShardManifest
from l2i_builder.run.observe import DriverState, Observer, Summary
from l2i_builder.run.pool import Pool
from l2i_builder.run.progress import Progress
from l2i_builder.run.resources import Layout
from l2i_builder.sample import Batch

if TYPE_CHECKING:
    from l2i_builder.stages import Stage

RETRY_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before the second attempt at a shard; doubles up to the longest
COMMIT_PAUSES = (1.0, 5.0, 20.0)  # seconds before storage that refused a commit is asked again

_PERHAPS_PASSING = (ClusterError, OutputError, MetadataError)


class StageWorker:
    """An actor that runs a group of stages on batches. ``make()`` loads them, inside the actor."""

    def __init__(self, make: Callable[[], Sequence[Stage]], threads: int) -> None:
        self.make, self.threads = make, threads
        self.stages: Sequence[Stage] | None = None

    def ready(self) -> str:
        """Load the models on the first call. Returns the id of the node this actor lives on."""
        if self.stages is None:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
            self.stages = self.make()
        return ray.get_runtime_context().get_node_id()

    def run(self, batch: Batch) -> tuple[Batch, Summary]:
        from l2i_builder.stages import run_stages

        self.ready()  # an actor Ray restarted has forgotten its models
        batch = run_stages(self.stages or (), batch)
        return batch, Summary.of(batch)


class SourceWorker:
    """An actor that fetches and decodes input shards. ``make()`` gives the source, inside the actor."""

    def __init__(self, make: Callable[[], BatchSource]) -> None:
        self.make = make
        self.source: BatchSource | None = None

    def ready(self) -> str:
        self.source = self.source or self.make()
        return ray.get_runtime_context().get_node_id()

    def stream(self, shard: InputShard) -> Iterator[Batch]:
        self.ready()
        assert self.source is not None
        yield from self.source.batches(shard)


class BatchSource(Protocol):
    """What a source actor streams from."""

    def batches(self, shard: InputShard) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Parts:
    """What the actors run: picklable makers, called inside them.

    stages gets names, device and threads; commit is ``commit_shard`` or another with its arguments.
    """

    source: Callable[[], BatchSource]
    stages: Callable[[Sequence[str], str, int], Sequence[Stage]]
    commit: Callable[..., ShardManifest] = commit_shard

    @classmethod
    def of(cls, config: Config) -> Parts:
        """The real ones."""
        return cls(partial(_make_source, config), partial(_make_stages, config))


def _make_source(config: Config) -> BatchSource:
    from l2i_builder.source.source import make_source

    return make_source(config)


def _make_stages(config: Config, names: Sequence[str], device: str, threads: int) -> Sequence[Stage]:
    from l2i_builder.stages import make_stages

    return make_stages(names, config, device, threads)


def _commit(
    commit: Callable[..., ShardManifest], shard: InputShard, config: Config, stats: dict, digest: str, *batches: Batch
) -> ShardManifest:
    return commit(config.out, shard, config, batches, stats, digest)


@dataclass
class Outcome:
    """What a run did: shards finished by it, what they hold, and those that failed every attempt.

    Counts, not manifests: of tens of thousands of shards these would fill the driver's memory.
    """

    finished: list[int] = field(default_factory=list)  # numbers, in the order in which they were committed
    rows: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # reason -> rows
    failed: dict[str, str] = field(default_factory=dict)  # shard name -> the last error
    restarts: int = 0  # actors that died and came back

    def add(self, manifest: ShardManifest) -> None:
        """Count a committed shard."""
        self.failed.pop(manifest.name, None)
        self.finished.append(manifest.shard)
        self.rows, self.kept = self.rows + manifest.rows, self.kept + manifest.kept
        self.reasons.update(manifest.reasons)


class Driver:
    """Runs input shards through the pools. Make it inside a running event loop, after ``connection.start_ray``."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        run_digest: str,
        progress: Progress,
        parts: Parts | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.config, self.run_digest, self.progress = config, run_digest, progress
        self.observer = observer or Observer()
        parts = parts or Parts.of(config)
        timeout = config.cluster.call_timeout
        source = _actor(SourceWorker, cpus=layout.fetcher_cpus)
        make_source = partial(source.remote, parts.source)
        self.source = Pool("fetch", make_source, layout.fetchers, 1, timeout, progress.note)
        self.groups = [_group_pool(group, parts, timeout, progress.note) for group in layout.groups]
        self.window, self.in_flight = asyncio.Semaphore(layout.window), 0
        self.layout = layout
        self.open_shards = asyncio.Semaphore(layout.shards_in_flight)
        # A commit takes no CPU: on a full cluster it would wait for actors that wait for it.
        self.commit = partial(ray.remote(num_cpus=0, max_retries=3)(_commit).remote, parts.commit)
        self.outcome = Outcome()

    async def run(self, shards: Sequence[InputShard]) -> Outcome:
        """Run the shards; returns when each is committed or has failed. Raises what the user must mend."""
        pools = [self.source, *self.groups]
        self.observer.opened(self.state, sum(shard.rows for shard in shards), len(shards))
        todo = iter(shards)
        workers = [asyncio.create_task(self._work(todo)) for _ in range(min(len(shards), self.open_shards._value))]
        everything: asyncio.Future[Any] = asyncio.gather(*workers)
        try:
            await asyncio.wait([everything, *(pool.fatal for pool in pools)], return_when=asyncio.FIRST_COMPLETED)
            for pool in pools:
                if pool.fatal.done():
                    pool.fatal.result()
            await everything
        finally:
            everything.cancel()
            await asyncio.gather(everything, *workers, return_exceptions=True)
            self.outcome.restarts = sum(pool.restarts for pool in pools)
            self.observer.closed()
            for pool in pools:
                pool.close()
        return self.outcome

    def state(self) -> DriverState:
        """What the driver is doing; may be asked from any thread."""
        return DriverState(self.in_flight, self.layout.window, [pool.state() for pool in (self.source, *self.groups)])

    async def _work(self, todo: Iterator[InputShard]) -> None:
        for shard in todo:
            await self._shard(shard)

    async def _shard(self, shard: InputShard) -> None:
        attempts = self.config.cluster.attempts
        for attempt in range(1, attempts + 1):
            counted = {"rows": 0, "kept": 0}
            started = time.monotonic()
            self.observer.began(shard.name, attempt)
            try:
                manifest = await self._attempt(shard, attempt, counted)
            except (RayError, ClusterError) as error:
                self.progress.undo(**counted)
                self.observer.failed(shard.name, attempt, attempt == attempts, counted["rows"])
                cause = error.cause if isinstance(error, RayTaskError) and error.cause else error
                settled = isinstance(cause, L2IError) and not isinstance(cause, _PERHAPS_PASSING)
                if settled or (isinstance(cause, (OutputError, MetadataError)) and attempt == attempts):
                    raise cause from None  # wrong weights, metadata that changed: no attempt can mend it
                text = " ".join(str(cause).split())[:300]
                note = f"shard {shard.name}: attempt {attempt} of {attempts} failed: {text}"
                self.progress.note(note, shard.name, attempt)
                self.outcome.failed[shard.name] = f"{type(cause).__name__}: {text}"
                await asyncio.sleep(min(RETRY_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            else:
                self.outcome.add(manifest)
                self.progress.shard_done(manifest)
                self.observer.finished(shard.name, attempt, time.monotonic() - started, manifest)
                return

    async def _attempt(self, shard: InputShard, attempt: int, counted: dict[str, int]) -> ShardManifest:
        parts: list[asyncio.Task[Any]] = []
        broken: list[asyncio.Task[Any]] = []
        started = time.time()

        def left(part: asyncio.Task[Any]) -> None:
            self.in_flight -= 1
            self.window.release()
            if part.cancelled() or part.exception():
                broken.append(part)

        try:
            async with aclosing(self.source.stream(shard)) as refs:
                async for ref, node in refs:
                    await self.window.acquire()
                    self.in_flight += 1
                    parts.append(asyncio.create_task(self._batch(ref, node, shard.name, attempt, counted)))
                    parts[-1].add_done_callback(left)
                    del ref
                    if broken:
                        broken[0].result()  # a failure ends the attempt at once
            batches = await asyncio.gather(*parts)
            return await self._commit(shard, {"attempt": attempt, "start_time": started}, batches)
        except BaseException:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            raise

    async def _commit(self, shard: InputShard, stats: dict[str, Any], batches: list[Any]) -> ShardManifest:
        """Commit what is computed; storage that fails is asked again, rather than the models."""
        for pause in COMMIT_PAUSES:
            try:
                return await self.commit(shard, self.config, stats, self.run_digest, *batches)
            except RayTaskError as error:
                if not isinstance(error.cause, OutputError):
                    raise
                text = " ".join(str(error.cause).split())[:300]
                note = f"shard {shard.name}: {text} Trying again in {pause:g} s."
                self.progress.note(note, shard.name, stats["attempt"])
                await asyncio.sleep(pause)
        try:
            return await self.commit(shard, self.config, stats, self.run_digest, *batches)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, OutputError) else error) from None

    async def _batch(self, ref: Any, node: str, shard: str, attempt: int, counted: dict[str, int]) -> Any:
        for pool in self.groups:
            started = time.monotonic()
            ref, summary = await pool.call(ref, node)
            self.observer.answered(pool.name, time.monotonic() - started)
        counted["rows"] += summary.rows
        counted["kept"] += summary.kept
        self.progress.rows(summary.rows, summary.kept)
        self.observer.batch(shard, attempt, summary)
        return ref


def _actor(kind: type, cpus: float, gpus: float = 0, memory_gb: float = 0) -> Any:
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
    if memory_gb:
        options["memory"] = int(memory_gb * 2**30)
    return ray.remote(max_restarts=-1, max_task_retries=0, **options)(kind)


def _group_pool(group: Group, parts: Parts, timeout: float, note: Callable[[str], None]) -> Pool:
    worker = _actor(StageWorker, group.cpus, group.gpus, group.memory_gb)
    threads = max(1, int(group.cpus))
    make = partial(parts.stages, group.stages, "cuda" if group.gpus else "cpu", threads)
    make_worker = partial(worker.remote, make, threads)
    return Pool("+".join(group.stages), make_worker, group.actors, group.slots, timeout, note)
