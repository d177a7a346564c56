"""Small pictures in every format, and what is asked of a decoder about them."""

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms, features

from l2i_builder.config import Image as ImageConfig
from l2i_builder.decode.decoder import DecodeRefusal, decode

FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"] + ["AVIF"] * features.check("avif")
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

SHARED = Path(os.environ.get("L2I_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
BAD_IMAGES = SHARED / "badimages"
needs_bad_images = pytest.mark.skipif(
    not BAD_IMAGES.is_dir(), reason="runs where L2I_SHARED_DATA has the folder badimages (real malformed files)"
)


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


def lying_png():
    """A PNG of a few bytes that says it is 65,536 pixels wide and high."""
    return png([(b"IHDR", struct.pack(">IIBBBBB", 65536, 65536, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")])


def srgb_profile(swap=False):
    """An sRGB profile; ``swap``: the same with the red and the green primary in each other's place."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if swap:
        entries = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(data[128:132]), 12)}
        red, green = entries[b"rXYZ"], entries[b"gXYZ"]
        data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)
