"""Measures against values worked out by hand, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from l2i_builder import metrics


def test_auc_is_the_share_of_pairs_in_order() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    good = np.array([False, False, True, True])
    assert metrics.auc(scores, good) == 0.75
    assert metrics.auc(-scores, good) == 0.25


def test_ties_count_half() -> None:
    assert metrics.auc(np.zeros(4), np.array([True, False, True, False])) == 0.5


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(metrics.auc(np.arange(3.0), np.ones(3, bool)))


def test_spearman_sees_order_only() -> None:
    a = np.array([1.0, 2, 3, 4])
    assert metrics.spearman(a, np.exp(a)) == pytest.approx(1)
    assert metrics.spearman(a, -(a**3)) == pytest.approx(-1)
    assert metrics.spearman(a, np.array([1.0, 3, 2, 4])) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert np.isnan(metrics.spearman(a, np.ones(4)))


def test_ranks_share_ties() -> None:
    assert metrics.ranks(np.array([3.0, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]


def test_threshold_keeps_as_much_as_precision_allows() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    quality = np.array([1.0, 1, 0, 1, 0])
    assert metrics.threshold_for(scores, quality, 0.75) == 0.6
    assert metrics.precision_yield(scores, quality, 0.6) == (0.75, 0.8)
    assert metrics.threshold_for(scores, quality, 1.0) == 0.8


def test_a_threshold_never_parts_equal_scores() -> None:
    scores, quality = np.array([0.9, 0.8, 0.8, 0.1]), np.array([1.0, 1, 0, 0])
    assert metrics.threshold_for(scores, quality, 0.9) == 0.9


def test_a_weight_counts_as_so_many_samples() -> None:
    scores, quality = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 1, 0, 1])
    weight = np.array([1.0, 1, 3, 1])
    repeated = [np.repeat(values, weight.astype(int)) for values in (scores, quality)]
    for precision in (0.4, 0.5, 0.9):
        weighted = metrics.threshold_for(scores, quality, precision, weight)
        assert weighted == metrics.threshold_for(*repeated, precision)


def test_threshold_where_none_reaches_the_precision() -> None:
    scores, quality = np.linspace(1, 0, 20), np.zeros(20)
    quality[:6] = 1
    threshold = metrics.threshold_for(scores, quality, 0.95)
    assert threshold <= scores[5]


def test_nothing_kept_has_no_precision() -> None:
    precision, kept = metrics.precision_yield(np.zeros(3), np.ones(3), 0.5)
    assert np.isnan(precision)
    assert kept == 0


def test_calibration_error() -> None:
    scores = np.array([0.2, 0.2, 0.9, 0.9])
    assert metrics.expected_calibration_error(scores, np.array([0.2, 0.2, 0.9, 0.9])) == pytest.approx(0)
    assert metrics.expected_calibration_error(scores, 1 - scores) == pytest.approx(0.7)


class TestInterval:
    def test_holds_the_value_and_repeats(self) -> None:
        values = np.random.default_rng(0).normal(1, 1, 400)
        groups = np.arange(400)
        low, high = metrics.interval(lambda i: float(values[i].mean()), groups)
        assert low < 1 < high
        assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
        assert (low, high) == metrics.interval(lambda i: float(values[i].mean()), groups)

    def test_is_wider_when_samples_come_in_groups(self) -> None:
        centres = np.random.default_rng(0).normal(0, 1, 40)
        values, groups = np.repeat(centres, 10), np.repeat(np.arange(40), 10)

        def width(by: np.ndarray) -> float:
            low, high = metrics.interval(lambda i: float(values[i].mean()), by)
            return high - low

        assert width(groups) > 2 * width(np.arange(400))


class TestPrecisionAndRecall:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    good = np.array([True, False, True, False])

    def test_average_precision_is_the_mean_precision_where_a_good_one_is_found(self) -> None:
        assert metrics.average_precision(self.scores, self.good) == pytest.approx((1 + 2 / 3) / 2)
        assert metrics.average_precision(self.scores, ~self.good) == pytest.approx((1 / 2 + 2 / 4) / 2)

    def test_equal_scores_are_one_step(self) -> None:
        assert metrics.average_precision(np.zeros(4), self.good) == 0.5
        assert metrics.precision_at_recall(np.zeros(4), self.good) == 0.5

    def test_precision_at_recall_takes_the_best_threshold_that_keeps_enough(self) -> None:
        assert metrics.precision_at_recall(self.scores, self.good, 0.5) == 1
        assert metrics.precision_at_recall(self.scores, self.good, 0.95) == pytest.approx(2 / 3)

    def test_without_anything_good_there_is_neither(self) -> None:
        assert np.isnan(metrics.average_precision(self.scores, np.zeros(4, bool)))
        assert np.isnan(metrics.precision_at_recall(self.scores, np.zeros(4, bool)))
