"""PSD files, read back by programs that did not write them."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from model.psd import PsdLayer, psd_bytes


def picture(seed: int, channels: int = 3) -> np.ndarray:
    shape = (21, 34, channels) if channels > 1 else (21, 34)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def data() -> bytes:
    stack = [
        PsdLayer("background", picture(1)),
        PsdLayer("foreground: hönä 犬", picture(2), mask=picture(3, 1)),
        PsdLayer("cut-out", picture(4), alpha=picture(5, 1)),
    ]
    return psd_bytes(stack, picture(6))


@pytest.fixture(scope="module")
def read(data: bytes) -> PSDImage:
    return PSDImage.open(io.BytesIO(data))


def test_layers_read_back_equal_in_order_and_with_their_names(read: PSDImage) -> None:
    assert read.size == (34, 21)
    assert [layer.name for layer in read] == ["background", "foreground: hönä 犬", "cut-out"]  # from the bottom up
    for layer, seed in zip(read, (1, 2, 4), strict=True):
        assert layer.visible
        assert layer.opacity == 255
        assert np.array_equal(np.rint(layer.numpy("color") * 255), picture(seed))


def test_a_layer_mask_reads_back_equal_and_leaves_the_pixels_whole(read: PSDImage) -> None:
    masks = [layer.mask for layer in read]
    assert masks[0] is None
    assert masks[2] is None
    assert np.array_equal(np.asarray(masks[1].topil()), picture(3, 1))
    assert (read[1].numpy("shape") == 1).all()


def test_transparency_reads_back_equal(read: PSDImage) -> None:
    assert np.array_equal(np.rint(read[2].numpy("shape")[:, :, 0] * 255), picture(5, 1))


def test_the_merged_image_is_what_simple_viewers_show(data: bytes, read: PSDImage) -> None:
    assert np.array_equal(np.asarray(read.topil().convert("RGB")), picture(6))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), picture(6))


def test_pillow_finds_the_layers_too(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        found = [(name, mode, box) for name, mode, box, _ in image.layers]
    # Pillow leaves out layers with a layer mask
    assert found == [("background", "RGBA", (0, 0, 34, 21)), ("cut-out", "RGBA", (0, 0, 34, 21))]


def test_imagemagick_finds_the_layers_too(data: bytes, tmp_path: Path) -> None:
    magick = shutil.which("magick") or shutil.which("convert")
    formats = subprocess.run([magick, "-list", "format"], capture_output=True, text=True).stdout if magick else ""
    if "PSD" not in formats:
        pytest.skip("ImageMagick is not installed; runs after `apt-get install imagemagick`")
    (tmp_path / "a.psd").write_bytes(data)
    subprocess.run([magick, "a.psd[0]", "merged.png"], cwd=tmp_path, check=True)
    subprocess.run([magick, "a.psd[1]", "-alpha", "off", "layer.png"], cwd=tmp_path, check=True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "merged.png").convert("RGB")), picture(6))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "layer.png").convert("RGB")), picture(1))


def test_a_single_layer_and_odd_sizes_are_fine() -> None:
    tiny = np.array([[[1, 2, 3]]], np.uint8)
    read = PSDImage.open(io.BytesIO(psd_bytes([PsdLayer("", tiny)], tiny)))
    assert np.array_equal(np.rint(read[0].numpy("color") * 255), tiny)


def test_what_no_psd_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        psd_bytes([], picture(1))
    with pytest.raises(ValueError, match="30000 pixels"):
        psd_bytes([PsdLayer("a", np.zeros((1, 30_001, 3), np.uint8))], np.zeros((1, 30_001, 3), np.uint8))
    with pytest.raises(ValueError, match="layer 'b' is not uint8 of 21 x 34"):
        psd_bytes([PsdLayer("b", picture(1)[:5])], picture(1))
