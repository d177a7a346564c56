import pytest

from l2i_builder.configfile import load_config
from l2i_builder.run.costmodel import UTILISATION, Rates, assumed_rates, estimate, measured_rates, rates_of
from l2i_builder.run.resources import ORDER, plan_layout

RATES = Rates(
    {"decode": 0.01, "segment": 1.0, "inpaint": 2.0}, {"decode": 0.6, "segment": 0.5, "inpaint": 0.25}, 0.1, False
)


def laptop(cpus=4):
    return plan_layout(load_config(None, ["cluster.fetcher_cpus=0"]), {"CPU": cpus})


def test_the_slowest_pool_sets_the_time():
    result = estimate(1000, RATES, laptop(4), gpu_price=0, cpu_price=1)
    assert result.busy == {"decode": 6.0, "segment": 500.0, "inpaint": 500.0}
    assert result.hours == pytest.approx(1000 / 4 / UTILISATION / 3600)
    assert result.dollars == pytest.approx(4 * result.hours)
    assert result.kept == 100


def test_twice_the_machines_take_half_the_time_for_the_same_money():
    small, large = (estimate(10_000, RATES, laptop(cpus), 0, 1) for cpus in (4, 8))
    assert large.hours == pytest.approx(small.hours / 2)
    assert large.dollars == pytest.approx(small.dollars)


def test_cost_per_million_counts_rows_and_kept_samples():
    result = estimate(1000, RATES, laptop(), 0, 1)
    assert result.dollars_per_million(1000) == pytest.approx(1000 * result.dollars)
    assert result.dollars_per_million_kept() == pytest.approx(10 * result.dollars_per_million(1000))


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("segmenter", ["u2net", "u2netp", "isnet", "inspyrenet"])
@pytest.mark.parametrize("inpainter", ["patchmatch", "lama", "telea"])
def test_there_is_an_assumption_for_every_backend(gpu, segmenter, inpainter):
    rates = assumed_rates(load_config(None, [f"segment.backend={segmenter}", f"inpaint.backend={inpainter}"]), gpu)
    assert set(ORDER) <= rates.seconds.keys()
    assert not rates.measured


def test_further_layers_send_kept_samples_through_the_models_again():
    two, three, four = (assumed_rates(load_config(None, [f"layers.count={n}"]), gpu=False).reach for n in (2, 3, 4))
    assert two == assumed_rates(load_config(None), gpu=False).reach
    assert three["segment"] == pytest.approx(two["segment"] + two["encode"])
    assert three["judge_mask"] > two["judge_mask"]
    assert three["inpaint"] < four["inpaint"] < three["inpaint"] * 1.1  # few samples hold a third object
    assert (three["fetch"], three["encode"]) == (two["fetch"], two["encode"])


def test_finished_shards_replace_the_assumptions():
    stats = {
        "count": 100,
        "successes": 10,
        "seconds": {"segment": 30.0, "encode": 1.0},
        "images": {"segment": 60, "encode": 10},
    }
    rates = rates_of([stats, stats])
    assert rates.seconds == {"segment": 0.5, "encode": 0.1}
    assert rates.reach == {"segment": 0.6, "encode": 0.1}
    assert (rates.kept, rates.measured) == (0.1, True)


def test_nothing_finished_measures_nothing(tmp_path):
    assert measured_rates(str(tmp_path)) is None
    assert measured_rates("") is None


def test_few_fetch_actors_set_the_time_by_their_slowest_rows():
    config = load_config(None, ["fetch.concurrency=100", "fetch.retries=1", "fetch.timeout=50"])
    assert assumed_rates(config, gpu=True).seconds["fetch"] == pytest.approx(0.015 + 2 * 50 / 10_000)
    rates = Rates(
        {"fetch": 0.03, "decode": 0.01, "segment": 0.01}, {"fetch": 1.0, "decode": 0.6, "segment": 0.5}, 0, False
    )
    found = estimate(10_000, rates, laptop(4), 0, 1)
    assert found.hours == pytest.approx(10_000 * (0.03 + 0.01 * 0.6 / 2) / 3600)


def test_shards_that_are_there_wait_for_no_web():
    web, there = (assumed_rates(load_config(None, [f"source={name}"]), True) for name in ("urls", "img2dataset_shards"))
    assert there.seconds["fetch"] < web.seconds["fetch"] / 2
    assert {**web.seconds, "fetch": 0} == {**there.seconds, "fetch": 0}
