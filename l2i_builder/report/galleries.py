"""Choosing the samples that a reviewer looks at, and reading their preview strips."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import shard_name
from l2i_builder.sample import UNKNOWN, Reason, key_fraction

MAX_SHARDS = 64  # shards whose previews are looked at: reading tens of thousands of tars would take hours
MAX_BYTES = 4_500_000  # of all strips: 6 MB as base64, of a page of at most 8 MB
MAX_STRIP = 1_000_000  # bytes of one strip; anything larger is not ours
COLUMNS = ("key", "caption")  # read beside aggregate.COLUMNS
LEDGER_COLUMNS = ["key", "caption", "host", "verdict", "reason", "detail", "mask_score", "inpainting_score"]
NEVER_SHOWN = frozenset({Reason.UNSAFE.value, Reason.OPTED_OUT.value})  # whatever a previews tar may hold
NEAREST, EXTREME, KEPT, JUDGED, OTHER = 16, 8, 24, 12, 8  # strips per gallery


@dataclass
class Sample:
    """One row with a preview: where its strip is, and what is said beneath it."""

    key: str
    shard: int
    caption: str
    host: str
    verdict: str
    reason: str
    detail: str
    mask_score: float
    inpainting_score: float
    offset: int
    size: int
    strip: bytes = b""

    @property
    def inpainted(self) -> bool:
        """Whether the strip shows a background."""
        return not self.reason or self.inpainting_score != UNKNOWN


@dataclass
class Gallery:
    """The ``size`` samples of lowest rank among all that are offered. offered: how many there were."""

    name: str
    title: str
    text: str
    size: int
    ranked: list[tuple[float, str, Sample]] = field(default_factory=list)
    offered: int = 0

    def offer(self, rank: float, sample: Sample) -> None:
        self.offered += 1
        self.ranked.append((rank, sample.key, sample))
        if len(self.ranked) > 8 * self.size:
            self._trim()

    @property
    def samples(self) -> list[Sample]:
        """The chosen samples, lowest rank first."""
        self._trim()
        return [sample for _, _, sample in self.ranked]

    def keep(self, samples: Iterable[Sample]) -> None:
        """Keep only these of the chosen samples."""
        wanted = {id(sample) for sample in samples}
        self.ranked = [line for line in self.ranked if id(line[2]) in wanted]

    def _trim(self) -> None:
        self.ranked.sort(key=lambda line: line[:2])
        del self.ranked[self.size :]


_JUDGED = ("", Reason.MASK_REJECTED, Reason.INPAINTING_REJECTED)


class Galleries:
    """All galleries of a page. ``add`` offers the samples of one shard; ``load`` reads the chosen strips."""

    def __init__(self, mask_threshold: float | None, inpainting_threshold: float | None) -> None:
        self.thresholds = {"mask": mask_threshold, "inpainting": inpainting_threshold}
        self.galleries: dict[str, Gallery] = {}
        self.shards = 0
        self.problems: list[str] = []

    def add(self, shard: int, ledger: pa.Table, previews: Mapping[str, tuple[int, int]]) -> None:
        """Offer a shard's samples that have a preview. previews: key -> (offset, size) in the shard's tar."""
        self.shards += 1
        chosen = ledger.select(LEDGER_COLUMNS).filter(
            # The strip of a key belongs to the row that had a mask, not to a duplicate refused before.
            pc.and_(
                pc.is_in(ledger["key"], pa.array(list(previews), pa.string())),
                pc.not_equal(ledger["mask_area"], UNKNOWN),
            )
        )
        for line in chosen.to_pylist():
            if line["reason"] not in NEVER_SHOWN:
                offset, size = previews[line["key"]]
                self._offer(Sample(**line, shard=shard, offset=offset, size=size))

    def _offer(self, sample: Sample) -> None:
        for judge, score in (("mask", sample.mask_score), ("inpainting", sample.inpainting_score)):
            threshold = self.thresholds[judge]
            if score == UNKNOWN:
                continue
            if threshold is not None and sample.reason in _JUDGED:
                self._gallery(f"nearest_{judge}").offer(abs(score - threshold), sample)
            self._gallery(f"lowest_{judge}").offer(score, sample)
            self._gallery(f"highest_{judge}").offer(-score, sample)
        draw = key_fraction(sample.key, "report")
        self._gallery(f"reason_{sample.reason}" if sample.reason else "kept").offer(draw, sample)

    def _gallery(self, name: str) -> Gallery:
        if name not in self.galleries:
            self.galleries[name] = _make(name)
        return self.galleries[name]

    def load(self, out: str) -> list[Gallery]:
        """Read the strips of the chosen samples, fewer where they would not fit; return galleries in page order.

        Strips that are no WebP or cannot be read are left out, and said so in ``problems``.
        """
        ordered = sorted(self.galleries.values(), key=_order)
        chosen = _within_budget(ordered)
        for number in sorted({sample.shard for sample in chosen}):
            self._read(out, number, [sample for sample in chosen if sample.shard == number])
        for gallery in ordered:
            gallery.keep(sample for sample in gallery.samples if sample.strip)
        return [gallery for gallery in ordered if gallery.ranked]

    def _read(self, out: str, number: int, samples: list[Sample]) -> None:
        try:
            with storage.open_read(previews_url(out, number)) as file:
                for sample in samples:
                    file.seek(sample.offset)
                    data = file.read(sample.size)
                    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
                        sample.strip = data
                    else:
                        self.problems.append(f"The preview of {sample.key} in shard {number} is no WebP.")
        except (OSError, OutputError) as problem:
            self.problems.append(f"The previews of shard {number} cannot be read: {problem}")


def previews_url(out: str, number: int) -> str:
    """Return where a shard's previews are."""
    return storage.join(out, "previews", f"{shard_name(number)}.tar")


