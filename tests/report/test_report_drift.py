"""Shards unlike the others, by robust z: found where something broke, silent where only chance is at work."""

import numpy as np
import pytest

from l2i_builder.report.drift import _FIELDS, LISTED, MEASURES, ShardCounts, outlier_limit, robust_z, summarize_shards


def shards(kept: np.ndarray, rows: int = 1000, mask_mean: np.ndarray | None = None) -> ShardCounts:
    count = len(kept)
    mean = np.full(count, 0.5) if mask_mean is None else mask_mean
    columns = dict.fromkeys(_FIELDS, np.zeros(count))
    columns |= {"number": np.arange(count), "rows": np.full(count, rows), "kept": kept, "attempts": np.ones(count)}
    columns |= {"mask_n": np.full(count, 500), "mask_sum": 500 * mean, "mask_squares": 500 * (mean**2 + 0.04)}
    return ShardCounts([np.stack([columns[name] for name in _FIELDS], axis=1).astype(np.float64)])


def test_chance_alone_raises_no_alarm():
    rng = np.random.default_rng(5)
    alarms = sum(summarize_shards(shards(rng.binomial(1000, 0.1, 500)))["outliers"] > 0 for _ in range(60))
    assert alarms <= 6  # one in twenty, by design


def test_a_broken_shard_is_found_and_named_by_its_worst_measure():
    rng = np.random.default_rng(5)
    kept = rng.binomial(1000, 0.1, 200)
    kept[17] = 20
    mask = rng.normal(0.5, 0.009, 200)
    mask[60] = 0.62
    found = summarize_shards(shards(kept, mask_mean=mask))
    assert {(line["shard"], line["worst"]) for line in found["list"] if line["outlier"]} == {
        (17, "kept share"),
        (60, "mean mask score"),
    }
    assert found["outliers"] == 2


def test_the_middle_is_not_moved_by_what_broke():
    kept = np.full(20, 100.0)
    kept[:6] = 0
    _, z = robust_z(shards(kept), *MEASURES["kept share"])
    assert (np.abs(z[6:]) < 0.1).all()
    assert (z[:6] < -8).all()


def test_a_varied_input_widens_the_spread():
    rng = np.random.default_rng(2)
    kept = rng.uniform(50, 400, 300).round()
    assert summarize_shards(shards(kept))["outliers"] == 0


def test_the_limit_grows_with_the_number_of_comparisons():
    assert outlier_limit(1) == 3
    assert 3.5 < outlier_limit(500) < 5 < outlier_limit(240_000) < 6


def test_a_trend_is_a_rank_correlation_and_takes_some_shards():
    assert summarize_shards(shards(np.arange(40.0)))["trend"] == 1
    assert summarize_shards(shards(np.arange(40.0)[::-1]))["trend"] == -1
    assert summarize_shards(shards(np.arange(5.0)))["trend"] is None


def test_only_the_farthest_are_listed_and_the_chart_is_thinned():
    found = summarize_shards(shards(np.arange(1000.0)))
    assert len(found["list"]) == LISTED
    assert len(found["points"]) <= 200
    assert found["points"][-1]["last"] == 999


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_shards_and_empty_ones_are_no_outliers(count):
    assert summarize_shards(shards(np.full(count, 50.0)))["outliers"] == 0
    assert summarize_shards(shards(np.zeros(count), rows=0))["outliers"] == 0


def test_no_shards():
    assert summarize_shards(ShardCounts())["list"] == []
