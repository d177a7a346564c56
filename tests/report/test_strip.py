"""Preview strips: four panels, in order, whatever the image's size."""

import io

import numpy as np
import pytest
from PIL import Image

from l2i_builder.config import Previews
from l2i_builder.report.strip import PANELS, make_strip

RED, BLUE = (200, 30, 30), (30, 30, 200)


def panels(strip: bytes, side: int) -> list[np.ndarray]:
    image = Image.open(io.BytesIO(strip))
    assert image.format == "WEBP"
    assert image.size == (4 * side, side)
    whole = np.split(np.asarray(image.convert("RGB")).astype(int), len(PANELS), axis=1)
    return [panel[:, 4:-4] for panel in whole]  # WebP's halved chroma bleeds over panel edges


def sample(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red image whose left half is selected, over a blue background."""
    mask = np.zeros((size, size), np.uint8)
    mask[:, : size // 2] = 255
    return np.full((size, size, 3), RED, np.uint8), mask, np.full((size, size, 3), BLUE, np.uint8)


@pytest.mark.parametrize("size", [64, 192, 256, 512, 1024])
def test_panels_are_original_mask_cutout_background(size):
    original, mask, cutout, background = panels(make_strip(*sample(size), Previews()), 192)
    assert np.abs(original - RED).max() < 12
    assert mask[:, :80].min() > 240
    assert mask[:, 104:].max() < 15
    assert np.abs(cutout[:, :80] - RED).max() < 24
    assert np.abs(background - BLUE).max() < 12


def test_what_the_mask_leaves_out_is_a_checkerboard():
    checker = panels(make_strip(*sample(512), Previews()), 192)[2][:, 120:]
    assert checker.min() > 185
    assert np.ptp(checker.mean(axis=2)) > 25


def test_soft_masks_blend():
    image, _, background = sample(256)
    half = np.full((256, 256), 128, np.uint8)
    cutout = panels(make_strip(image, half, background, Previews()), 192)[2]
    assert 190 < cutout[..., 0].mean() < 225
    assert 110 < cutout[..., 1].mean() < 145


def test_without_a_background_the_last_panel_is_hatched():
    image, mask, _ = sample(512)
    last = panels(make_strip(image, mask, None, Previews()), 192)[3]
    assert 130 < last.min() < 155 < 165 < last.max() < 190
    assert np.ptp(last, axis=2).max() < 12  # grey


def test_side_and_quality_come_from_the_configuration():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    fine, coarse = (make_strip(noise, noise[..., 0], noise, Previews(side=64, quality=quality)) for quality in (95, 20))
    panels(fine, 64)
    assert len(coarse) < len(fine) / 2


def test_the_same_arrays_give_the_same_bytes():
    assert make_strip(*sample(256), Previews()) == make_strip(*sample(256), Previews())
