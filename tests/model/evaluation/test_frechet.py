"""The Fréchet distance, against other programs' and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.evaluation.frechet import frechet_distance, frechet_interval


def sets(n: int, m: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dim, dim)) / dim**0.5
    return rng.normal(size=(n, dim)) @ mix, rng.normal(0.3, 1.2, size=(m, dim)) @ mix.T


def test_by_hand_in_one_dimension() -> None:
    """(mean difference)^2 + (difference of the deviations)^2."""
    a, b = np.array([[0.0], [2.0], [4.0]]), np.array([[1.0], [5.0], [9.0]])
    assert frechet_distance(a, b) == pytest.approx((2 - 5) ** 2 + (2 - 4) ** 2)


@pytest.mark.parametrize(("n", "m"), [(200, 150), (30, 150), (20, 25)])
def test_as_clean_fid_counts_it(n: int, m: int) -> None:
    """Also with fewer samples than dimensions, where the covariances are singular."""
    from cleanfid.fid import frechet_distance as of_clean_fid

    a, b = sets(n, m, 40)
    theirs = of_clean_fid(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_distance(a, b) == pytest.approx(float(theirs), rel=1e-4)


def test_as_torchmetrics_counts_it() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        """Images that already are their features."""

        num_features = 16

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    a, b = sets(120, 90, 16)
    metric = FrechetInceptionDistance(feature=Given(), normalize=True, input_img_size=(1, 4, 4)).set_dtype(
        torch.float64
    )
    metric.update(torch.from_numpy(a).view(-1, 1, 4, 4), real=True)
    metric.update(torch.from_numpy(b).view(-1, 1, 4, 4), real=False)
    assert frechet_distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_a_set_has_no_distance_to_itself_and_the_order_does_not_matter() -> None:
    a, b = sets(60, 50, 20)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_one_image_has_no_spread() -> None:
    a, b = sets(1, 50, 4)
    assert np.isnan(frechet_distance(a, b))


def test_the_interval_holds_the_estimate_and_shrinks_with_more_samples() -> None:
    few, many = sets(40, 40, 6), sets(1000, 1000, 6)
    low, high = frechet_interval(*few)
    assert low <= frechet_distance(*few) <= high
    narrow = frechet_interval(*many)
    assert 0 < narrow[1] - narrow[0] < (high - low) / 2
    assert frechet_interval(*few) == (low, high)  # seeded
