"""Choosing the samples that a reviewer looks at, and reading their preview strips."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.config import MAX_LAYERS
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import shard_name
from l2i_builder.report.domains import hosts
from l2i_builder.report.labelled import Labelled
from l2i_builder.report.options import ON_PAGE
from l2i_builder.sample import NEVER_SHOWN, UNKNOWN, Reason, key_fraction

MAX_SHARDS = 64  # shards whose previews are looked at: reading tens of thousands of tars would take hours
MAX_BYTES = 4_500_000  # of all strips on a page: 6 MB as base64, of a page of at most 8 MB
MAX_STRIP = 1_000_000  # bytes of one strip; anything larger is not ours
LEDGER_COLUMNS = ["key", "caption", "verdict", "reason", "detail", "mask_score", "inpainting_score"]
COLUMNS = (*LEDGER_COLUMNS, "url", "mask_area")
SPARE = 2  # times its share a gallery may grow where others are missing
# Strips per gallery of a page of ON_PAGE; more in proportion where more are asked for.
NEAREST, EXTREME, KEPT, JUDGED, DISPUTED, OTHER = 16, 6, 20, 12, 10, 6


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
    layers: int = 2
    label: str = ""  # what people said, "" where nobody was asked
    strip: bytes = b""

    @property
    def lines(self) -> int:
        """Lines of the strip: one for each object."""
        return max(self.layers, 2) - 1

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
            self.trim()

    @property
    def samples(self) -> list[Sample]:
        """The chosen samples, lowest rank first."""
        self.trim()
        return [sample for _, _, sample in self.ranked]

    def trim(self) -> None:
        self.ranked.sort(key=lambda line: line[:2])
        del self.ranked[self.size :]


_JUDGED = ("", Reason.MASK_REJECTED, Reason.INPAINTING_REJECTED)


class Galleries:
    """All galleries of a report. ``add`` offers the samples of one shard; ``load`` reads the chosen strips.

    samples: strips in all, about; found: people's labels.
    """

    def __init__(
        self,
        mask_threshold: float | None,
        inpainting_threshold: float | None,
        samples: int = ON_PAGE,
        found: Labelled | None = None,
    ) -> None:
        self.thresholds = {"mask": mask_threshold, "inpainting": inpainting_threshold}
        self.samples = samples
        self.labels = _label_words(found or Labelled())
        self.galleries: dict[str, Gallery] = {}
        self.examples: dict[str, str] = {}  # reason -> a detail
        self.shards = 0
        self.problems: list[str] = []

    def add(self, shard: int, ledger: pa.Table, previews: Mapping[str, tuple[int, int]]) -> None:
        """Offer a shard's samples that have a preview. previews: key -> (offset, size) in the shard's tar."""
        self.shards += 1
        self._take_examples(ledger)
        chosen = ledger.filter(
            # The strip of a key belongs to the row that had a mask, not to a duplicate refused before.
            pc.and_(
                pc.is_in(ledger["key"], pa.array(list(previews), pa.string())),
                pc.not_equal(ledger["mask_area"], UNKNOWN),
            )
        )
        columns = [*LEDGER_COLUMNS, *({"layers"} & set(chosen.column_names))]
        for line, host in zip(chosen.select(columns).to_pylist(), hosts(chosen["url"]).to_pylist(), strict=True):
            if line["reason"] not in NEVER_SHOWN:
                offset, size = previews[line["key"]]
                label = self.labels.get(line["key"], "")
                self._offer(Sample(**line, host=host, shard=shard, offset=offset, size=size, label=label))

    def _take_examples(self, ledger: pa.Table) -> None:
        told = ledger.filter(pc.not_equal(ledger["detail"], ""))
        for reason in told["reason"].unique().to_pylist():
            if reason and reason not in self.examples:
                self.examples[reason] = told["detail"][pc.index(told["reason"], reason).as_py()].as_py()

    def _offer(self, sample: Sample) -> None:
        for judge, score in (("mask", sample.mask_score), ("inpainting", sample.inpainting_score)):
            threshold = self.thresholds[judge]
            if score == UNKNOWN:
                continue
            if threshold is not None and sample.reason in _JUDGED:
                self._gallery(f"nearest_{judge}").offer(abs(score - threshold), sample)
            self._gallery(f"lowest_{judge}").offer(score, sample)
            self._gallery(f"highest_{judge}").offer(-score, sample)
        for name, rank in _disputed(sample):
            self._gallery(name).offer(rank, sample)
        draw = key_fraction(sample.key, "report")
        self._gallery(f"reason_{sample.reason}" if sample.reason else "kept").offer(draw, sample)
        if sample.lines > 1 and not sample.reason:
            self._gallery(f"layers_{sample.layers}").offer(draw, sample)

    def _gallery(self, name: str) -> Gallery:
        if name not in self.galleries:
            gallery = _make(name)
            gallery.size = max(1, round(SPARE * gallery.size * self.samples / ON_PAGE))
            self.galleries[name] = gallery
        return self.galleries[name]

    def load(self, out: str) -> list[Gallery]:
        """Read the strips of the chosen samples; return the galleries that have any, in page order.

        Strips that are no WebP or cannot be read are left out, and said so in ``problems``.
        """
        ordered = sorted(self.galleries.values(), key=_order)
        room = sum(gallery.size for gallery in ordered)
        for gallery in ordered:  # galleries that this run lacks leave their room to the others
            gallery.size = round(gallery.size * min(1.0, self.samples / room))
        taken = in_turn(ordered, self.samples, MAX_BYTES if self.samples <= ON_PAGE else None)
        by_shard: dict[int, list[Sample]] = {}
        for sample in {id(sample): sample for _, sample in taken}.values():
            by_shard.setdefault(sample.shard, []).append(sample)
        for number in sorted(by_shard):
            self._read(out, number, sorted(by_shard[number], key=lambda sample: sample.offset))
        wanted = {(id(gallery), id(sample)) for gallery, sample in taken if sample.strip}
        for gallery in ordered:
            gallery.ranked = [line for line in gallery.ranked if (id(gallery), id(line[2])) in wanted]
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


def gallery_shards(finished: list[int], found: Labelled | None = None) -> set[int]:
    """Return the shards whose previews are looked at: all, or a fixed draw of MAX_SHARDS; and as many more that hold
    the strongest disagreements between labels and judges."""
    drawn = set(sorted(finished, key=lambda number: key_fraction(shard_name(number), "gallery"))[:MAX_SHARDS])
    if found is not None and len(found):
        good = found.good
        disputed = ((found.reason == "") & (good == 0)) | ((found.reason != "") & found.decided & (good == 1))
        drawn |= set(found.shard[np.flatnonzero(disputed)].tolist()[:MAX_SHARDS])
    return drawn


def in_turn(galleries: list[Gallery], most: int, most_bytes: int | None = None) -> list[tuple[Gallery, Sample]]:
    """Take the galleries' samples in turn, best first, until there are ``most`` strips or they hold ``most_bytes``.

    A sample in several galleries is taken for each of them.
    """
    taken: list[tuple[Gallery, Sample]] = []
    size = 0
    for gallery in galleries:
        gallery.trim()
    for place in range(max((gallery.size for gallery in galleries), default=0)):
        for gallery in galleries:
            for _, _, sample in gallery.ranked[place : place + 1]:
                if len(taken) < most and (most_bytes is None or size + sample.size <= most_bytes):
                    size += sample.size
                    taken.append((gallery, sample))
    return taken


def _label_words(found: Labelled) -> dict[str, str]:
    """Return key -> what people said, as in "mask bad, inpainting good"."""
    words = {}
    for i, key in enumerate(found.key):
        said = [(judge, getattr(found, judge)[i]) for judge in ("mask", "inpainting")]
        words[key] = ", ".join(
            f"{judge} {'good' if answer else 'bad'}" for judge, answer in said if not np.isnan(answer)
        )
    return words


def _disputed(sample: Sample) -> list[tuple[str, float]]:
    """Return the galleries of disagreement a sample belongs to, and its rank there: the surest mistakes first."""
    scores = {"mask": sample.mask_score, "inpainting": sample.inpainting_score}
    if not sample.reason:
        wrong = [scores[judge] for judge in scores if f"{judge} bad" in sample.label]
        return [("disputed_kept", -max(wrong))] if wrong else []
    judge = {"mask_rejected": "mask", "inpainting_rejected": "inpainting"}.get(sample.reason)
    if judge and f"{judge} good" in sample.label:
        return [("disputed_rejected", scores[judge])]
    return []


_PLACES = [
    "nearest_mask", "nearest_inpainting", "disputed_kept", "disputed_rejected",
    "kept", *(f"layers_{layers}" for layers in range(MAX_LAYERS, 2, -1)),
    "reason_mask_rejected", "reason_inpainting_rejected",
    "lowest_mask", "highest_mask", "lowest_inpainting", "highest_inpainting",
]  # fmt: skip


def _order(gallery: Gallery) -> tuple[int, str]:
    place = _PLACES.index(gallery.name) if gallery.name in _PLACES else len(_PLACES)
    return place, gallery.name


_DISPUTED = {
    "kept": ("Kept, but labelled bad", "Where people say that a judge was too kind, the highest scores first."),
    "rejected": (
        "Rejected, but labelled good",
        "Where people say that what the rejecting judge saw was good, the lowest scores first.",
    ),
}


def _make(name: str) -> Gallery:
    kind, _, what = name.partition("_")
    if kind == "kept":
        return Gallery(name, "Kept, at random", "A fair draw of what goes into the dataset.", KEPT)
    if kind == "layers":
        text = "Further objects were peeled off the background: a line for each, front to back."
        return Gallery(name, f"{what} layers, at random", text, KEPT)
    if kind == "reason":
        size = JUDGED if what in (Reason.MASK_REJECTED, Reason.INPAINTING_REJECTED) else OTHER
        return Gallery(name, f"{what}, at random", "A fair draw of the samples with this reason.", size)
    if kind == "disputed":
        title, text = _DISPUTED[what]
        return Gallery(name, title, text, DISPUTED)
    judge = f"{what} score"
    if kind == "nearest":
        text = f"Where the {what} judge is least sure: the samples on both sides of its threshold, nearest first."
        return Gallery(name, f"Nearest to the {what} threshold", text, NEAREST)
    return Gallery(
        name, f"{kind.capitalize()} {judge}", f"The {kind} end of the {judge}, whatever became of them.", EXTREME
    )


def plain(gallery: Gallery) -> dict[str, Any]:
    """Return a gallery for report.json: which samples, without their pixels."""
    fields = ("key", "shard", "verdict", "reason", "mask_score", "inpainting_score", "label")
    lines = [{name: getattr(sample, name) for name in fields} for sample in gallery.samples]
    return {"name": gallery.name, "title": gallery.title, "offered": gallery.offered, "samples": lines}
