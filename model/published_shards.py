"""The shards of a published folder, counted by its indexes and sidecars: no tar is opened to know them."""

from __future__ import annotations

import json
import posixpath
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.splits import NAMES
from model.shard_selection import READERS, SCORES, Selection, Shard

ALL, LA = "all", "la"


def published_splits(folder: str) -> list[str]:
    """Return the splits that a published folder has an index of; none where it is no published folder."""
    there = set(storage.list_names(folder, ".json"))
    return [name for name in NAMES if f"index-{name}.json" in there]


def published_shards(folder: str, split: str, there: list[str], selection: Selection) -> list[Shard]:
    """Return the shards of one split, with the samples that are selected.

    split: one of ``there``, its splits; "all" for what both filters kept in any of them; "" where there is one alone.
    Raises ConfigError where another or none is named, OutputError where an index or a sidecar is damaged.
    """
    if not split and len(there) > 1:
        named = ", ".join(f"{folder}#{name}" for name in there)
        raise ConfigError(f"{folder} has splits: name one, {named}; {folder}#{ALL} reads whatever was kept")
    if split not in ("", ALL, *there):
        raise ConfigError(f"{folder} has no split {split!r}; it has {', '.join(there)}")
    found: list[tuple[Shard, bool]] = []
    for name in [split] if split in there else there:
        kept_alone = split == ALL and name == LA  # of the unfiltered split those that the filters kept
        found += [(shard, kept_alone) for shard in indexed(folder, f"index-{name}.json")]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda each: _selected_of(folder, each[0], each[1], selection), found))


def indexed(folder: str, name: str) -> list[Shard]:
    """Return the shards that an index for wids lists. Raises OutputError where it is damaged."""
    try:
        entries = json.loads(storage.read_bytes(storage.join(folder, name)))["shardlist"]
        return [Shard(storage.join(folder, entry["url"]), int(entry["nsamples"])) for entry in entries]
    except (ValueError, KeyError, TypeError) as problem:
        raise OutputError(f"{folder}/{name} is no index of shards ({problem}); make the folder anew") from problem


def _selected_of(folder: str, shard: Shard, kept_alone: bool, selection: Selection) -> Shard:
    """Count a shard's selected samples by its sidecar, which is read only where the index does not say it."""
    if selection.everything and not kept_alone:
        return shard
    lines = _sidecar(folder, shard)
    if not kept_alone:
        return Shard(shard.url, sum(selection.takes(line["key"], line) for line in lines.to_pylist()))
    kept = lines.filter(pc.equal(lines["reason"], "")).to_pylist()
    samples = sum(selection.takes(line["key"], line) for line in kept)
    return Shard(shard.url, samples, frozenset(line["key"] for line in kept), only=True)


def _sidecar(folder: str, shard: Shard) -> pa.Table:
    name = posixpath.basename(shard.url).removesuffix(".tar")
    url = storage.join(folder, f"metadata/{name}.parquet")
    try:
        return pq.read_table(pa.BufferReader(storage.read_bytes(url)), columns=["key", "reason", *SCORES])
    except OutputError:
        raise
    except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
        raise OutputError(
            f"the sidecar {url} cannot be read: {' '.join(str(problem).split())[:200]}. Fetch the folder again."
        ) from problem
