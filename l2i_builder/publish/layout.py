"""Which sample goes into which published shard: even shards for each split, in the order of the ledgers.

Only counts are kept of a source shard, so memory does not grow with samples. Samples are taken in the order of source
shard and row; the shards of a split hold the same number of them, the first ones one more where it does not divide.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import ShardManifest, read_manifest, shard_name
from l2i_builder.output.tombstones import Takedowns
from l2i_builder.report.run import Run, ledger_of
from l2i_builder.report.scan import REMOTE_READERS, ahead
from l2i_builder.sample import NEVER_SHOWN
from l2i_builder.splits import NAMES, SplitTable

TARS = ("shards", "audit")  # folders of a run that hold samples; of audit/ only the unfiltered split takes any
UNFILTERED, WITHHELD = "la", "withheld"
PUBLISHED = tuple(name for name in NAMES if name != WITHHELD)
LOCAL_READERS = 4


# Columns of the ledger that sidecars have too.
SIDECAR_COLUMNS = (
    *("key", "url", "caption", "shard", "index", "sha256", "bytes", "format", "original_width", "original_height"),
    *("opt_out", "image_notes", "language", "aesthetic", "similarity", "punsafe", "pwatermark", "nsfw_score"),
    *("mask_area", "hole_area", "mask_components", "mask_score", "inpainting_score", "mask_head", "inpainting_head"),
    *("audit", "verdict", "reason"),
)
_COUNTED_COLUMNS = ("key", "sha256", "url", "reason")


@dataclass(frozen=True)
class Part:
    """Samples ``first`` to ``last`` (exclusive) of those that a split takes from one tar of the run."""

    split: str
    source: int
    folder: str
    first: int
    last: int


@dataclass(frozen=True)
class Shard:
    """A published shard: its split, its number in it, its samples, and where they come from."""

    split: str
    number: int
    samples: int
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return f"{self.split}-{shard_name(self.number)}"

    @property
    def tar(self) -> str:
        return f"data/{self.name}.tar"

    @property
    def sidecar(self) -> str:
        return f"metadata/{self.name}.parquet"


@dataclass
class Layout:
    """All published shards. left_out: kept samples that a takedown, still to be carried out, names; withheld: samples
    that the splits keep back."""

    shards: list[Shard] = field(default_factory=list)
    left_out: int = 0
    withheld: int = 0

    @property
    def samples(self) -> dict[str, int]:
        """Return split -> samples."""
        counts: dict[str, int] = {}
        for shard in self.shards:
            counts[shard.split] = counts.get(shard.split, 0) + shard.samples
        return counts


class Selector:
    """Says which samples of a source shard go into which split: the same answer while planning and while copying."""

    def __init__(self, run: Run, splits: SplitTable | None, takedowns: Takedowns) -> None:
        self.run, self.splits, self.takedowns = run, splits, takedowns

    def rows(self, part: Part, manifest: ShardManifest) -> pa.Table:
        """Return the ledger lines of the samples that a split takes from one tar, and "split", in the tar's order."""
        ledger, _ = self._showable(ledger_of(self.run.out, part.source, SIDECAR_COLUMNS))
        rows = self._stored(part.source, part.folder, ledger, manifest)
        return rows.filter(pc.equal(rows["split"], part.split)).slice(part.first, part.last - part.first)

    def showable(self, ledger: pa.Table) -> pa.Table:
        """Return the lines of a ledger (columns key, url, sha256, reason) whose pixels may be shown."""
        return self._showable(ledger)[0]

    def _showable(self, ledger: pa.Table) -> tuple[pa.Table, int]:
        """Return the rows that may be published, and how many kept ones a takedown in the log holds back."""
        ledger = ledger.replace_schema_metadata(None)
        ledger = ledger.filter(pc.invert(pc.is_in(ledger["reason"], pa.array(sorted(NEVER_SHOWN)))))
        gone = 0
        if len(self.takedowns):
            named = pa.array(self.takedowns.named(ledger), pa.bool_())
            gone = len(ledger.filter(pc.and_(named, pc.equal(ledger["reason"], ""))))
            ledger = ledger.filter(pc.invert(named))
        return ledger.append_column("split", pa.array(self._splits(ledger), pa.string())), gone

    def _splits(self, ledger: pa.Table) -> list[str]:
        if self.splits is not None:
            return self.splits.of(ledger["key"].to_pylist())
        return ["" if reason else "train" for reason in ledger["reason"].to_pylist()]

    def _stored(self, number: int, folder: str, ledger: pa.Table, manifest: ShardManifest) -> pa.Table:
        """Return the rows of ``ledger`` whose samples one tar of the run holds, in the order of the tar."""
        if f"{folder}/{manifest.name}.tar" not in manifest.files:
            return ledger.slice(0, 0)
        kept = pc.equal(ledger["reason"], "")
        if folder == "shards":
            return ledger.filter(kept)
        unfiltered = ledger.filter(pc.and_(pc.invert(kept), pc.equal(ledger["split"], UNFILTERED)))
        if not len(unfiltered):
            return unfiltered
        there = pa.array(_keys(storage.join(self.run.out, folder, f"{manifest.name}.tar")), pa.string())
        unfiltered = unfiltered.filter(pc.is_in(unfiltered["key"], there))
        first = pc.equal(
            pc.index_in(unfiltered["key"], unfiltered["key"]), pa.array(range(len(unfiltered)), pa.int32())
        )
        return unfiltered.filter(first)  # a duplicate has its key in the ledger twice, and its pixels in the tar once

    def count(self, number: int) -> Counted:
        """Count a source shard for planning."""
        manifest = read_manifest(self.run.out, number)
        ledger, gone = self._showable(ledger_of(self.run.out, number, _COUNTED_COLUMNS))
        counted = Counted(number, gone)
        for folder in TARS:
            rows = self._stored(number, folder, ledger, manifest)
            size = manifest.files.get(f"{folder}/{manifest.name}.tar", {}).get("bytes", 0)
            for entry in rows["split"].value_counts().to_pylist():
                counted.samples[folder, entry["values"]] = entry["counts"]
                # Of a tar of which other samples go elsewhere: its bytes in proportion.
                whole = max(manifest.kept if folder == "shards" else len(rows), 1)
                counted.bytes[folder, entry["values"]] = size * entry["counts"] // whole
        return counted


