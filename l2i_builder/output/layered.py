"""Samples read back as ordered layers, of two-layer shards and of those with further objects (docs/layers.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from l2i_builder.errors import OutputError
from l2i_builder.output.codecs import decode
from l2i_builder.output.shards import REBUILD, decode_triplet, further_names, read_members
from l2i_builder.sample import LayeredSample


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
