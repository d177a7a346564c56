"""Images generated for the captions of a split, kept as PNGs, so that a run goes on where it stopped."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError
from model.baselines import Generator
from model.evaluation.reference import caption_seed
from model.export import LayeredImage, save_sheet

SHEET = 12  # images on the sample sheet


@dataclass(frozen=True)
class Generated:
    """A model's images in a folder: ``composites/{key}.png``, and ``masks/{key}.png`` where it makes layers."""

    folder: str
    keys: list[str]
    layered: bool

    def composites(self) -> Iterator[np.ndarray]:
        """Yield composites uint8 [H, W, 3], in the order of the keys."""
        for key in self.keys:
            yield read_png(storage.join(self.folder, "composites", f"{key}.png"), "RGB")

    def masks(self) -> Iterator[np.ndarray]:
        """Yield masks m uint8 [H, W], in the order of the keys."""
        for key in self.keys:
            yield read_png(storage.join(self.folder, "masks", f"{key}.png"), "L")


def generate(
    generator: Generator,
    captions: Sequence[tuple[str, str]],
    folder: str,
    settings: dict[str, object],
    seed: int = 0,
    batch: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> Generated:
    """Generate an image for each (key, caption) that the folder does not hold yet, from noise that the key decides.

    ``settings`` say how: a folder made in another way is refused with ConfigError, never mixed.
    ``progress`` is told how many more are done.
    """
    keys = [key for key, _ in captions]
    made = Generated(folder, keys, generator.layered)
    _claim(folder, settings)
    there = set(storage.list_names(storage.join(folder, "composites"), ".png"))
    if generator.layered:
        there &= set(storage.list_names(storage.join(folder, "masks"), ".png"))
    todo = [(key, caption) for key, caption in captions if f"{key}.png" not in there]
    progress(len(captions) - len(todo))
    sheet: list[LayeredImage] = []
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        images = generator([caption for _, caption in part], [caption_seed(key, seed) for key, _ in part])
        for (key, _), image in zip(part, images, strict=True):
            if generator.layered and image.mask is not None:
                write_png(storage.join(folder, "masks", f"{key}.png"), image.mask)
            write_png(storage.join(folder, "composites", f"{key}.png"), image.composite)  # last: says it is done
        sheet += images[: SHEET - len(sheet)]
        progress(len(part))
    if sheet and len(todo) == len(captions):
        save_sheet(sheet, storage.join(folder, "sheet.png"))
    return made


def _claim(folder: str, settings: dict[str, object]) -> None:
    """Write the settings into a new folder; refuse one that has others."""
    note = storage.join(folder, "generation.json")
    wanted = json.dumps(settings, indent=1, sort_keys=True).encode()
    if not storage.exists(note):
        storage.write_bytes(note, wanted)
    elif storage.read_bytes(note) != wanted:
        raise ConfigError(
            f"{folder} holds images that were generated in another way ({note} says how); choose another --out, or "
            "delete the folder"
        )


def read_png(url: str, mode: str) -> np.ndarray:
    """Return a PNG as uint8 [H, W, 3] ("RGB") or [H, W] ("L"). Raises OutputError."""
    try:
        with Image.open(io.BytesIO(storage.read_bytes(url)), formats=("PNG",)) as image:
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError) as error:
        raise OutputError(f"{url} is no PNG that can be read: {error}. Delete it and run again") from error


def write_png(url: str, pixels: np.ndarray) -> None:
    """Write uint8 [H, W, 3] or [H, W] as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    storage.write_bytes(url, file.getvalue())
