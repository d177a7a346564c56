"""Samples read back as ordered layers, of two-layer shards and of those with further objects (docs/layers.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.codecs import decode
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import finished, read_manifest, shard_name
from l2i_builder.output.rewrite import StoredSample
from l2i_builder.output.shards import REBUILD, decode_triplet, further_names, index_tar, read_members
from l2i_builder.sample import LayeredSample

_READERS = 16  # ledgers read at once: object stores answer slowly


def open_layers(urls: str | Iterable[str]) -> Iterator[LayeredSample]:
    """Yield the samples of shards as ordered layers, however many they have. Raises as ``open_triplets``."""
    for url in [urls] if isinstance(urls, str) else urls:
        for key, members in read_members(url):
            yield decode_layers(key, members, url)


def decode_layers(key: str, members: Mapping[str, bytes], url: str) -> LayeredSample:
    """Decode one sample's members as ordered layers; empty ones are left out. Raises as ``decode_triplet``."""
    triplet = decode_triplet(key, members, url)
    objects = [(triplet.foreground, triplet.mask, triplet.background)]
    objects += [each for each in decode_further(key, members, url) if each[1].any()]
    if any(mask.shape != triplet.mask.shape for _, mask, _ in objects):
        raise OutputError(f"{url}: the layers of {key} differ in size. {REBUILD}")
    stack = [np.dstack([foreground, mask]) for foreground, mask, _ in objects]
    return LayeredSample(key, triplet.caption, triplet.image, stack, objects[-1][2], triplet.info)


def decode_further(key: str, members: Mapping[str, bytes], url: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Decode F, m and what is behind it of each further object of a sample, empty ones too, front to back.

    Returns uint8 [H, W, 3], [H, W] and [H, W, 3]. Raises as ``decode_triplet``.
    """
    result: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    suffix = ""
    try:
        while any(suffix in members for suffix in further_names(len(result) + 2)):
            parts = []
            for suffix, mode in zip(further_names(len(result) + 2), ("RGB", "L", "RGB"), strict=True):
                parts.append(decode(members[suffix], mode))
            foreground, mask, behind = parts
            if not foreground.shape == behind.shape == (*mask.shape, 3):
                raise ValueError("the parts of the layer differ in size")
            result.append((foreground, mask, behind))
    except Exception as problem:  # decoders raise nearly anything on damaged files
        raise OutputError(f"{url}: {key}.{suffix} does not decode: {problem}. {REBUILD}") from problem
    return result


def stored_layers(source: str, keys: Sequence[str]) -> list[LayeredSample]:
    """Return samples by key, in the order of ``keys``. source: output folder of a run, or a tar.

    Raises ConfigError where a key is not stored there, OutputError where something is damaged.
    """
    tars = [source] if source.endswith(".tar") else _tars_of(source, set(keys))
    found: dict[str, LayeredSample] = {}
    for url in tars:
        with storage.open_read(url) as file:
            places = index_tar(url, file)
            for key in places.keys() & set(keys) - found.keys():
                found[key] = decode_layers(key, StoredSample(file, places[key]), url)
    if missing := [key for key in keys if key not in found]:
        raise ConfigError(
            f"{source} stores no sample {', '.join(missing[:5])}: only kept samples and the audit slice are stored. "
            "The report and the ledger have the keys."
        )
    return [found[key] for key in keys]


def _tars_of(out: str, keys: set[str]) -> list[str]:
    """Return the tars of a run that may hold samples of these keys: shards before the audit slice."""
    numbers = sorted(finished(out))
    if not numbers:
        raise OutputError(f"{out} holds no finished shard. Give the output folder of a build, or a tar.")

    def holds(number: int) -> bool:
        ledger = read_ledger(storage.join(out, f"ledger/{shard_name(number)}.parquet"), ["key"])
        return not keys.isdisjoint(ledger["key"].to_pylist())

    with ThreadPoolExecutor(_READERS) as pool:
        hits = [number for number, hit in zip(numbers, pool.map(holds, numbers), strict=True) if hit]
    names = [f"{folder}/{shard_name(number)}.tar" for folder in ("shards", "audit") for number in hits]
    listed = {name for number in hits for name in read_manifest(out, number).files}
    return [storage.join(out, name) for name in names if name in listed]
