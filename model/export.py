"""Layered images as files: PSD, OpenRaster, a set of PNGs, and contact sheets."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from l2i_builder import layers, storage
from l2i_builder.errors import ConfigError, OutputError
from model.pixels import pad_colours
from model.psd import PsdLayer, psd_bytes

if TYPE_CHECKING:
    import torch

TRUST = 0.9  # of a mask: colours of F below it are mixed with others, and replaced when they are padded
CELL = 192  # pixels of a picture on a contact sheet

_MARGIN, _CAPTION = 8, 30


@dataclass(frozen=True)
class LayeredImage:
    """A layered image (F, B, m), or a plain picture when it has a background only.

    background uint8 [H, W, 3]; foreground uint8 [H, W, 3] and mask uint8 [H, W] (m scaled to 0..255), or None.
    ``over``: further (foreground, mask) pairs above it, from the bottom up. ``names``: of the objects in layered files,
    from the bottom up, where they are not "foreground", "foreground 2", ...
    """

    background: np.ndarray
    foreground: np.ndarray | None = None
    mask: np.ndarray | None = None
    prompt: str = ""
    over: tuple[tuple[np.ndarray, np.ndarray], ...] = field(default=())
    names: tuple[str, ...] = ()

    @property
    def objects(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """All (foreground, mask) pairs, from the bottom up."""
        lowest = [] if self.foreground is None or self.mask is None else [(self.foreground, self.mask)]
        return [*lowest, *self.over]

    @property
    def composite(self) -> np.ndarray:
        """C = mF + (1 - m)B, layer by layer: uint8 [H, W, 3]."""
        picture = self.background
        for foreground, mask in self.objects:
            picture = layers.composite(foreground, picture, mask)
        return picture

    def padded(self, trust: float = TRUST) -> LayeredImage:
        """Return it with the colours of trusted pixels, m > trust, carried outwards over the rest of each foreground.

        A generated F fades to its fill, and F of a photograph to the old background, where m is small: resized,
        feathered or moved over another picture it shows a halo. Padded, it has the object's own colours there.
        Where m is nowhere over ``trust``, F stays as it is.
        """
        done = [
            (pad_colours(foreground, mask > trust * 255) if mask.max() > trust * 255 else foreground, mask)
            for foreground, mask in self.objects
        ]
        if not done:
            return self
        return LayeredImage(self.background, *done[0], self.prompt, tuple(done[1:]), self.names)


def to_psd(image: LayeredImage) -> bytes:
    """Return a PSD: the background, and each foreground with its mask as an editable layer mask."""
    stack = [PsdLayer("background", image.background)]
    for number, (foreground, mask) in enumerate(image.objects):
        stack.append(PsdLayer(_layer_name(image, number), foreground, mask))
    return psd_bytes(stack, image.composite)


def to_ora(image: LayeredImage) -> bytes:
    """Return an OpenRaster file (freedesktop.org's specification 0.0.5): GIMP, Krita and MyPaint open it.

    Its layers have transparency in place of masks. The same image gives the same bytes.
    """
    height, width = image.background.shape[:2]
    stack = [("background", image.background)]
    for number, (foreground, mask) in enumerate(image.objects):
        stack.append((_layer_name(image, number), np.dstack([foreground, mask])))
    entries = "".join(
        f'  <layer name={quoteattr(_printable(name))} src="data/layer{number}.png" x="0" y="0" opacity="1.0" '
        'visibility="visible" composite-op="svg:src-over"/>\n'
        for number, (name, _) in reversed(list(enumerate(stack)))  # the first entry is the top
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<image version="0.0.5" w="{width}" h="{height}" xres="72" yres="72">\n'
        f" <stack>\n{entries} </stack>\n</image>\n"
    )
    thumbnail = Image.fromarray(image.composite)
    thumbnail.thumbnail((256, 256))
    members = {"mimetype": b"image/openraster", "stack.xml": xml.encode()}
    members |= {f"data/layer{number}.png": _png(pixels) for number, (_, pixels) in enumerate(stack)}
    members |= {"mergedimage.png": _png(image.composite), "Thumbnails/thumbnail.png": _png(np.asarray(thumbnail))}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNGs do not shrink further
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return file.getvalue()


def to_pngs(image: LayeredImage) -> dict[str, bytes]:
    """Return PNGs by name: composite, background, and for each object foreground, mask and cutout (RGBA)."""
    files = {"composite": _png(image.composite), "background": _png(image.background)}
    for number, (foreground, mask) in enumerate(image.objects):
        suffix = str(number + 1) if number else ""
        files[f"foreground{suffix}"] = _png(foreground)
        files[f"mask{suffix}"] = _png(mask)
        files[f"cutout{suffix}"] = _png(np.dstack([foreground, mask]))
    return files


def contact_sheet(images: Sequence[LayeredImage], cell: int = CELL) -> np.ndarray:
    """Return one picture, uint8 [H, W, 3]: a row for each image with its prompt, and composite | cut-out | F | B | m.

    Cut-outs lie on a chequerboard. A plain picture has only its first cell.
    """
    names = ["composite", "cut-out", "foreground F", "background B", "mask m"]
    columns = len(names) if any(image.objects for image in images) else 1
    width = _MARGIN + columns * (cell + _MARGIN)
    height = _CAPTION + len(images) * (cell + _CAPTION)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for column in range(columns):
        draw.text((_MARGIN + column * (cell + _MARGIN), 8), names[column], "#666", font)
    for row, image in enumerate(images):
        top = _CAPTION + row * (cell + _CAPTION)
        for column, picture in enumerate(_cells(image)):
            sheet.paste(_fit(picture, cell), (_MARGIN + column * (cell + _MARGIN), top))
        text = _fitting(_printable(image.prompt), lambda text: draw.textlength(text, font), width - 2 * _MARGIN)
        draw.text((_MARGIN, top + cell + 6), text, "black", font)
    return np.asarray(sheet)


def check_suffix(target: str) -> str:
    """Return the suffix of a file to write, lower case. Raises ConfigError unless it is .psd, .ora or .png."""
    suffix = PurePosixPath(target).suffix.lower()
    if suffix not in (".psd", ".ora", ".png"):
        raise ConfigError(f"{target}: layered images are written as .psd, .ora or .png; choose one of these")
    return suffix


def read_picture(url: str, mode: str, side: int) -> torch.Tensor:
    """Return a picture's square centre, scaled to ``side``: float [1, 3 or 1, side, side] in 0..1.

    mode: "RGB" or "L". Raises OutputError where it is no picture.
    """
    import torch

    try:
        with Image.open(io.BytesIO(storage.read_bytes(url))) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert(mode), (side, side), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError) as error:
        raise OutputError(f"{url} is no picture that can be read: {error}") from error
    pixels = np.asarray(square).reshape(side, side, -1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255


def save(images: Sequence[LayeredImage], target: str) -> list[str]:
    """Write images as the suffix of ``target`` (path or URL) says, and return what was written.

    ``.psd`` and ``.ora``: one file for each, numbered when there are several. ``.png``: a set of PNGs for each.
    Raises ConfigError for another suffix, OutputError when it cannot be written.
    """
    suffix = check_suffix(target)
    stem, written = target[: -len(suffix)], []
    for number, image in enumerate(images):
        name = f"{stem}-{number:03d}" if len(images) > 1 else stem
        if suffix == ".png":
            files = {f"{name}.{part}.png": data for part, data in to_pngs(image).items()}
        else:
            files = {f"{name}{suffix}": to_psd(image) if suffix == ".psd" else to_ora(image)}
        for url, data in files.items():
            storage.write_bytes(url, data)
            written.append(url)
    return written


def save_sheet(images: Sequence[LayeredImage], target: str, cell: int = CELL) -> None:
    """Write a contact sheet as PNG. Raises OutputError when it cannot be written."""
    storage.write_bytes(target, _png(contact_sheet(images, cell)))


def _layer_name(image: LayeredImage, number: int) -> str:
    names = dict(enumerate(image.names))
    name = names.get(number, "foreground" if not number else f"foreground {number + 1}")
    return f"{name}: {image.prompt}"[:120] if image.prompt else name


def _cells(image: LayeredImage) -> list[np.ndarray]:
    if not image.objects:
        return [image.composite]
    foreground, mask = image.objects[-1]
    square = max(2, max(mask.shape) // 24)
    y, x = np.indices(mask.shape) // square
    board = ((y + x) % 2 * 40 + 200).astype(np.uint8)
    cutout = layers.composite(foreground, np.dstack([board] * 3), mask)
    return [image.composite, cutout, foreground, image.background, np.dstack([mask] * 3)]


def _fit(picture: np.ndarray, cell: int) -> Image.Image:
    """Scale a picture into a cell: small ones by nearest neighbour, so that their pixels can be seen."""
    scale = cell / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize(size, how)


def _fitting(text: str, width: Callable[[str], float], room: float) -> str:
    """Return the text, cut with an ellipsis where it is wider than the room."""
    if width(text) <= room:
        return text
    while text and width(text + "...") > room:
        text = text[:-1]
    return text + "..."


def _printable(text: str) -> str:
    """Return the text on one line, without what neither XML nor a font has (control characters, surrogates)."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
