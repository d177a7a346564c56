"""Colours of every kind come out as sRGB, seen through the whole decoder."""

import struct
import zlib

import numpy as np
import pytest
from pictures import (
    BAD_IMAGES,
    BLUE,
    GREEN,
    RED,
    WHITE,
    config,
    corners,
    encode,
    needs_bad_images,
    picture,
    png,
    refusal,
    srgb_profile,
)
from PIL import Image, ImageCms

from l2i_builder.decode.decoder import decode
from l2i_builder.sample import Reason


def grey16(value, **options):
    return encode(Image.fromarray(np.full((64, 64), value, np.uint16)), "PNG", **options)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (1000, 4), (0x8080, 0x80), (65535, 255)])
def test_16_bit_grey_is_rescaled_not_clipped(value, expected):
    decoded = decode(grey16(value), config())
    assert decoded.notes == ("16-bit-rescaled",)
    assert np.unique(decoded.image).tolist() == [expected]


def test_every_16_bit_level_is_rounded_to_the_nearest_of_8_bits():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    decoded = decode(encode(Image.fromarray(levels), "PNG"), config(size=256))
    np.testing.assert_array_equal(decoded.image[..., 0], np.rint(levels / 257).astype(np.uint8))


def test_16_bit_colour_and_its_transparent_colour():
    pixels = np.zeros((8, 8, 3), ">u2")
    pixels[:, :4] = (65535, 0x8000, 0x0102)
    pixels[:, 4:] = (0x0102, 0x0304, 0x0506)
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    transparent = (b"tRNS", struct.pack(">HHH", 0x0102, 0x0304, 0x0506))
    data = png([header, transparent, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])
    decoded = decode(data, config(size=8, fill=(9, 99, 199)))
    assert decoded.notes == ("16-bit-rescaled", "alpha-composited")
    assert abs(decoded.image[4, 0].astype(int) - (255, 128, 1)).max() <= 1
    assert decoded.image[4, 7].tolist() == [9, 99, 199]


def test_the_transparent_grey_of_16_bit_is_laid_on_fill():
    decoded = decode(grey16(40000, transparency=40000), config(fill=(1, 2, 3)))
    assert np.unique(decoded.image.reshape(-1, 3), axis=0).tolist() == [[1, 2, 3]]
    assert decode(grey16(40000, transparency=40001), config(fill=(1, 2, 3))).image[0, 0].tolist() == [156, 156, 156]


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 255, 255, 0), RED), ((255, 0, 255, 0), GREEN), ((0, 0, 0, 0), WHITE), ((0, 0, 0, 255), (0, 0, 0))],
)
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_becomes_srgb(format, ink, colour):
    """Pillow writes CMYK JPEGs as Adobe does, inverted."""
    decoded = decode(encode(Image.new("CMYK", (64, 64), ink), format), config())
    assert decoded.notes == ("cmyk-to-srgb",)
    assert abs(decoded.image.reshape(-1, 3).mean(0) - colour).max() <= 2


def test_an_embedded_profile_is_applied():
    decoded = decode(encode(picture(), "PNG", icc_profile=srgb_profile(swap=True)), config())
    assert decoded.notes == ("icc-to-srgb",)
    assert corners(decoded.image) == [GREEN, RED, BLUE, WHITE]


def test_an_srgb_profile_changes_nothing():
    plain, tagged = (decode(encode(picture(), "PNG", icc_profile=p), config()) for p in (None, srgb_profile()))
    assert tagged.notes == ()
    np.testing.assert_array_equal(plain.image, tagged.image)


def test_a_grey_image_with_a_colour_profile_stays_grey():
    decoded = decode(encode(Image.new("L", (64, 64), 100), "PNG", icc_profile=srgb_profile()), config())
    assert np.unique(decoded.image).tolist() == [100]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_broken_or_foreign_profile_is_dropped_and_noted(mode):
    image = Image.new(mode, (64, 64), 0)
    for profile in [b"no profile at all", srgb_profile()[:200]] + [srgb_profile()] * (mode == "CMYK"):
        assert "icc-dropped" in decode(encode(image, "JPEG", icc_profile=profile), config()).notes


