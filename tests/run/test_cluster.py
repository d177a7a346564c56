"""The driver on a real local Ray: same bytes as a plain loop, whatever dies meanwhile."""

import asyncio
import os
from pathlib import Path

import pytest
import ray
from layered_toy import KEEP_ALL, layered_parts
from toy import Silent, contents, toy_config, toy_parts, write_metadata

from l2i_builder.configfile import load_config
from l2i_builder.errors import ClusterError, WeightsError
from l2i_builder.ingest import planning
from l2i_builder.output.layered import open_layers
from l2i_builder.run import pool
from l2i_builder.run.cluster import Driver, SourceWorker
from l2i_builder.run.connection import start_ray
from l2i_builder.run.inline import run_inline
from l2i_builder.run.resources import MODEL_STAGES, plan_layout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    # The actors find the toy stages beside this file.
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    start_ray(load_config(None, ["cluster.cpus=2", "cluster.object_store_gb=0.3"]))
    yield
    ray.shutdown()
    os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    return write_metadata(tmp_path_factory.mktemp("metadata"), rows=50, files=2)


@pytest.fixture(scope="module")
def yardstick(metadata, tmp_path_factory):
    config = toy_config(metadata, tmp_path_factory.mktemp("plain"))
    run_inline(config, planning.plan(config).shards, "digest", Silent(), toy_parts(config))
    return contents(Path(config.out))


def drive(config, fault="", pause=0.0, parts=None):
    progress = Silent()

    async def main():
        layout = plan_layout(config, {"CPU": 2})
        driver = Driver(config, layout, "digest", progress, parts or toy_parts(config, pause, fault))
        return await driver.run(planning.plan(config).shards)

    return asyncio.run(main()), progress


def test_the_cluster_writes_the_bytes_of_a_plain_loop(metadata, tmp_path, yardstick):
    outcome, progress = drive(toy_config(metadata, tmp_path))
    assert outcome.failed == {}
    assert contents(tmp_path) == yardstick
    assert progress.done == 100
    assert progress.kept == outcome.kept > 10
    assert sorted(outcome.finished) == list(range(5))
    assert outcome.rows == outcome.kept + outcome.reasons.total() == 100


def test_stages_may_be_spread_over_several_groups(metadata, tmp_path, yardstick):
    groups = "[{stages: [segment, judge_mask], cpus: 0.5}, {stages: [inpaint, judge_inpainting, encode], cpus: 0.5}]"
    drive(toy_config(metadata, tmp_path, f"cluster.groups={groups}"))
    assert contents(tmp_path) == yardstick


def test_further_layers_travel_from_the_models_to_the_encoder(metadata, tmp_path):
    groups = f"[{{stages: [{', '.join(MODEL_STAGES)}], cpus: 0.5}}, {{stages: [encode], cpus: 0.5}}]"
    keys = (*KEEP_ALL, "layers.count=4")
    plain = toy_config(metadata, tmp_path / "plain", *keys)
    run_inline(plain, planning.plan(plain).shards, "digest", Silent(), layered_parts(plain))
    spread = toy_config(metadata, tmp_path / "spread", *keys, f"cluster.groups={groups}")
    drive(spread, parts=layered_parts(spread))
    assert contents(tmp_path / "spread") == contents(tmp_path / "plain")
    assert {len(sample.layers) for sample in open_layers(f"{spread.out}/shards/00000.tar")} == {1, 2, 3}


def test_a_killed_actor_costs_nothing(metadata, tmp_path, yardstick):
    outcome, _ = drive(toy_config(metadata, tmp_path / "out"), fault=f"die once {tmp_path}/mark")
    assert outcome.restarts >= 1
    assert contents(tmp_path / "out") == yardstick


def test_a_hung_actor_is_replaced(metadata, tmp_path, yardstick):
    config = toy_config(metadata, tmp_path / "out", "cluster.call_timeout=15")
    outcome, _ = drive(config, fault=f"hang once {tmp_path}/mark")
    assert outcome.restarts >= 1
    assert contents(tmp_path / "out") == yardstick


def test_a_hung_fetch_actor_is_replaced_and_its_shard_tried_again(metadata, tmp_path, yardstick):
    config = toy_config(metadata, tmp_path / "out", "cluster.call_timeout=15")
    outcome, progress = drive(config, fault=f"fetch hangs once {tmp_path}/mark")
    assert outcome.restarts >= 1
    assert "a fetch actor gave nothing for 15 s; it is replaced" in " ".join(progress.notes)
    assert contents(tmp_path / "out") == yardstick


def test_dead_fetch_actors_that_were_idle_cost_no_attempt():
    """Their slots are still among the free ones: a stream passes on to one that lives."""

    class Source:
        def batches(self, shard):
            yield from (f"{shard} {number}" for number in range(5))

    async def main():
        worker = ray.remote(num_cpus=0, max_restarts=-1)(SourceWorker)
        fetch = pool.Pool("fetch", lambda: worker.remote(Source), 3, 1, 60.0, print)
        await asyncio.gather(*fetch._tasks)  # until all are ready
        for actor in fetch._actors[:2]:
            ray.kill(actor)
        await asyncio.sleep(1)
        found = [await ref async for ref, _ in fetch.stream("shard")]
        restarts, starting = fetch.restarts, fetch.state().starting
        await asyncio.gather(*fetch._tasks)
        assert fetch.state().free == 3
        fetch.close()
        return found, restarts, starting

    found, restarts, starting = asyncio.run(main())
    assert found == [f"shard {number}" for number in range(5)]
    assert restarts == 2
    assert 0 <= starting <= 2


def test_one_bad_sample_costs_that_sample(metadata, tmp_path, yardstick):
    outcome, _ = drive(toy_config(metadata, tmp_path), fault="one")
    assert outcome.failed == {}
    assert 0 < outcome.reasons["stage_error"] < 30
    assert outcome.kept + outcome.reasons.total() == 100


def test_a_broken_stage_fails_its_shards_and_writes_nothing(metadata, tmp_path):
    outcome, progress = drive(toy_config(metadata, tmp_path, "cluster.attempts=2"), fault="always")
    assert set(outcome.failed) == {f"{shard:05d}" for shard in range(5)}
    assert all("the model is broken" in error for error in outcome.failed.values())
    assert contents(tmp_path) == {}
    assert progress.done == 0


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [("no weights", WeightsError, "another digest"), ("cannot load", ClusterError, "no such driver")],
)
def test_actors_that_cannot_start_end_the_run_in_words(metadata, tmp_path, fault, error, words):
    with pytest.raises(error, match=words):
        drive(toy_config(metadata, tmp_path), fault=fault)


def test_an_actor_that_finds_no_place_is_told_of(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.5)
    told = []

    async def main():
        greedy = ray.remote(num_cpus=99)(SourceWorker)
        waiting = pool.Pool("fetch", lambda: greedy.remote(None), 1, 2, 10.0, told.append)
        await asyncio.sleep(2)
        waiting.close()

    asyncio.run(main())
    assert 1 <= len(told) <= 4
    assert "a fetch actor has not answered" in told[0]
