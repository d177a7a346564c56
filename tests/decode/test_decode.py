"""decode: bytes to an upright sRGB square, or a reason."""

import io
import random
import struct

import numpy as np
import pytest
from pictures import (
    BAD_IMAGES,
    BLUE,
    FORMATS,
    GREEN,
    RED,
    WHITE,
    config,
    corners,
    encode,
    lying_png,
    needs_bad_images,
    picture,
    png,
    refusal,
    srgb_profile,
)
from PIL import Image, features

from l2i_builder.decode.decoder import DecodeRefusal, decode
from l2i_builder.sample import Reason


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_of_the_list_gives_its_picture(format):
    decoded = decode(encode(picture(), format), config())
    assert decoded.format == format
    assert (decoded.width, decoded.height, decoded.notes) == (96, 64, ())
    assert decoded.image.shape == (64, 64, 3)
    assert decoded.image.dtype == np.uint8
    assert decoded.image.flags.c_contiguous
    assert corners(decoded.image) == [RED, GREEN, BLUE, WHITE]


def test_what_is_no_image_of_the_list_is_refused_by_its_first_bytes():
    assert refusal(b"<svg xmlns='http://www.w3.org/2000/svg'/>").reason is Reason.UNSUPPORTED_FORMAT
    assert refusal(b"<!DOCTYPE html>").reason is Reason.NOT_IMAGE
    assert refusal(bytes(range(256))).reason is Reason.DECODE_ERROR
    assert refusal(b"").reason is Reason.EMPTY_BODY


