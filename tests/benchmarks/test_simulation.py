"""The real driver on the simulated cluster: nothing is lost, and a batch costs the same at any size."""

import asyncio
import cProfile
import json
import pstats
import sys

import pytest

from benchmarks import simulation
from benchmarks.simulated import clock
from benchmarks.simulated.running import Setting, Shelf, simulate
from benchmarks.simulated.timing import CALM, Rate, Timing
from l2i_builder.ingest.planning import InputShard

ROUGH = Rate(6.0, 0.1, 0.1, 4.0, 2.0, 0.02, 0.002, 0.05)
SMALL = {"shard_rows": 2_000, "batch_rows": 100}


def test_no_row_is_lost_or_doubled_whatever_goes_wrong():
    found = simulate(Setting(16, 80, rate=ROUGH, overrides=("cluster.attempts=100",), **SMALL))  # checks itself
    assert found.failed == {}
    assert {"actor_deaths", "evictions", "bad_batches", "lost_objects"} <= {
        kind for kind, n in found.troubles.items() if n
    }
    assert found.rerun > 0
    assert found.restarts >= found.troubles["actor_deaths"] / 2
    again = simulate(found.setting)
    assert (again.hours, again.troubles, again.rerun) == (found.hours, found.troubles, found.rerun)


def test_shards_wait_a_minute_at_most_between_attempts():
    """Some shards need dozens of attempts: a pause that doubled with each would come to years."""
    rate = Rate(*[0.0] * 5, bad_streams=0.0, bad_batches=0.3, bad_commits=0.0)
    found = simulate(Setting(8, 6, 400, 100, rate=rate, overrides=("cluster.attempts=1000",)))
    assert found.failed == {}
    assert found.troubles["bad_batches"] > 20
    assert found.hours < 2


def calls(setting):
    """Python and C calls that a run makes: what it costs, told without a clock."""
    profile = cProfile.Profile()
    profile.runcall(simulate, setting)
    return pstats.Stats(profile).total_calls


@pytest.mark.slow
def test_a_batch_costs_the_same_in_a_long_shard_and_on_a_wide_cluster():
    def more(a, b):
        """Calls of each further batch, start and end left out."""
        return (calls(b) - calls(a)) / (b.batches - a.batches)

    def setting(gpus, shards, batches):
        return Setting(gpus, shards, shard_rows=100 * batches, batch_rows=100, rate=CALM)

    usual = more(setting(8, 8, 20), setting(8, 24, 20))
    long = more(setting(8, 4, 200), setting(8, 8, 200))
    assert long < usual * 1.1
    wide = more(setting(80, 40, 20), setting(80, 70, 20))
    assert wide < usual * 1.35


@pytest.mark.parametrize("fetchers", [4, 2])  # the models are the narrow pool; fetching is
def test_the_cost_model_tells_the_hours_of_the_simulation(fetchers):
    setting = Setting(8, 60, batch_rows=128, rate=CALM, overrides=(f"cluster.fetchers={fetchers}",))
    assert simulation.of_model(simulate(setting))["ratio"] == pytest.approx(1, abs=0.1)


def test_the_shelf_refuses_what_is_not_whole():
    setting = Setting(8, 2)
    config = setting.config()
    groups = [group.stages for group in setting.layout(config).groups]
    shelf = Shelf(Timing.of(config, setting.rates(config), groups, 0, 100), 2)
    shard = InputShard(1, (), {}, 100)
    for batches in ([(1, 0, 64, 0)], [(1, 64, 36, 0), (1, 0, 64, 0)], [(0, 0, 64, 0), (1, 64, 36, 0)]):
        with pytest.raises(ValueError, match="rows"):
            shelf.commit("", shard, config, batches, {}, "")
    assert shelf.commit("", shard, config, [(1, 0, 64, 0), (1, 64, 36, 0)], {}, "").rows == 100
    assert list(shelf.times) == [0, 1]


def test_virtual_time_jumps_and_a_standstill_is_told():
    async def weeks(loop):
        await asyncio.gather(*(asyncio.sleep(day * 86_400) for day in range(22)))
        return loop.now

    assert clock.run(weeks) == pytest.approx(21 * 86_400)

    async def years(loop):
        for _ in range(200):
            await asyncio.sleep(1_234_567.1)
        return loop.now

    assert clock.run(years) == pytest.approx(200 * 1_234_567.1)

    async def forever(loop):
        await loop.create_future()

    with pytest.raises(RuntimeError, match="every task waits"):
        clock.run(forever)


@pytest.mark.slow
def test_the_script_prints_and_writes_its_tables(tmp_path, monkeypatch, capsys):
    arguments = [
        "simulation",
        "--quick",
        "--no-ray",
        "--json",
        str(tmp_path / "n.json"),
        "--plot",
        str(tmp_path / "n.svg"),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(simulation, "apart", lambda work, *args: work(*args))
    simulation.main()
    assert "simulated / model" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert [one["setting"]["shards"] for one in numbers["growth"]] == [6, 12]
    assert all(one["failed"] == {} and one["cpu_per_batch"] > numbers["stand_in"] > 0 for one in numbers["actors"])
    assert (tmp_path / "n.svg").stat().st_size > 1_000
