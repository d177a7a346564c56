import numpy as np
import pytest
from cykooz_resizer import CpuExtensions, Resizer
from PIL import Image

from l2i_builder.decode import resize as module
from l2i_builder.decode.resize import resize

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}


def soft(width, height, mode="RGB", seed=0):
    """A picture without sharp edges, opaque."""
    channels = CHANNELS[mode]
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, channels), dtype=np.uint8)
    if mode in ("LA", "RGBA"):
        coarse[..., -1] = 255
    image = Image.fromarray(coarse[..., 0] if channels == 1 else coarse, mode)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def psnr(one, other):
    error = np.asarray(one).astype(float) - np.asarray(other)
    return 10 * np.log10(255**2 / max((error**2).mean(), 1e-9))


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize(
    ("source", "size", "box"),
    [
        ((768, 576), (512, 512), (96.0, 0.0, 672.0, 576.0)),
        ((577, 800), (256, 256), (0.0, 111.5, 577.0, 688.5)),
        ((160, 128), (512, 512), (16.0, 0.0, 144.0, 128.0)),
        ((768, 576), (512, 384), (0.0, 0.0, 768.0, 576.0)),
        ((1601, 1201), (96, 96), (200.0, 0.0, 1401.0, 1201.0)),
        ((640, 64), (32, 32), (0.0, 0.0, 640.0, 64.0)),
    ],
)
def test_pixels_are_those_of_pillows_bicubic(mode, source, size, box):
    image = soft(*source, mode)
    result = resize(image, size, box)
    assert (result.mode, result.size) == (mode, size)
    reference = image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    assert psnr(result, reference) > 48


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_every_processor_gives_the_same_pixels(mode, monkeypatch):
    image, found = soft(900, 700, mode), []
    for extensions in (CpuExtensions.none, None):  # None: the best that this processor has
        resizer = Resizer()
        if extensions:
            resizer.cpu_extensions = extensions
        monkeypatch.setattr(module, "_resizer", resizer)
        found.append(resize(image, (512, 512), (100.5, 0.0, 800.5, 700.0)).tobytes())
    assert found[0] == found[1]


def test_a_picture_that_fits_is_left_as_it_is():
    image = soft(64, 64)
    assert resize(image, (64, 64), (0.0, 0.0, 64.0, 64.0)) is image


def test_a_region_of_the_right_size_is_cut_out_exactly():
    image = soft(768, 512)
    result = resize(image, (512, 512), (128.0, 0.0, 640.0, 512.0))
    assert np.array_equal(result, np.asarray(image)[:, 128:640])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lend_no_colour(mode):
    pixels = np.zeros((128, 128, CHANNELS[mode]), np.uint8)
    pixels[..., :-1] = 255
    pixels[:, :61] = 0
    pixels[:, :61, -1] = 255  # black and opaque beside white and transparent
    result = np.asarray(resize(Image.fromarray(pixels, mode), (64, 64), (0.0, 0.0, 128.0, 128.0)))
    assert result[result[..., -1] > 0][:, :-1].max() <= 2


@pytest.mark.parametrize("source", [(1, 1), (1, 900), (900, 1), (3, 2)])
def test_thin_and_tiny_sources_fill_the_square(source):
    image = Image.new("RGB", source, (10, 20, 30))
    result = resize(image, (64, 64), (0.0, 0.0, *map(float, source)))
    assert result.getcolors() == [(64 * 64, (10, 20, 30))]
