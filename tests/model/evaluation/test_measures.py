"""Measures of masks and pictures, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from model.evaluation.measures import iou, mae, psnr, soft_iou

A = np.array([[1.0, 1.0], [0.6, 0.0]])
B = np.array([[1.0, 0.2], [0.4, 0.0]])


def test_iou_counts_pixels_over_one_half() -> None:
    assert float(iou(A, B)) == pytest.approx(1 / 3)
    assert float(iou(A, B, threshold=0.1)) == pytest.approx(1.0)
    assert float(iou(np.array([[0.5]]), np.array([[1.0]]))) == 0  # one half is not over one half


def test_soft_iou_is_the_sum_of_minima_over_that_of_maxima() -> None:
    assert float(soft_iou(A, B)) == pytest.approx((1 + 0.2 + 0.4) / (1 + 1 + 0.6))


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((2, 2))
    assert float(iou(empty, empty)) == float(soft_iou(empty, empty)) == 1
    assert float(iou(empty, A)) == float(soft_iou(empty, A)) == 0


def test_mae_is_the_mean_difference() -> None:
    assert float(mae(A, B)) == pytest.approx((0 + 0.8 + 0.2 + 0) / 4)


def test_psnr_in_decibels() -> None:
    black = np.zeros((4, 4, 3))
    assert float(psnr(black, black + 0.1)) == pytest.approx(20)
    assert float(psnr(black, black + 1)) == pytest.approx(0)
    assert float(psnr(black, black)) == 100


def test_each_sample_of_a_batch_has_its_number() -> None:
    both = np.stack([A, B])
    assert iou(both, np.stack([B, B])).tolist() == pytest.approx([1 / 3, 1])
    assert psnr(np.zeros((2, 4, 4, 3)), np.stack([np.ones((4, 4, 3)), np.zeros((4, 4, 3))])).tolist() == [0, 100]