def preview_index(out: str, number: int) -> tuple[dict[str, tuple[int, int]], str]:
    """Return key -> (offset, size) of a shard's previews, and what is wrong with the tar ("" if nothing).

    A shard without a previews tar has none: {}.
    """
    url = previews_url(out, number)
    if not storage.exists(url):
        return {}, ""
    index = {}
    try:
        with storage.open_read(url) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                if member.isreg() and suffix == "webp" and 0 < member.size <= MAX_STRIP:
                    index[key] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, OutputError, ValueError) as problem:
        return index, f"The previews of shard {number} are damaged: {problem}"
    return index, ""


def gallery_shards(finished: list[int]) -> set[int]:
    """Return the shards whose previews are looked at: all, or a fixed draw of MAX_SHARDS."""
    return set(sorted(finished, key=lambda number: key_fraction(shard_name(number), "gallery"))[:MAX_SHARDS])


def _within_budget(galleries: list[Gallery]) -> list[Sample]:
    """Take the galleries' samples in turn, best first, until MAX_BYTES; the others leave their gallery.

    Returns the samples taken, each once, however many galleries show it.
    """
    taken: dict[int, list[Sample]] = {id(gallery): [] for gallery in galleries}
    left = MAX_BYTES
    for place in range(max((gallery.size for gallery in galleries), default=0)):
        for gallery in galleries:
            for sample in gallery.samples[place : place + 1]:
                if sample.size <= left:
                    left -= sample.size
                    taken[id(gallery)].append(sample)
    for gallery in galleries:
        gallery.keep(taken[id(gallery)])
    return list({id(sample): sample for samples in taken.values() for sample in samples}.values())


_PLACES = [
    "nearest_mask", "nearest_inpainting", "kept", "reason_mask_rejected", "reason_inpainting_rejected",
    "lowest_mask", "highest_mask", "lowest_inpainting", "highest_inpainting",
]  # fmt: skip


def _order(gallery: Gallery) -> tuple[int, str]:
    place = _PLACES.index(gallery.name) if gallery.name in _PLACES else len(_PLACES)
    return place, gallery.name


def _make(name: str) -> Gallery:
    kind, _, what = name.partition("_")
    if kind == "kept":
        return Gallery(name, "Kept, at random", "A fair draw of what goes into the dataset.", KEPT)
    if kind == "reason":
        size = JUDGED if what in (Reason.MASK_REJECTED, Reason.INPAINTING_REJECTED) else OTHER
        return Gallery(name, f"{what}, at random", "A fair draw of the samples with this reason.", size)
    judge = f"{what} score"
    if kind == "nearest":
        text = f"Where the {what} judge is least sure: the samples on both sides of its threshold, nearest first."
        return Gallery(name, f"Nearest to the {what} threshold", text, NEAREST)
    return Gallery(
        name, f"{kind.capitalize()} {judge}", f"The {kind} end of the {judge}, whatever became of them.", EXTREME
    )


def plain(gallery: Gallery) -> dict[str, Any]:
    """Return a gallery for report.json: which samples, without their pixels."""
    fields = ("key", "shard", "verdict", "reason", "mask_score", "inpainting_score")
    lines = [{name: getattr(sample, name) for name in fields} for sample in gallery.samples]
    return {"name": gallery.name, "title": gallery.title, "offered": gallery.offered, "samples": lines}
