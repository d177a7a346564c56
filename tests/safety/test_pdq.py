"""PDQ: bit by bit what the reference implementation gives, and near for pictures that look alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from l2i_builder.config import Image as ImageConfig
from l2i_builder.decode.decoder import DecodeRefusal
from l2i_builder.safety.pdq import decode_with_pdq, distance, pdq

CONFIG = ImageConfig(size=64, min_size=32)


def rings(height: int, width: int, period: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.int64)
    radius = (x - width // 3) ** 2 + (y - height // 4) ** 2
    return np.stack([radius // period % 256, x * y // period % 256, (x * 3 + y * 5) % 256], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "expected", "quality"),
    [
        ((300, 400, 2500), "fe010355fe002b55fe0054aa01ff54aa51fb54aa41ff54a341ff548301ff54bf", 100),
        ((512, 512, 7000), "03c085f50bc105d51f4507d73f01a555fd51a555c80305df018f05df08ffe7ff", 100),
        ((200, 1000, 9000), "540115540eaa555516a85555060055550000aaaaffefaaabfeafaaabfeafaaff", 100),
        ((64, 64, 90), "01ffab01aa552ad5ff80003f5562554a555afff00007abbd00a9aaabd7fe5555", 12),
    ],
)
def test_hash_and_quality_are_those_of_the_reference(size: tuple[int, int, int], expected: str, quality: int) -> None:
    """Vectors by pdqhash 0.2.8, which wraps Meta's C++."""
    assert pdq(rings(*size)) == (expected, quality)


def photo(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Soft shapes of many sizes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((512, 512), Image.Resampling.BICUBIC).resize(size)


def stored(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_the_same_picture_smaller_or_worse_is_near_and_another_is_far() -> None:
    original = decode_with_pdq(stored(photo(1)), CONFIG).pdq
    small = decode_with_pdq(stored(photo(1, (200, 150)), quality=40), CONFIG).pdq
    webp = decode_with_pdq(stored(photo(1), "WEBP", quality=50), CONFIG).pdq
    assert distance(original, small) <= 31
    assert distance(original, webp) <= 31
    assert distance(original, decode_with_pdq(stored(photo(2)), CONFIG).pdq) > 64


def test_the_whole_picture_is_hashed_though_the_crop_is_kept() -> None:
    wide = photo(3, (600, 300))
    decoded = decode_with_pdq(stored(wide, "PNG"), CONFIG)
    assert decoded.image.shape == (64, 64, 3)
    assert distance(decoded.pdq, pdq(np.asarray(wide))[0]) <= 16
    assert distance(decoded.pdq, pdq(np.asarray(wide.crop((150, 0, 450, 300))))[0]) > 31


def test_a_rotated_file_is_hashed_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = stored(photo(4).transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes(), quality=95)
    assert distance(decode_with_pdq(turned, CONFIG).pdq, decode_with_pdq(stored(photo(4)), CONFIG).pdq) <= 31


def test_a_flat_picture_has_no_hash_that_could_be_compared() -> None:
    assert decode_with_pdq(stored(Image.new("RGB", (300, 300), (10, 20, 30)), "PNG"), CONFIG).pdq == ""


def test_what_does_not_decode_is_refused_as_ever() -> None:
    with pytest.raises(DecodeRefusal):
        decode_with_pdq(b"GIF89a", CONFIG)