def test_transparency_is_laid_on_fill():
    image = Image.new("RGBA", (64, 64), (200, 100, 0, 0))
    image.paste((200, 100, 0, 128), (0, 0, 64, 32))
    decoded = decode(encode(image, "PNG"), config(fill=(0, 0, 255)))
    assert decoded.notes == ("alpha-composited",)
    assert abs(decoded.image[8, 8].astype(int) - (100, 50, 127)).max() <= 1
    assert decoded.image[56, 8].tolist() == [0, 0, 255]


def test_the_colour_of_transparent_pixels_does_not_bleed_when_resized():
    image = Image.new("RGBA", (256, 256), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 131, 256))
    decoded = decode(encode(image, "PNG"), config(fill=(0, 0, 255)))
    assert np.unique(decoded.image.reshape(-1, 3), axis=0).tolist() == [[0, 0, 255]]


def test_opaque_alpha_needs_no_mending():
    assert decode(encode(picture().convert("RGBA"), "PNG"), config()).notes == ()


def palette_image():
    image = Image.new("P", (64, 64), 0)
    image.putpalette([10, 20, 30, 200, 150, 100])
    image.paste(1, (32, 0, 64, 64))
    return image


def test_palettes_become_colours_and_their_transparent_entry_fill():
    opaque = decode(encode(palette_image(), "PNG"), config(size=64))
    assert (opaque.image[32, 8].tolist(), opaque.image[32, 56].tolist()) == ([10, 20, 30], [200, 150, 100])
    for format, transparency in (("PNG", 1), ("PNG", b"\xff\0"), ("GIF", 1)):
        decoded = decode(encode(palette_image(), format, transparency=transparency), config(fill=(7, 7, 7)))
        assert decoded.image[32, 8].tolist() == [10, 20, 30]
        assert decoded.image[32, 56].tolist() == [7, 7, 7]
        assert decoded.notes == ("alpha-composited",)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_become_rgb(mode):
    image = Image.new("LA", (64, 64), (255, 255)).convert(mode)
    assert np.unique(decode(encode(image, "PNG"), config()).image).tolist() == [255]


@pytest.mark.parametrize("type", [np.float32, np.int32])
def test_samples_without_a_defined_white_are_unsupported(type):
    assert refusal(encode(Image.fromarray(np.ones((8, 8), type)), "TIFF")).reason is Reason.UNSUPPORTED_FORMAT


@needs_bad_images
def test_pngsuite_16_bit_has_the_means_of_its_samples():
    import cv2

    files = sorted((BAD_IMAGES / "stb-pngsuite/tests/pngsuite/16bit").glob("*.png"))
    assert len(files) > 10
    for file in files:
        samples = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) / 65535
        samples = samples[..., None].repeat(3, -1) if samples.ndim == 2 else samples
        if samples.shape[2] == 4:
            samples = samples[..., :3] * samples[..., 3:] + 1 - samples[..., 3:]
        expected = samples.mean((0, 1)) * 255
        found = decode(file.read_bytes(), config(size=32, resize="stretch")).image.mean((0, 1))[::-1]
        assert abs(found - expected).max() < 1, file.name


def test_the_transparent_level_of_one_bit_is_laid_on_fill():
    image = Image.new("1", (64, 64), 0)
    image.paste(1, (32, 0, 64, 64))
    decoded = decode(encode(image, "PNG", transparency=1), config(fill=(7, 8, 9)))
    assert decoded.image[32, 8].tolist() == [0, 0, 0]
    assert decoded.image[32, 56].tolist() == [7, 8, 9]


def test_lab_becomes_srgb():
    red = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.new("RGB", (64, 64), RED), red)
    decoded = decode(encode(image, "TIFF"), config())
    assert decoded.notes == ("lab-to-srgb",)
    assert abs(decoded.image.reshape(-1, 3).mean(0) - RED).max() <= 6  # LAB's 8 bits are coarser
