"""Prometheus metrics of a running build, served by its driver (``observe.metrics_port``).

Labels take values from closed lists only: verdicts, reasons, stages, pools, folders. No URL, key or shard is ever a
label, so the number of series does not grow with the run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from l2i_builder import __version__
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError
from l2i_builder.output.manifest import ShardManifest
from l2i_builder.run.observe import DriverState, Observer, Summary
from l2i_builder.run.resources import ORDER
from l2i_builder.sample import Reason, Verdict

BATCH_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800)  # seconds
SHARD_BUCKETS = (10, 30, 60, 180, 600, 1200, 1800, 3600, 7200, 14400, 43200)  # seconds
FOLDERS = ("shards", "audit", "previews", "features", "ledger")
CLUSTER_EVERY = 10.0  # seconds for which what Ray said of the cluster is good enough


class Metrics(Observer):
    """Counts what the driver tells. ``registry`` is what is served."""

    def __init__(self, run_digest: str) -> None:
        disable_created_metrics()  # a second series for each, which nobody reads
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        gauge("l2i_build_info", "Always 1; says which run this is.", "version", "run").labels(
            __version__, run_digest[:12]
        ).set(1)
        self.planned_rows = gauge("l2i_rows_planned", "Rows this process has to do.")
        self.planned_shards = gauge("l2i_shards_planned", "Shards this process has to do.")
        outcome = ("verdict", "reason")
        text = "Rows through all stages, those of failed attempts included."
        self.processed = counter("l2i_rows_processed", text, *outcome)
        self.committed = counter("l2i_rows_committed", "Rows of committed shards.", *outcome)
        self.discarded = counter("l2i_rows_discarded", "Processed rows of attempts that failed.")
        self.batches = counter("l2i_batches", "Batches through all stages.")
        self.seconds = counter("l2i_stage_seconds", "Busy seconds of each stage, over all actors.", "stage")
        self.images = counter("l2i_stage_images", "Images each stage worked on.", "stage")
        self.fetched = counter("l2i_fetched_bytes", "Bytes of the bodies that were fetched.")
        self.written = counter("l2i_written_bytes", "Bytes of committed files.", "folder")
        self.open_shards = gauge("l2i_shards_in_flight", "Attempts at shards under way.")
        self.shards = counter("l2i_shards", "Attempts at shards, by how they ended.", "outcome")
        text = "Seconds of the attempt that committed a shard."
        self.shard_seconds = Histogram("l2i_shard_seconds", text, buckets=SHARD_BUCKETS, registry=registry)
        text = "Seconds until a pool gave a batch back, waiting included."
        self.batch_seconds = Histogram("l2i_batch_seconds", text, ["pool"], buckets=BATCH_BUCKETS, registry=registry)
        self._begin_at_zero()
        self._state = _LiveState()
        self.registry.register(self._state)
        ProcessCollector(registry=self.registry)

    def _begin_at_zero(self) -> None:
        """Make every series now: Prometheus sees no increase in one that appears with its first count."""
        for counter in (self.processed, self.committed):
            _count(counter, 0, dict.fromkeys(Reason, 0))
        for stage in ("fetch", "decode", *ORDER):
            self.seconds.labels(stage)
            self.images.labels(stage)
        for folder in FOLDERS:
            self.written.labels(folder)
        for outcome in ("done", "retried", "failed"):
            self.shards.labels(outcome)

    def opened(self, state: Callable[[], DriverState], rows: int, shards: int) -> None:
        self.planned_rows.inc(rows)
        self.planned_shards.inc(shards)
        self._state.ask = state

    def closed(self) -> None:
        self._state.close()

    def began(self, shard: str, attempt: int) -> None:
        self.open_shards.inc()

    def answered(self, pool: str, seconds: float) -> None:
        self.batch_seconds.labels(pool).observe(seconds)

    def batch(self, shard: str, attempt: int, summary: Summary) -> None:
        self.batches.inc()
        self.fetched.inc(summary.fetched)
        _count(self.processed, summary.kept, summary.reasons)
        for stage, seconds in summary.seconds.items():
            self.seconds.labels(stage).inc(max(seconds, 0.0))
        for stage, images in summary.images.items():
            self.images.labels(stage).inc(images)

    def failed(self, shard: str, attempt: int, last: bool, rows: int) -> None:
        self.open_shards.dec()
        self.discarded.inc(rows)
        self.shards.labels("failed" if last else "retried").inc()

    def finished(self, shard: str, attempt: int, seconds: float, manifest: ShardManifest) -> None:
        self.open_shards.dec()
        self.shards.labels("done").inc()
        self.shard_seconds.observe(seconds)
        _count(self.committed, manifest.kept, manifest.reasons)
        for file, entry in manifest.files.items():
            self.written.labels(file.partition("/")[0]).inc(entry["bytes"])


def _count(counter: Counter, kept: int, reasons: Mapping[str, int]) -> None:
    counter.labels(Verdict.KEPT.value, "").inc(kept)
    for reason, rows in reasons.items():
        counter.labels(Reason(reason).verdict.value, str(reason)).inc(rows)


class _LiveState(Collector):
    """What is so at the moment of a scrape: asked then, so that it costs nothing between scrapes."""

    def __init__(self) -> None:
        self.ask: Callable[[], DriverState] | None = None
        self._restarts: dict[str, int] = {}  # of drivers that have ended: a counter never falls
        self._cluster: tuple[float, list[Metric]] = (float("-inf"), [])
        self._lock = Lock()

    def close(self) -> None:
        """The driver is gone; keep what must not fall."""
        state = self.ask() if self.ask else DriverState(0, 0, [])
        for pool in state.pools:
            self._restarts[pool.name] = self._restarts.get(pool.name, 0) + pool.restarts
        self.ask = None

    def collect(self) -> Iterable[Metric]:
        state = self.ask() if self.ask else DriverState(0, 0, [])
        yield GaugeMetricFamily("l2i_batches_in_flight", "Batches between the pools.", state.in_flight)
        yield GaugeMetricFamily("l2i_batches_window", "Most batches there may be between the pools.", state.window)
        waiting = GaugeMetricFamily("l2i_pool_waiting", "Batches that wait for an actor of a pool.", labels=["pool"])
        actors = GaugeMetricFamily("l2i_pool_actors", "Actors of a pool.", labels=["pool"])
        slots = GaugeMetricFamily("l2i_pool_slots", "Slots of a pool's actors, by state.", labels=["pool", "state"])
        restarts = CounterMetricFamily("l2i_actor_restarts", "Actors that died or hung.", labels=["pool"])
        counts = dict(self._restarts)
        for pool in state.pools:
            waiting.add_metric([pool.name], pool.waiting)
            actors.add_metric([pool.name], pool.actors)
            for name in ("busy", "free", "starting", "lost"):
                slots.add_metric([pool.name, name], getattr(pool, name))
            counts[pool.name] = counts.get(pool.name, 0) + pool.restarts
        for name, count in counts.items():
            restarts.add_metric([name], count)
        yield from (waiting, actors, slots, restarts)
        with self._lock:
            if time.monotonic() - self._cluster[0] > CLUSTER_EVERY:
                self._cluster = (time.monotonic(), list(_cluster_metrics()))
            yield from self._cluster[1]


def _cluster_metrics() -> Iterator[Metric]:
    """Nodes and object store, as Ray's head knows them; nothing while there is no Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    try:
        nodes = sum(node["Alive"] for node in ray.nodes())
        capacity, free = ray.cluster_resources(), ray.available_resources()
    except Exception:  # Ray is going: a scrape is no place to say so
        return
    yield GaugeMetricFamily("l2i_cluster_nodes", "Nodes of the Ray cluster that are alive.", nodes)
    store = GaugeMetricFamily("l2i_object_store_bytes", "Ray's object store over all nodes.", labels=["state"])
    total = capacity.get("object_store_memory", 0.0)
    store.add_metric(["capacity"], total)
    store.add_metric(["used"], max(0.0, total - free.get("object_store_memory", 0.0)))
    yield store


@contextmanager
def serve_metrics(config: Config, run_digest: str) -> Iterator[Observer]:
    """Serve metrics at ``observe.metrics_address``:``metrics_port`` while the block runs; without a port, nothing.

    Raises ConfigError where the port is taken or the address is not this machine's.
    """
    port, address = config.observe.metrics_port, config.observe.metrics_address
    if not port:
        yield Observer()
        return
    metrics = Metrics(run_digest)
    try:
        server, thread = start_http_server(port, address, metrics.registry)
    except OSError as error:
        raise ConfigError(
            f"Cannot serve metrics on {address}:{port}: {error.strerror or error}. Choose another "
            "observe.metrics_port or observe.metrics_address, or 0 for no metrics."
        ) from error
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
