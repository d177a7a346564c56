"""What observers learn of a driver on a real local Ray, one of whose actors dies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from toy import Silent, toy_config, toy_parts, write_metadata

from l2i_builder.configfile import load_config
from l2i_builder.ingest import planning
from l2i_builder.run.metrics import Metrics
from l2i_builder.run.resources import ORDER, plan_layout

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def local_ray(monkeypatch):
    import ray

    from l2i_builder.run.connection import start_ray

    path = f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"  # the actors find the toy stages there
    monkeypatch.setenv("PYTHONPATH", path)
    start_ray(load_config(None, ["cluster.cpus=2", "cluster.object_store_gb=0.3"]))
    yield
    ray.shutdown()


class Watching(Metrics):
    """Metrics that look at the driver whenever a batch is done."""

    def __init__(self) -> None:
        super().__init__("digest")
        self.states = []

    def opened(self, state, rows, shards):
        super().opened(state, rows, shards)
        self.ask = state

    def batch(self, shard, attempt, summary):
        super().batch(shard, attempt, summary)
        self.states.append(self.ask())


def test_metrics_tell_of_pools_rows_shards_and_the_actor_that_died(tmp_path):
    from l2i_builder.run.cluster import Driver

    config = toy_config(write_metadata(tmp_path / "metadata", 60), tmp_path / "out")
    parts = toy_parts(config, fault=f"die once {tmp_path / 'mark'}")
    metrics = Watching()

    async def main():
        driver = Driver(config, plan_layout(config, {"CPU": 2}), "digest", Silent(), parts, metrics)
        return await driver.run(planning.plan(config).shards)

    outcome = asyncio.run(main())

    assert len(metrics.states) == 15
    for state in metrics.states:
        fetch, models = state.pools
        assert fetch.name == "fetch"
        assert 0 < state.in_flight <= state.window
        assert models.busy + models.free + models.starting + models.lost == 2 * models.actors
    assert any(state.pools[1].busy or state.pools[1].waiting for state in metrics.states)
    models, value = "+".join(ORDER), metrics.registry.get_sample_value
    assert value("l2i_shards_total", {"outcome": "done"}) == len(outcome.finished) == 3
    assert value("l2i_rows_committed_total", {"verdict": "failed", "reason": "http_4xx"}) == 6
    assert value("l2i_actor_restarts_total", {"pool": models}) == outcome.restarts > 0
    assert value("l2i_batch_seconds_count", {"pool": models}) == 15
    assert value("l2i_shards_in_flight") == 0
    assert value("l2i_cluster_nodes") == 1
    assert value("l2i_object_store_bytes", {"state": "capacity"}) > 2**28
