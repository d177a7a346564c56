"""The samples of a run that can be looked at: what the ledgers say of them, and where their pictures are."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.errors import L2IError, OutputError
from l2i_builder.output.manifest import finished, read_manifest, shard_name
from l2i_builder.report.run import Run, ledger_of, open_run
from l2i_builder.report.thresholds import thresholds
from l2i_builder.review.tars import Tars
from l2i_builder.sample import NEVER_SHOWN, UNKNOWN, key_fraction

COLUMNS = (
    *("key", "caption", "url", "audit", "reason", "stage", "detail", "mask_area", "mask_components"),
    *("mask_score", "inpainting_score", "mask_head", "inpainting_head"),
)
LAYERS = {"image": "jpg", "mask": "mask.png", "background": "bg.jpg", "strip": "webp"}
READERS = 8  # shards read at a time: object stores answer slowly
TYPES = {"jpg": "image/jpeg", "mask.png": "image/png", "bg.jpg": "image/jpeg", "webp": "image/webp"}
_INPAINTED = ("", "judge_inpainting", "encode")  # stages behind inpainting, "" for kept

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that has pictures. folder: "shards" or "audit" (all layers, full size) or "previews" (a strip)."""

    key: str
    shard: int
    folder: str
    caption: str
    url: str
    audit: bool
    reason: str
    stage: str
    detail: str
    mask_area: float
    mask_components: int
    mask_score: float
    inpainting_score: float
    mask_head: str
    inpainting_head: str

    @property
    def full(self) -> bool:
        return self.folder != "previews"

    @property
    def inpainted(self) -> bool:
        """Whether there is a background to judge."""
        return self.full or self.stage in _INPAINTED or self.inpainting_score != UNKNOWN


