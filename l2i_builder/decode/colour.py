"""Whatever colours a file has, as sRGB: 16 bits, palettes, inks, profiles, transparency.

Two steps, so that the costly ones work on few pixels: ``plain_mode`` before an image is resized, ``to_srgb`` after.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms


class UndefinedWhite(Exception):
    """The samples have no known range, so that no brightness can be given to them."""


def plain_mode(image: Image.Image, sixteen_bit: bool, notes: list[str]) -> Image.Image:
    """Return the image in a mode that can be resized: L, LA, RGB, RGBA or CMYK, 8 bits a channel."""
    transparency = image.info.get("transparency")
    if sixteen_bit:
        notes.append("16-bit-rescaled")
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint16, copy=False)  # also from big-endian
        grey = Image.fromarray(_eight_bits(samples))
        if transparency is None:
            return grey
        opaque = (samples != transparency).astype(np.uint8) * 255
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    if image.mode in ("I", "F"):
        raise UndefinedWhite("32-bit samples, whose white is not defined")
    if image.mode in ("RGBA", "LA", "CMYK"):
        return image
    if image.mode == "LAB":
        notes.append("lab-to-srgb")
        return _lab_transform().apply(image)
    if image.mode in ("L", "1", "RGB") and transparency is None:
        return image.convert("L") if image.mode == "1" else image
    if sixteen_bit and isinstance(transparency, tuple):
        # Pillow keeps the high bytes of 16-bit colours, but the whole of the transparent one
        image.info["transparency"] = tuple(value >> 8 for value in transparency)
    transparent = transparency is not None or image.mode in ("PA", "RGBa", "La")
    return image.convert("RGBA" if transparent or _palette_has_alpha(image) else "RGB")


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    """Return round(v / 257), uint8, of uint16 [H, W]. Pillow's own conversion clips at 255: mostly white."""
    scaled = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), 256):  # bands that stay in the cache
        band = samples[top : top + 256].astype(np.uint32)
        scaled[top : top + 256] = (band * 255 + 32895) >> 16
    return scaled


def _palette_has_alpha(image: Image.Image) -> bool:
    return image.palette is not None and image.palette.mode == "RGBA"


def to_srgb(image: Image.Image, profile: bytes | None, fill: tuple[int, int, int], notes: list[str]) -> Image.Image:
    """Return RGB: the embedded profile applied, else the usual reading of the mode; transparency laid on ``fill``."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is not None:
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if profile and "lab-to-srgb" not in notes:
        image = _apply_profile(image, profile, notes)
    if image.mode == "CMYK":
        notes.append("cmyk-to-srgb")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append("alpha-composited")
        image.paste(fill, mask=ImageChops.invert(alpha))
    return image


def _apply_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    try:
        space, transform = _icc_transform(profile, image.mode)
        if space == "RGB " and image.mode == "L":  # grey stored as one channel, described as three
            image = image.convert("RGB")
            _, transform = _icc_transform(profile, "RGB")
        if space == "GRAY" and image.mode == "RGB" and _is_grey(image):  # 16-bit grey with alpha is loaded as RGBA
            image = image.getchannel(0)
            _, transform = _icc_transform(profile, "L")
        elif space == "GRAY" and image.mode == "RGB":
            raise ValueError("a grey profile in a colour image")
        if transform is None:
            return image
        converted = transform.apply(image)
    except Exception:  # damaged, or a profile for other colours than these
        notes.append("icc-dropped")
        return image
    notes.append("icc-to-srgb")
    return converted


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = (channel.tobytes() for channel in image.split())
    return red == green == blue


@lru_cache(maxsize=64)  # a few profiles make up nearly all of the web's
def _icc_transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the profile's colour space and its transform from ``mode`` to sRGB, None if that changes nothing."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space
    if (space, mode) in (("RGB ", "L"), ("GRAY", "RGB")):  # the caller brings the image into the profile's space
        return space, None
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    if mode == "RGB":
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, 256, 3)
        moved = np.asarray(transform.apply(Image.fromarray(cube))).astype(int) - cube
        if abs(moved).max() <= 2:  # one of the many sRGB profiles; two levels are their rounding
            return space, None
    return space, transform


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