def lying_jpeg():
    data = bytearray(encode(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    return bytes(data)


def lying_webp():
    body = b"WEBPVP8X\x0a\0\0\0\x10\0\0\0" + (16382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


def lying_gif():
    data = bytearray(encode(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", 65000, 65000)
    return bytes(data)


def lying_bmp():
    data = bytearray(encode(picture(), "BMP"))
    data[18:26] = struct.pack("<ii", 2**30, 2**20)
    return bytes(data)


def lying_avif(width=17000, height=17000):
    data = bytearray(encode(picture(), "AVIF"))
    extents = data.index(b"ispe")
    data[extents + 8 : extents + 16] = struct.pack(">II", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    "make", [lying_png, lying_jpeg, lying_webp, lying_gif, lying_bmp] + [lying_avif] * features.check("avif")
)
def test_the_pixel_cap_holds_from_the_header_alone(make):
    assert refusal(make()).reason is Reason.TOO_MANY_PIXELS


def test_the_pixel_cap_is_the_configured_one():
    data = encode(picture(96, 64), "PNG")
    assert decode(data, config(max_pixels=96 * 64)).width == 96
    assert refusal(data, max_pixels=96 * 64 - 1).reason is Reason.TOO_MANY_PIXELS


def test_pillows_own_limit_is_left_as_it_was():
    before = Image.MAX_IMAGE_PIXELS
    decode(encode(picture(), "PNG"), config(max_pixels=10_000))
    refusal(lying_png())
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(("width", "height"), [(96, 63), (63, 96)])
def test_the_shorter_side_must_reach_min_size(width, height):
    data = encode(picture(width, height), "PNG")
    assert refusal(data, min_size=64).reason is Reason.TOO_SMALL
    assert decode(data, config(min_size=63)).image.shape == (64, 64, 3)


@pytest.mark.parametrize(("width", "height"), [(121, 40), (40, 121)])
def test_the_longer_side_must_stay_within_max_aspect(width, height):
    assert refusal(encode(picture(width, height), "PNG"), max_aspect=3).reason is Reason.BAD_ASPECT
    assert decode(encode(picture(120, 40), "PNG"), config(max_aspect=3)).width == 120


def animation(format):
    frames = [picture(), picture().transpose(Image.Transpose.ROTATE_180)]
    return encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"] + ["AVIF"] * features.check("avif"))
def test_animations_are_refused_or_give_their_first_frame(format):
    data = animation(format)
    assert refusal(data).reason is Reason.ANIMATED
    decoded = decode(data, config(animated="first_frame"))
    assert decoded.notes == ("first-frame",)
    assert corners(decoded.image) == [RED, GREEN, BLUE, WHITE]


def test_further_pages_are_no_animation():
    decoded = decode(animation("TIFF"), config())
    assert decoded.notes == ("first-page",)
    assert corners(decoded.image) == [RED, GREEN, BLUE, WHITE]


# How a file with each orientation stores the upright picture: the inverse of what a viewer must do.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def oriented(image, orientation, format):
    if STORED[orientation] is not None:
        image = image.transpose(STORED[orientation])
    if format == "TIFF":
        return encode(image, format, tiffinfo={274: orientation})
    exif = Image.Exif()
    exif[274] = orientation
    return encode(image, format, exif=exif)


@pytest.mark.parametrize("resize", ["center_crop", "pad", "stretch"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_all_eight_exif_orientations_give_the_same_upright_picture(format, resize):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    upright = Image.fromarray(noise // 2 + np.asarray(picture(90, 60)) // 2)
    decoded = [decode(oriented(upright, i, format), config(resize=resize)) for i in range(1, 9)]
    assert {(d.width, d.height) for d in decoded} == {(90, 60)}
    assert decoded[0].notes == ()
    assert {d.notes for d in decoded[1:]} == {("exif-rotated",)}
    for other in decoded[1:]:
        np.testing.assert_array_equal(other.image, decoded[0].image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_upright(orientation):
    decoded = decode(oriented(picture(), orientation, "JPEG"), config())
    assert corners(decoded.image) == [RED, GREEN, BLUE, WHITE]


def test_impossible_orientations_are_ignored():
    exif = Image.Exif()
    exif[274] = 9
    decoded = decode(encode(picture(), "PNG", exif=exif), config())
    assert corners(decoded.image) == [RED, GREEN, BLUE, WHITE]
    assert decoded.notes == ()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0what is this", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f"]
)
def test_exif_that_cannot_be_read_is_dropped_and_noted(exif):
    decoded = decode(encode(picture(), "JPEG", exif=exif), config())
    assert decoded.notes == ("exif-dropped",)
    assert corners(decoded.image) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_in_the_middle_is_truncated(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    data = encode(noise, format)
    assert refusal(data[: len(data) * 2 // 3]).reason is Reason.DECODE_TRUNCATED


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_header_is_a_decode_error(format):
    data = bytearray(encode(picture(), format))
    data[12:40] = b"\xee" * 28
    assert refusal(bytes(data)).reason in (Reason.DECODE_ERROR, Reason.UNSUPPORTED_FORMAT, Reason.TOO_MANY_PIXELS)


def test_damaged_pixels_of_a_complete_file_are_a_decode_error():
    data = png(
        [
            (b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)),
            (b"IDAT", b"this was never compressed"),
            (b"IEND", b""),
        ]
    )
    assert refusal(data).reason is Reason.DECODE_ERROR


def test_details_are_the_same_in_every_run():
    data = encode(picture(), "PNG")[:60]
    details = {refusal(data).detail for _ in range(3)}
    assert len(details) == 1
    assert "0x" not in details.pop()


def stripes():
    """Three upright bars, red green blue, 192 x 64."""
    image = Image.new("RGB", (192, 64), RED)
    image.paste(GREEN, (64, 0, 128, 64))
    image.paste(BLUE, (128, 0, 192, 64))
    return image


def test_center_crop_keeps_the_centre():
    decoded = decode(encode(stripes(), "PNG"), config(resize="center_crop"))
    assert np.unique(decoded.image.reshape(-1, 3), axis=0).tolist() == [[0, 255, 0]]


def test_pad_keeps_everything_on_fill():
    pixels = decode(encode(stripes(), "PNG"), config(resize="pad", size=96, fill=(5, 6, 7))).image
    assert pixels[:32].reshape(-1, 3).tolist() == [[5, 6, 7]] * 32 * 96
    assert pixels[64:].reshape(-1, 3).tolist() == [[5, 6, 7]] * 32 * 96
    assert [pixels[48, x].tolist() for x in (16, 48, 80)] == [list(RED), list(GREEN), list(BLUE)]


def test_stretch_keeps_everything_and_fills_the_square():
    pixels = decode(encode(stripes(), "PNG"), config(resize="stretch", size=96)).image
    assert [pixels[y, x].tolist() for y in (2, 93) for x in (16, 48, 80)] == [list(RED), list(GREEN), list(BLUE)] * 2


@pytest.mark.parametrize("side", [256, 1024])
def test_downscaling_averages_instead_of_skipping_pixels(side):
    board = np.indices((side, side)).sum(0) % 2 * 255
    decoded = decode(encode(Image.fromarray(board.astype(np.uint8)), "PNG"), config(size=32))
    assert abs(decoded.image[4:-4, 4:-4].astype(int) - 127.5).max() <= 2


def test_large_jpegs_decoded_small_look_like_full_decodes():
    x, y = np.meshgrid(np.linspace(0, 6, 900), np.linspace(0, 4, 600))
    waves = np.stack([np.sin(x * y), np.cos(3 * x), np.sin(2 * y)], -1)
    data = encode(Image.fromarray((waves * 100 + 128).astype(np.uint8)), "JPEG", quality=95)
    full = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.LANCZOS, box=(150, 0, 750, 600))
    error = decode(data, config()).image.astype(float) - np.asarray(full)
    assert np.sqrt((error**2).mean()) < 1


def test_downscaling_rings_at_edges_by_a_twentieth_of_the_step_at_most():
    edge = np.full((150, 150), 60, np.uint8)
    edge[:, 77:] = 200
    decoded = decode(encode(Image.fromarray(edge), "PNG"), config()).image
    assert decoded.min() >= 60 - 7
    assert decoded.max() <= 200 + 7


def test_small_sources_are_enlarged():
    assert decode(encode(picture(20, 20), "PNG"), config(min_size=20)).image.shape == (64, 64, 3)


def test_decoding_is_deterministic():
    data = encode(Image.effect_noise((300, 200), 60).convert("RGB"), "JPEG", icc_profile=srgb_profile(swap=True))
    first, second = decode(data, config()), decode(data, config())
    np.testing.assert_array_equal(first.image, second.image)
    assert first.notes == second.notes


@pytest.mark.parametrize("format", FORMATS)
def test_whatever_the_bytes_there_is_an_image_or_a_reason(format):
    source = random.Random(format)
    whole = encode(picture(), format)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(source.randint(1, 12)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            outcome = decode(bytes(data), config(max_pixels=10**6)).image.shape
        except DecodeRefusal as refused:
            outcome = refused.reason
        assert outcome == (64, 64, 3) or outcome in Reason


@needs_bad_images
def test_real_exif_examples_are_alike_and_upright():
    for kind in ("Landscape", "Portrait"):
        files = sorted((BAD_IMAGES / "exif-orientation").glob(f"{kind}_*.jpg"))
        images = [decode(file.read_bytes(), config(resize="stretch")).image.astype(float) for file in files]
        assert len(images) == 9
        for image in images[1:]:
            assert abs(image - images[0]).mean() < 3
            assert abs(image - images[0][::-1]).mean() > 40