class Samples:
    """The samples of a run's finished shards, at most ``limit`` of them, drawn by a hash (0 = all).

    ``open`` reads the shards, and those that were finished since; only keys, scores and offsets stay in memory.
    What cannot be read is left out and said in ``problems``. Raises OutputError where ``out`` holds no run.
    """

    def __init__(self, out: str, limit: int = 0, tars: Tars | None = None) -> None:
        self.out, self.limit, self.tars = out, limit, tars or Tars()
        self.run: Run = open_run(out)
        self.by_key: dict[str, Sample] = {}
        self.without_pictures: Counter[str] = Counter()  # reason -> rows with a mask of which nothing is stored
        self.opened: dict[int, dict[str, str]] = {}  # shard -> its tars: folder -> SHA-256
        self.problems: dict[int, str] = {}
        self.thresholds: dict[str, float | None] = {"mask": None, "inpainting": None}
        self.version = 0  # grows with every change
        self._opening = threading.Lock()

    @property
    def audit_rate(self) -> float:
        rate = self.run.config.get("ingest", {}).get("audit_rate", 0)
        return float(rate) if isinstance(rate, int | float) else 0.0

    @property
    def complete(self) -> bool:
        """Whether the run is finished, and all of it that was asked for is open."""
        wanted = min(self.limit or len(self.run.finished), len(self.run.finished))
        return len(self.run.finished) == self.run.planned_shards and len(self.opened) >= wanted

    def open(self, progress: Progress | None = None) -> bool:
        """Read finished shards that are not open yet; return whether there were any. One caller at a time."""
        with self._opening:
            done = finished(self.out)
            chosen = sorted(done, key=lambda number: key_fraction(shard_name(number), "review"))
            self.run.finished = sorted(done)
            new = [number for number in chosen[: self.limit or None] if number not in self.opened]
            if not new:
                return False
            there = {name: set(storage.list_names(storage.join(self.out, name), ".tar")) for name in _FOLDERS}
            with ThreadPoolExecutor(READERS) as pool:
                for count, result in enumerate(pool.map(lambda number: self._read(number, there), new)):
                    self._add(new[count], result)
                    if progress:
                        progress(count + 1, len(new))
            if not any(number in self.opened for number in new):
                return False
            self._learn_thresholds()
            self.version += 1
            return True

    def read(self, sample: Sample, layer: str) -> tuple[bytes, str]:
        """Return a layer ("image", "mask", "background", or "strip" of one that has a preview only) and its media
        type. Raises KeyError on a layer that the sample has not, GoneError where it is not stored any more,
        OutputError where it cannot be read."""
        suffix = LAYERS[layer]
        if sample.full == (layer == "strip"):
            raise KeyError(layer)
        url = storage.join(self.out, sample.folder, f"{shard_name(sample.shard)}.tar")
        digest = self.opened.get(sample.shard, {}).get(sample.folder, "")
        return self.tars.read(url, sample.key, suffix, digest), TYPES[suffix]

    def forget(self, key: str) -> None:
        """Take a sample out whose pictures are gone."""
        if self.by_key.pop(key, None):
            self.version += 1

    def _read(self, number: int, there: dict[str, set[str]]) -> _Shard | str:
        """Return a shard's samples, or what is wrong with it."""
        name = shard_name(number)
        try:
            files = read_manifest(self.out, number).files
            digests = {folder: str(files.get(f"{folder}/{name}.tar", {}).get("sha256", "")) for folder in _FOLDERS}
            shard = _Shard(number, digests)
            ledger = _with_masks(ledger_of(self.out, number, COLUMNS))
            stored: dict[str, Any] = {}
            for folder in ("audit", "previews"):
                try:
                    url = storage.join(self.out, folder, f"{name}.tar")
                    stored[folder] = self.tars.places(url, digests[folder]) if f"{name}.tar" in there[folder] else {}
                except OutputError as problem:
                    stored[folder], shard.problem = {}, str(problem)
            for folder, tar in digests.items():
                if tar and f"{name}.tar" not in there[folder]:
                    shard.problem = f"{folder}/{name}.tar is missing: its samples are shown small, or not at all."
            kept_there = f"{name}.tar" in there["shards"]
            for row in ledger.to_pylist():
                kept, key = not row["reason"], row["key"]
                if kept and kept_there:
                    folder = "shards"
                elif key in stored["audit"] and not kept:
                    folder = "audit"
                elif key in stored["previews"]:
                    folder = "previews"
                else:
                    shard.without[row["reason"]] += 1
                    continue
                shard.samples.append(Sample(**row, shard=number, folder=folder))
        except L2IError as problem:
            return str(problem)
        return shard

    def _add(self, number: int, result: _Shard | str) -> None:
        if isinstance(result, str):
            self.problems[number] = result  # and tried again when asked next
            return
        self.opened[number] = result.digests
        self.problems.pop(number, None)
        if result.problem:
            self.problems[number] = result.problem
        self.without_pictures.update(result.without)
        for sample in result.samples:
            self.by_key.setdefault(sample.key, sample)

    def _learn_thresholds(self) -> None:
        try:
            found = thresholds(replace(self.run, finished=sorted(self.opened)))
        except L2IError as problem:
            self.problems[-1] = f"The run's thresholds are not known: {problem}"
            return
        self.thresholds = {judge: threshold.value if threshold else None for judge, threshold in found.items()}


_FOLDERS = ("shards", "audit", "previews")


class _Shard:
    """What is read of one shard."""

    def __init__(self, number: int, digests: dict[str, str]) -> None:
        self.number, self.digests = number, digests
        self.samples: list[Sample] = []
        self.without: Counter[str] = Counter()
        self.problem = ""


def _with_masks(ledger: pa.Table) -> pa.Table:
    """Return the rows that have a mask and may be shown. A key's other rows, its duplicates, have no mask."""
    shown = pc.invert(pc.is_in(ledger["reason"], value_set=pa.array(sorted(NEVER_SHOWN))))
    return ledger.filter(pc.and_(pc.not_equal(ledger["mask_area"], UNKNOWN), shown))
