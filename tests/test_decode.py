"""decode: bytes to an upright sRGB square, or a reason."""

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from l2i_builder.config import Image as ImageConfig
from l2i_builder.decode import DecodeRefusal, decode
from l2i_builder.sample import Reason

SHARED = Path(os.environ.get("L2I_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
BAD_IMAGES = SHARED / "badimages"
needs_bad_images = pytest.mark.skipif(
    not BAD_IMAGES.is_dir(), reason="runs where L2I_SHARED_DATA has the folder badimages (real malformed files)"
)
FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"] + ["AVIF"] * features.check("avif")
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def config(**changes):
    return ImageConfig(**{"size": 64, "min_size": 1, "max_aspect": 100, **changes})


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **(LOSSLESS.get(format, {}) | options))
    return buffer.getvalue()


def picture(width=96, height=64):
    """Four quadrants that tell every turn and flip apart."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def corners(pixels):
    """The colours well inside the four quadrants, row by row, to the nearest of 0 and 255."""
    side = len(pixels)
    near, far = side // 8, side - side // 8
    return [tuple(int(v > 127) * 255 for v in pixels[y, x]) for y in (near, far) for x in (near, far)]


def refusal(data, **changes):
    with pytest.raises(DecodeRefusal) as caught:
        decode(data, config(**changes))
    return caught.value


def png(chunks):
    """A PNG of raw chunks, with right lengths and checksums."""
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


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


@pytest.mark.parametrize("type", [np.float32, np.int32])
def test_samples_without_a_defined_white_are_unsupported(type):
    assert refusal(encode(Image.fromarray(np.ones((8, 8), type)), "TIFF")).reason is Reason.UNSUPPORTED_FORMAT


def lying_png():
    return png([(b"IHDR", struct.pack(">IIBBBBB", 65536, 65536, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")])


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


@pytest.mark.parametrize("make", [lying_png, lying_jpeg, lying_webp, lying_gif, lying_bmp])
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


def srgb_profile(swap=False):
    """An sRGB profile; ``swap``: the same with the red and the green primary in each other's place."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if swap:
        entries = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(data[128:132]), 12)}
        red, green = entries[b"rXYZ"], entries[b"gXYZ"]
        data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


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
