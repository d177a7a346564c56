"""Reading layered images: one dataset over all shards of a run, a published folder, or plain tars."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import finished, read_manifest, shard_name
from l2i_builder.output.shards import decode_triplet, read_members
from l2i_builder.review.tars import Tars
from l2i_builder.sample import Triplet

if TYPE_CHECKING:
    from l2i_builder.splits import SplitTable

UNFILTERED = "la"  # the split that no judge has seen to
_READERS = 16  # files read at once: object stores answer slowly, but many at a time


@dataclass(frozen=True)
class Shard:
    """A tar and what is read of it. digest: SHA-256 or MD5 of the tar, "" if unknown; keys: None for all samples."""

    url: str
    samples: int
    digest: str = ""
    keys: frozenset[str] | None = None

    def has(self, key: str) -> bool:
        return self.keys is None or key in self.keys


class LayeredDataset:
    """Text-paired layered images, in the order of their shards: iterable, with a length, by position or by key.

    Iterating streams one tar after the other. Access by position or key walks the headers of a tar the first time it
    is touched, and then takes one ranged read for each sample; nothing is extracted. Pickles, so it is a map-style
    dataset for ``torch.utils.data.DataLoader`` as it is (with a ``collate_fn``).

    Every sample is a ``Triplet``: image, foreground and background uint8 [H, W, 3], mask uint8 [H, W] (m scaled to
    0..255), caption, info (the sample's JSON) and key.
    """

    def __init__(self, shards: list[Shard], cache: Path | None = None) -> None:
        """cache: folder where the places of members of remote tars are remembered."""
        self.shards, self._cache = shards, cache
        self._ends = list(accumulate(shard.samples for shard in shards))
        self._tars = Tars(cache)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Triplet]:
        """Yield every sample. Raises OutputError on a damaged tar or sample."""
        for shard in self.shards:
            for key, members in read_members(shard.url):
                if shard.has(key):
                    yield decode_triplet(key, members, shard.url)

    def __getitem__(self, item: int | str) -> Triplet:
        """Return a sample by position (negative: from the end) or key.

        Raises IndexError or KeyError where there is none, OutputError where its shard is damaged.
        """
        shard, key = self._by_key(item) if isinstance(item, str) else self._by_position(item)
        return decode_triplet(key, self._tars.read_sample(shard.url, key, shard.digest), shard.url)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and any(key in self._places(shard) for shard in self.shards if shard.has(key))

    def keys(self) -> Iterator[str]:
        """Yield the keys in order; walks tars, decodes nothing."""
        for shard in self.shards:
            yield from (key for key in self._places(shard) if shard.has(key))

    def __repr__(self) -> str:
        return f"<LayeredDataset: {len(self):,} samples in {len(self.shards):,} shards>"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tars"}  # locks stay here

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tars = Tars(self._cache)

    def _places(self, shard: Shard) -> dict[str, dict[str, tuple[int, int]]]:
        return self._tars.places(shard.url, shard.digest)

    def _by_position(self, position: int) -> tuple[Shard, str]:
        index = position + len(self) if position < 0 else position
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sample {position}: the dataset has {len(self):,}")
        number = bisect_right(self._ends, index)
        shard = self.shards[number]
        keys = [key for key in self._places(shard) if shard.has(key)]
        if len(keys) != shard.samples:
            raise OutputError(
                f"{shard.url} holds {len(keys):,} samples where {shard.samples:,} were counted. "
                "Open the dataset again; if that does not help, `l2i verify` the folder."
            )
        return shard, keys[index - self._ends[number] + shard.samples]

    def _by_key(self, key: str) -> tuple[Shard, str]:
        for shard in self.shards:
            if shard.has(key) and key in self._places(shard):
                return shard, key
        raise KeyError(key)


def open_dataset(location: str | Path, split: str | None = None, *, cache: str | Path | None = None) -> LayeredDataset:
    """Open the samples of a run or a published folder.

    Args:
        location: output folder of a build, published folder, folder of tars (such as ``OUT/audit``), tar, or glob of
            tars; local, ``s3://`` or another URL.
        split: read one split only: "train", "test" or "la"; None: all that was kept (not the unfiltered "la").
        cache: folder for what is remembered of remote tars; None: in the user's cache folder.

    Raises:
        OutputError: nothing to read is there, it is damaged, or there is no such split.
    """
    place = str(location)
    if split and (place.endswith(".tar") or "*" in place):
        raise OutputError(f"{place} names tars, which have no splits. Give the folder that they belong to.")
    shards = _tars(_glob(place)) if place.endswith(".tar") or "*" in place else _of_folder(place, split)
    if not shards:
        raise OutputError(f"{place} holds no samples to read: give the output folder of `l2i build`, or tars.")
    return LayeredDataset([shard for shard in shards if shard.samples], Path(cache) if cache else _cache_folder())


def _of_folder(folder: str, split: str | None) -> list[Shard]:
    numbers = sorted(finished(folder))
    if not numbers:
        return _plain(folder, split)
    with ThreadPoolExecutor(_READERS) as pool:
        if split is None:
            return list(pool.map(partial(_kept, folder), numbers))
        table = _splits(folder, split)
        shards = list(pool.map(partial(_kept_of, folder, table, split), numbers))
        if sum(shard.samples for shard in shards) < table.counts()[split]:  # others are in the audit slice
            shards += pool.map(partial(_audited_of, folder, table, split), numbers)
    return shards


def _plain(folder: str, split: str | None) -> list[Shard]:
    """The tars of a folder that is no run: by the index of a split or of the folder, else all that lie in it."""
    indexes = [name for name in storage.list_names(folder, ".json") if name.startswith(("index.", "index-"))]
    if split is None:
        chosen = [name for name in indexes if name != f"index-{UNFILTERED}.json"]
        if chosen:
            return [shard for name in chosen for shard in _indexed(folder, name)]
        return _tars([storage.join(folder, name) for name in storage.list_names(folder, ".tar")])
    if f"index-{split}.json" in indexes:
        return _indexed(folder, f"index-{split}.json")
    shards = _plain(storage.join(folder, split), None)
    if not shards:
        raise OutputError(f"{folder} has no split {split!r}. Without a split, all that was kept is read.")
    return shards


def _kept(out: str, number: int) -> Shard:
    """The samples that a shard of a run kept."""
    manifest = read_manifest(out, number)
    name = f"shards/{manifest.name}.tar"
    file = manifest.files.get(name)
    return Shard(storage.join(out, name), manifest.kept if file else 0, file["sha256"] if file else "")


def _kept_of(out: str, table: SplitTable, split: str, number: int) -> Shard:
    shard = _kept(out, number)
    ledger = read_ledger(storage.join(out, "ledger", f"{shard_name(number)}.parquet"), ["key", "reason"])
    lines = zip(ledger["key"].to_pylist(), ledger["reason"].to_pylist(), strict=True)
    return _chosen(shard, table, split, [key for key, reason in lines if not reason])


def _audited_of(out: str, table: SplitTable, split: str, number: int) -> Shard:
    """The samples of a split that no judge let in: those of the audit slice are stored too."""
    name = f"audit/{shard_name(number)}.tar"
    file = read_manifest(out, number).files.get(name)
    shard = Shard(storage.join(out, name), 0, file["sha256"] if file else "")
    return _chosen(shard, table, split, list(Tars().places(shard.url)) if file else [])


def _chosen(shard: Shard, table: SplitTable, split: str, keys: list[str]) -> Shard:
    chosen = frozenset(key for key, of in zip(keys, table.of(keys), strict=True) if of == split)
    return Shard(shard.url, len(chosen), shard.digest, chosen)


def _splits(out: str, split: str) -> SplitTable:
    from l2i_builder.splits import read_splits

    table = read_splits(out)
    if table is None:
        raise OutputError(f"{out} has no splits yet, so no {split!r}. `l2i splits {out}` draws them.")
    if not table.counts().get(split):
        names = ", ".join(name for name, count in table.counts().items() if count)
        raise OutputError(f"{out} has no split {split!r}. It has {names or 'none'}.")
    return table


def _indexed(folder: str, name: str) -> list[Shard]:
    try:
        entries = json.loads(storage.read_bytes(storage.join(folder, name)))["shardlist"]
        return [
            Shard(storage.join(folder, entry["url"]), int(entry["nsamples"]), str(entry.get("md5sum", "")))
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise OutputError(f"{folder}/{name} is no index of shards ({problem}). Make the folder anew.") from problem


def _tars(urls: list[str]) -> list[Shard]:
    """Tars that came without manifest or index: their samples are counted by walking the headers."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda url: Shard(url, len(Tars().places(url))), urls))


def _glob(pattern: str) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    fs, path = storage.filesystem(pattern)
    found = sorted(str(name) for name in fs.glob(path))
    return found if storage.is_local(pattern) else [str(fs.unstrip_protocol(name)) for name in found]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2i-builder" / "tars"
