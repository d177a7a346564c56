"""Which shards there are and how many of their samples are read: known before the first one is opened.

Ranks can only be given equal numbers of batches if the counts are known ahead. They come from the manifests of a
build, from its ledgers where samples are selected by key or score, from the indexes and sidecars of a published
folder, or from the index of cached latents; tars without any of these are read through once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import finished, read_manifest
from l2i_builder.output.shards import index_tar, read_members
from l2i_builder.splits import FILE as SPLITS_FILE
from l2i_builder.splits import NAMES, SplitTable, read_splits
from model.published_shards import LA, indexed, published_shards, published_splits
from model.shard_selection import READERS, SCORES, Selection, Shard

TRAIN = "train"
SPLITS = tuple(name for name in NAMES if name != "withheld")


def find_shards(location: str, selection: Selection | None = None) -> list[Shard]:
    """Return the shards that ``location`` names and that hold a selected sample, in the order of their names.

    location: output folder of a build, published folder, folder with an ``index.json``, folder of tars, tar or glob of
    tars, or several of these with commas; local or URL. Where there are splits, one of them is named with a #:
    ``runs/sample#train``; ``#all`` reads whatever was kept. Raises ConfigError where nothing is found or no split is
    named, OutputError where it is damaged.
    """
    selection = selection or Selection()
    parts = [part.strip() for part in location.split(",") if part.strip()]
    shards = [shard for part in parts for shard in _find(part, selection) if shard.samples]
    if not shards:
        raise ConfigError(
            f"no samples to read in {location!r}: give the output folder of `l2i build`, a published folder, or tars"
            + ("" if selection.everything else f". Read are only samples that are {selection}: there may be none")
        )
    return shards


def selected(shard: Shard, selection: Selection) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {suffix: bytes}) of a shard's selected samples, exactly ``shard.samples`` of them.

    Raises OutputError where the tar is damaged or holds another number: ranks would run out of step.
    """
    count = 0
    for key, members in read_members(shard.url):
        if (key in shard.keys) == shard.only and selection.takes_members(key, members):
            count += 1
            yield key, members
    if count != shard.samples:
        raise OutputError(
            f"{shard.url} holds {count} samples to read where {shard.samples} were counted; `l2i verify` the folder it "
            "belongs to, and build the shard again"
        )


def captions(shards: Iterable[Shard], selection: Selection) -> Iterator[str]:
    """Yield the captions of the selected samples."""
    for shard in shards:
        for _, members in selected(shard, selection):
            yield members.get("txt", b"").decode("utf-8", "replace")


def _find(part: str, selection: Selection) -> list[Shard]:
    if part.endswith(".tar") or "*" in part:
        return _scan(_glob(part), selection)
    part, _, split = part.partition("#")
    numbers = sorted(finished(part))
    if not numbers and (there := published_splits(part)):
        return published_shards(part, split, there, selection)
    if split != "all" and (split or (numbers and storage.exists(storage.join(part, SPLITS_FILE)))):
        return _of_split(part, numbers, split, selection)
    if numbers:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda number: _of_manifest(part, number, selection), numbers))
    if storage.exists(storage.join(part, "index.json")) and selection.everything:
        return indexed(part, "index.json")
    return _scan([storage.join(part, name) for name in storage.list_names(part, ".tar")], selection)


def _of_split(out: str, numbers: list[int], split: str, selection: Selection) -> list[Shard]:
    """Return what a build's shards hold of one split."""
    if not split:
        raise ConfigError(
            f"{out} has splits: name one, {out}#train, {out}#test or {out}#la; {out}#all reads all of them"
        )
    table = read_splits(out)
    if table is None or split not in SPLITS:
        raise ConfigError(
            f"{out} has no split {split!r}; "
            + (f"it has {', '.join(SPLITS)}" if table is not None else f"draw them with `l2i splits {out}`")
        )
    splits: SplitTable = table

    def read(number: int) -> list[Shard]:
        manifest = read_manifest(out, number)
        ledger = read_ledger(storage.join(out, f"ledger/{manifest.name}.parquet"), ["key", "reason", *SCORES])
        found = ledger.append_column("split", pa.array(splits.of(ledger["key"].to_pylist()), pa.string()))
        kept = found.filter(pc.equal(found["reason"], "")).to_pylist()
        chosen = {line["key"] for line in kept if line["split"] == split}
        samples = sum(selection.takes(line["key"], line) for line in kept if line["split"] == split)
        every = {line["key"] for line in kept}
        keys = frozenset(every - chosen if split == TRAIN else chosen)  # of train nearly all: the others are fewer
        shards = [Shard(storage.join(out, f"shards/{manifest.name}.tar"), samples, keys, split != TRAIN)]
        audit = f"audit/{manifest.name}.tar"
        if split != LA or audit not in manifest.files:
            return shards
        lines = {line["key"]: line for line in found.to_pylist() if line["split"] == split}
        with storage.open_read(storage.join(out, audit)) as file:
            there = frozenset(key for key in index_tar(audit, file) if key in lines)
        samples = sum(selection.takes(key, lines[key]) for key in there)
        return [*shards, Shard(storage.join(out, audit), samples, there, True)]

    with ThreadPoolExecutor(READERS) as pool:
        return [shard for shards in pool.map(read, numbers) for shard in shards]


def _of_manifest(out: str, number: int, selection: Selection) -> Shard:
    manifest = read_manifest(out, number)
    name = f"shards/{manifest.name}.tar"
    if name not in manifest.files:
        return Shard(storage.join(out, name), 0)
    if selection.everything:
        return Shard(storage.join(out, name), manifest.kept)
    ledger = read_ledger(storage.join(out, f"ledger/{manifest.name}.parquet"), ["key", "reason", *SCORES])
    kept = ledger.filter(pc.equal(ledger["reason"], "")).to_pylist()
    return Shard(storage.join(out, name), sum(selection.takes(line["key"], line) for line in kept))


def _scan(urls: list[str], selection: Selection) -> list[Shard]:
    """Count by reading: for tars that came without manifest or index."""

    def count(url: str) -> Shard:
        return Shard(url, sum(selection.takes_members(key, members) for key, members in read_members(url)))

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(count, urls))


def _glob(pattern: str) -> list[str]:
    if "*" not in pattern:
        return [pattern] if storage.exists(pattern) else []
    fs, path = storage.filesystem(pattern)
    found = sorted(str(name) for name in fs.glob(path))
    return found if storage.is_local(pattern) else [str(fs.unstrip_protocol(name)) for name in found]
