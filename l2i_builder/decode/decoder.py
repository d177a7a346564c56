"""Decode untrusted bytes to an upright sRGB square, or say why not. One decoder throughout: Pillow.

OpenCV and Pillow disagree on about one malformed file in seven, so a second decoder would make a row's fate
depend on which of them saw it. ``decode`` is pure and runs in-process; ``decode_pool`` runs it in children.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

# Imported by name: Pillow would otherwise import all forty of its plugins at the first AVIF, TIFF or WebP.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from l2i_builder.decode.colour import UndefinedWhite, plain_mode, to_srgb
from l2i_builder.decode.formats import announced_pixels, ends_early, identify
from l2i_builder.decode.resize import REDUCING_GAP, resize
from l2i_builder.sample import Reason

if TYPE_CHECKING:
    from l2i_builder.config import Image as ImageConfig

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decoders run side by side already

_ORIENTATION = 274  # EXIF tag
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as the models see it.

    image: uint8 [S, S, 3], sRGB, C-contiguous. width, height: of the source, in pixels, after EXIF rotation.
    notes: what was mended, of exif-rotated, exif-dropped, 16-bit-rescaled, cmyk-to-srgb, lab-to-srgb, icc-to-srgb,
    icc-dropped, alpha-composited, first-frame, first-page.
    """

    image: np.ndarray
    width: int
    height: int
    format: str
    notes: tuple[str, ...] = ()
    pdq: str = ""  # perceptual hash, where blocklists ask for it (safety/pdq.py)