@dataclass
class Counted:
    """Samples and bytes of a source shard by (folder, split); split "" is published nowhere."""

    source: int
    left_out: int = 0
    samples: dict[tuple[str, str], int] = field(default_factory=dict)
    bytes: dict[tuple[str, str], int] = field(default_factory=dict)


def plan(selector: Selector, shard_bytes: int) -> Layout:
    """Lay out all samples of a run in shards of about ``shard_bytes``. Raises OutputError where there is no sample."""
    run = selector.run
    readers = LOCAL_READERS if storage.is_local(run.out) else REMOTE_READERS
    counted = list(ahead(selector.count, run.finished, readers))
    layout = Layout(left_out=sum(one.left_out for one in counted))
    layout.withheld = sum(count for one in counted for (_, split), count in one.samples.items() if split == WITHHELD)
    unknown = sum(count for one in counted for (_, split), count in one.samples.items() if not split)
    if unknown:
        raise OutputError(
            f"the splits of {run.out} do not know {unknown:,} kept samples: they were drawn before these came. "
            f"Draw them again with `l2i splits {run.out}`; what has a split keeps it."
        )
    for split in PUBLISHED:
        pieces = [
            (Part(split, one.source, folder, 0, one.samples[folder, split]), one.bytes[folder, split])
            for one in counted
            for folder in TARS
            if one.samples.get((folder, split))
        ]
        layout.shards += _cut(split, [part for part, _ in pieces], sum(size for _, size in pieces), shard_bytes)
    if not layout.shards:
        raise OutputError(f"{run.out} has no sample to publish: nothing was kept. See its report.html for the reasons.")
    return layout


def _cut(split: str, pieces: list[Part], size: int, shard_bytes: int) -> Iterator[Shard]:
    """Cut the samples of a split into shards of equal counts, the first ones one more where it does not divide."""
    total = sum(part.last for part in pieces)
    count = min(total, max(1, round(size / shard_bytes)))
    waiting = iter(pieces)
    part = next(waiting, None)
    for number in range(count):
        room = total // count + (number < total % count)
        samples, parts = room, list[Part]()
        while room and part is not None:
            taken = min(room, part.last - part.first)
            parts.append(replace(part, last=part.first + taken))
            room -= taken
            part = replace(part, first=part.first + taken) if taken < part.last - part.first else next(waiting, None)
        yield Shard(split, number, samples, tuple(parts))


def _keys(url: str) -> list[str]:
    """Return the keys of a tar's samples, reading headers alone."""
    try:
        with storage.open_read(url, cache="none") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return list(dict.fromkeys(member.name.partition(".")[0] for member in tar))
    except (tarfile.TarError, ValueError) as problem:
        raise OutputError(f"{url} is damaged: {problem}. Run `l2i verify`, which says what to do.") from problem
