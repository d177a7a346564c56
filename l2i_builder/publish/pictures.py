"""Contact sheets for the card: what was kept, where the filters were least sure of it, and what they refused.

They are made of the previews that the run has stored. What safety forbids has none, and is left out here once more.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from l2i_builder.output.shards import read_members
from l2i_builder.publish.layout import LOCAL_READERS, Selector
from l2i_builder.report.galleries import Gallery, Sample, gallery_shards, preview_index, previews_url
from l2i_builder.report.run import ledger_of
from l2i_builder.report.scan import ahead
from l2i_builder.report.strip import PANELS
from l2i_builder.sample import UNKNOWN, Reason, key_fraction

COLUMNS = ("key", "sha256", "url", "verdict", "reason", "mask_score", "inpainting_score", "mask_area")
ROWS, ACROSS = 6, 2  # strips of a sheet, at most
GAP, LINE, EDGE = 12, 30, 16  # pixels
PAPER, INK = (250, 250, 248), (40, 40, 40)
QUALITY = 82

Ask = Callable[[str, float, float], bool]  # reason, mask score, inpainting score


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: file name, heading, what a reader should see in it, and its bytes (WebP)."""

    name: str
    title: str
    text: str
    data: bytes = b""


_SHEETS: tuple[tuple[Sheet, Ask, str], ...] = (
    (
        Sheet("images/kept.webp", "Kept, at random", "A fair draw of what is in the dataset."),
        lambda reason, mask, inpainting: not reason,
        "draw",
    ),
    (
        Sheet(
            "images/kept-lowest-mask.webp",
            "Kept with the lowest mask scores",
            "Torn masks, and masks that hold background, gather here.",
        ),
        lambda reason, mask, inpainting: not reason and mask != UNKNOWN,
        "mask",
    ),
    (
        Sheet(
            "images/kept-lowest-inpainting.webp",
            "Kept with the lowest inpainting scores",
            "Look at the last panel: smears, repeated patterns and remains of the object gather here.",
        ),
        lambda reason, mask, inpainting: not reason and inpainting != UNKNOWN,
        "inpainting",
    ),
    (
        Sheet("images/mask-rejected.webp", "Refused for their mask, at random", "Not in the dataset."),
        lambda reason, mask, inpainting: reason == Reason.MASK_REJECTED,
        "draw",
    ),
    (
        Sheet("images/inpainting-rejected.webp", "Refused for their background, at random", "Not in the dataset."),
        lambda reason, mask, inpainting: reason == Reason.INPAINTING_REJECTED,
        "draw",
    ),
)


def contact_sheets(selector: Selector) -> list[Sheet]:
    """Return the sheets that a run has samples for. Looks at the previews of a fixed draw of shards."""
    run = selector.run
    galleries = [Gallery(sheet.name, sheet.title, sheet.text, ROWS * ACROSS) for sheet, _, _ in _SHEETS]
    numbers = sorted(gallery_shards(run.finished) & set(run.finished))
    for samples in ahead(lambda number: _samples(selector, number), numbers, LOCAL_READERS):
        for sample in samples:
            for gallery, (_, wanted, order) in zip(galleries, _SHEETS, strict=True):
                if wanted(sample.reason, sample.mask_score, sample.inpainting_score):
                    gallery.offer(_rank(sample, order), sample)
    _load(run.out, [sample for gallery in galleries for sample in gallery.samples])
    sheets = []
    for gallery in galleries:
        strips = [(sample.strip, _caption(sample)) for sample in gallery.samples if sample.strip]
        if strips:
            sheets.append(Sheet(gallery.name, gallery.title, gallery.text, draw_sheet(strips)))
    return sheets


def draw_sheet(strips: list[tuple[bytes, str]]) -> bytes:
    """Return a WebP of strips (WebP, four panels side by side) in two columns, each with a line of text beneath."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data, _ in strips]
    width, height = max(one.width for one in pictures), max(one.height for one in pictures)
    across = min(ACROSS, len(strips))
    rows = -(-len(strips) // across)
    size = (2 * EDGE + across * width + (across - 1) * EDGE, 2 * EDGE + LINE + rows * (height + LINE + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=20)
    for column in range(across):
        for place, panel in enumerate(PANELS):
            draw.text((EDGE + column * (width + EDGE) + place * width // len(PANELS), EDGE), panel, INK, font)
    for number, (picture, (_, text)) in enumerate(zip(pictures, strips, strict=True)):
        x = EDGE + number % across * (width + EDGE)
        y = EDGE + LINE + number // across * (height + LINE + GAP)
        sheet.paste(picture, (x, y))
        draw.text((x, y + height + 3), text, INK, font)
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()


def _samples(selector: Selector, number: int) -> list[Sample]:
    """Return a shard's samples that have a preview and may be shown."""
    places, _ = preview_index(selector.run.out, number)
    rows = selector.showable(ledger_of(selector.run.out, number, COLUMNS))
    rows = rows.filter(pc.not_equal(rows["mask_area"], UNKNOWN))
    found = []
    for line in rows.to_pylist():
        if line["key"] in places:
            known = {name: line[name] for name in ("key", "verdict", "reason", "mask_score", "inpainting_score")}
            offset, size = places[line["key"]]
            found.append(Sample(**known, shard=number, caption="", host="", detail="", offset=offset, size=size))
    return found


def _rank(sample: Sample, order: str) -> float:
    if order == "draw":
        return key_fraction(sample.key, "card")
    return sample.mask_score if order == "mask" else sample.inpainting_score


def _load(out: str, samples: list[Sample]) -> None:
    """Read the strips of the chosen samples."""
    wanted: dict[int, dict[str, list[Sample]]] = {}
    for sample in samples:
        wanted.setdefault(sample.shard, {}).setdefault(sample.key, []).append(sample)
    for number, by_key in sorted(wanted.items()):
        for key, members in read_members(previews_url(out, number)):
            for sample in by_key.get(key, ()):
                sample.strip = members["webp"]


def _caption(sample: Sample) -> str:
    scores = (("mask", sample.mask_score), ("inpainting", sample.inpainting_score))
    said = ", ".join(f"{name} {score:.2f}" for name, score in scores if score != UNKNOWN)
    return f"{sample.key[:8]}  {said}"