class DecodeRefusal(Exception):
    """The bytes give no usable image. ``reason`` goes to the row, ``detail`` is for people and deterministic."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(data: bytes, config: ImageConfig) -> Decoded:
    """Decode ``data`` by the rules of ``config.image``: the size limits, then upright, sRGB, ``size`` x ``size``.

    Deterministic. Raises DecodeRefusal for whatever the bytes do, and nothing else.
    """
    if not data:
        raise DecodeRefusal(Reason.EMPTY_BODY, "no bytes")
    format, reason = identify(data)
    if reason is not None:
        detail = "not a known image format" if format == "unknown" else f"this is {format}"
        raise DecodeRefusal(reason, detail)
    notes: list[str] = []
    early = ends_early(data, format)
    # These two plugins read the whole file when they open it.
    broken = Reason.DECODE_TRUNCATED if early and format in ("WEBP", "AVIF") else Reason.DECODE_ERROR
    with _pillow_limits(config.max_pixels):
        try:
            if announced_pixels(data, format) > config.max_pixels:
                raise Image.DecompressionBombError
            # Image.open would replace what the plugin has to say by "cannot identify image file".
            image = Image.OPEN[format][0](io.BytesIO(data), "")
            _check_header(image, format, config, notes)
            if early:  # the header is whole, so what fails from here on fails for lack of bytes
                broken = Reason.DECODE_TRUNCATED
            return _square(image, format, config, notes)
        except DecodeRefusal:
            raise
        except UndefinedWhite as undefined:
            raise DecodeRefusal(Reason.UNSUPPORTED_FORMAT, str(undefined)) from None
        except Image.DecompressionBombError:
            raise DecodeRefusal(Reason.TOO_MANY_PIXELS, f"more than image.max_pixels ({config.max_pixels})") from None
        except Exception as error:  # Pillow raises nearly everything on malformed files
            if early and str(error) == "Truncated File Read":  # the end fell into the header
                broken = Reason.DECODE_TRUNCATED
            raise _refusal(error, broken, config) from error


def _square(image: Image.Image, format: str, config: ImageConfig, notes: list[str]) -> Decoded:
    size = image.size
    sixteen_bit = format in ("PNG", "TIFF") and ";16" in _raw_mode(image)
    # Pillow turns TIFFs upright while it loads them, and then forgets the tag.
    orientation = _orientation(image, notes) if format == "TIFF" else 1
    if format == "JPEG":
        target, _ = _geometry(size, config)
        image.draft(image.mode, (round(REDUCING_GAP * target[0]), round(REDUCING_GAP * target[1])))
    image.load()
    pixels = image
    if format != "TIFF":
        orientation = _orientation(image, notes)
        if orientation in _TRANSPOSE:
            pixels = image.transpose(_TRANSPOSE[orientation])
        if orientation >= 5:
            size = size[::-1]
    if orientation in _TRANSPOSE:
        notes.append("exif-rotated")
    pixels = plain_mode(pixels, sixteen_bit, notes)
    target, box = _geometry(pixels.size, config)
    pixels = resize(pixels, target, box)
    pixels = to_srgb(pixels, image.info.get("icc_profile"), config.fill, notes)
    if config.resize == "pad":
        canvas = Image.new("RGB", (config.size, config.size), config.fill)
        canvas.paste(pixels, ((config.size - target[0]) // 2, (config.size - target[1]) // 2))
        pixels = canvas
    return Decoded(_array(pixels), size[0], size[1], format, tuple(notes))


def _array(image: Image.Image) -> np.ndarray:
    """Return an RGB image as uint8 [H, W, 3]; in one piece, where Pillow would join a dozen."""
    module: Any = ImageFile
    before = module.MAXBLOCK
    module.MAXBLOCK = max(before, 3 * image.width * image.height)
    try:
        return np.asarray(image)
    finally:
        module.MAXBLOCK = before


def _check_header(image: Image.Image, format: str, config: ImageConfig, notes: list[str]) -> None:
    """Refuse by what the header says, before any pixel is decoded."""
    width, height = image.size
    if width <= 0 or height <= 0:
        raise DecodeRefusal(Reason.DECODE_ERROR, f"{width}x{height} pixels")
    if width * height > config.max_pixels:
        raise DecodeRefusal(
            Reason.TOO_MANY_PIXELS, f"{width}x{height} is more than image.max_pixels ({config.max_pixels})"
        )
    # JPEG and TIFF may hold several pictures too, but as pages or previews: the first is the picture.
    if getattr(image, "is_animated", False):
        if format in ("JPEG", "TIFF"):
            notes.append("first-page")
        elif config.animated == "reject":
            raise DecodeRefusal(Reason.ANIMATED, f"an animated {format}")
        else:
            notes.append("first-frame")
    if min(width, height) < config.min_size:
        raise DecodeRefusal(
            Reason.TOO_SMALL, f"{width}x{height}, shorter side below image.min_size ({config.min_size})"
        )
    if max(width, height) > config.max_aspect * min(width, height):
        raise DecodeRefusal(
            Reason.BAD_ASPECT, f"{width}x{height} is longer than image.max_aspect ({config.max_aspect:g})"
        )


def _orientation(image: Image.Image, notes: list[str]) -> int:
    """Return the EXIF orientation, 1..8; EXIF that cannot be read is dropped."""
    try:
        exif = image.getexif()
        value = exif.get(_ORIENTATION, 1)
        unread = "exif" in image.info and not exif
    except Exception:
        value, unread = 1, True
    if unread:
        notes.append("exif-dropped")
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _raw_mode(image: Image.Image) -> str:
    """Return how the file stores its samples, in Pillow's words: "RGB;16B" is loaded as "RGB"."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _geometry(size: tuple[int, int], config: ImageConfig) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Return the size to resize to and the region of the source (left, top, right, bottom) that fills it."""
    width, height = size
    side = config.size
    whole = (0.0, 0.0, float(width), float(height))
    if config.resize == "center_crop":
        left, top = max(0, width - height) / 2, max(0, height - width) / 2
        return (side, side), (left, top, width - left, height - top)
    if config.resize == "pad":
        scale = side / max(width, height)
        return (max(1, round(width * scale)), max(1, round(height * scale))), whole
    return (side, side), whole


def _refusal(error: Exception, broken: Reason, config: ImageConfig) -> DecodeRefusal:
    message = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))
    if isinstance(error, MemoryError) or "out of memory" in message.lower():
        limit = config.decode_memory_mb
        return DecodeRefusal(Reason.DECODER_CRASHED, f"needs more than image.decode_memory_mb ({limit})")
    if message == "unknown pixel mode":
        broken = Reason.UNSUPPORTED_FORMAT
    elif message.startswith("image file is truncated"):
        broken = Reason.DECODE_TRUNCATED
    return DecodeRefusal(broken, f"{type(error).__name__}: {message}"[:300])


@contextlib.contextmanager
def _pillow_limits(max_pixels: int) -> Iterator[None]:
    """Make Pillow's own check, which some plugins run before they allocate, the configured one."""
    module: Any = Image
    before = module.MAX_IMAGE_PIXELS
    module.MAX_IMAGE_PIXELS = max_pixels / 2  # Pillow warns above it and raises above its double
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        module.MAX_IMAGE_PIXELS = before
