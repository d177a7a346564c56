"""Labels people gave in the review app, with the features of the samples they saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from classifiers.features import FeatureCache, Labelled
from classifiers.sources import TEST_SHARE
from l2i_builder import layers, storage
from l2i_builder.errors import MetadataError
from l2i_builder.labels import consensus, current, read_labels
from l2i_builder.output import features as stored
from l2i_builder.output.manifest import shard_name
from l2i_builder.output.shards import open_triplets
from l2i_builder.report.run import Run, open_run
from l2i_builder.sample import key_fraction

KIND = "people"


def labels_of(out: str, task: str, family: str, cache: FeatureCache) -> Labelled:
    """Return what people said of a run's samples, one line a sample, with its features of one family.

    Features come from the run where it keeps them, of that family and backbone; else they are made anew from the
    pixels of its shards and of the audit slice. ``quality`` is the share of reviewers who said good. Samples whose
    pixels the run no longer has are counted under "labels without pixels". Raises MetadataError where nothing is
    labelled, OutputError where the run cannot be read.
    """
    run = open_run(out)
    table = read_labels(out)
    said = consensus(table)
    good = dict(zip(said["key"].to_pylist(), said[f"{task}_good"].to_pylist(), strict=True))
    good = {key: share for key, share in good.items() if share == share}
    vectors: dict[str, np.ndarray] = {}
    for shard, keys in sorted(_by_shard(table, set(good)).items()):
        vectors |= _vectors(run, shard, keys, task, family, cache)
    if not vectors:
        raise MetadataError(
            f"nobody has judged the {task} of any sample of {out} yet: label some with `l2i review {out}`"
        )
    names = np.array(sorted(vectors))
    quality = np.array([good[key] for key in names], np.float32)
    facts = {
        "backbone": cache.backbone.name,
        "backbone sha256": cache.backbone.digest,
        "labels of people": str(len(names)),
        "labels without pixels": str(len(good) - len(names)),
        "runs": run.digest[:12],
    }
    return Labelled(
        vectors={family: np.stack([vectors[key] for key in names])},
        quality=quality,
        weight=np.ones(len(names), np.float32),
        test=np.array([key_fraction(key, "bootstrap") < TEST_SHARE for key in names]),
        kind=np.full(len(names), KIND),
        scene=names,
        source=names,
        truth=quality,
        facts=facts,
    )


def _by_shard(labels: pa.Table, wanted: set[str]) -> dict[int, set[str]]:
    shards: defaultdict[int, set[str]] = defaultdict(set)
    rows = current(labels).select(["key", "shard"])
    for key, shard in zip(rows["key"].to_pylist(), rows["shard"].to_pylist(), strict=True):
        if key in wanted:
            shards[shard].add(key)
    return shards


def _vectors(
    run: Run, shard: int, keys: set[str], task: str, family: str, cache: FeatureCache
) -> dict[str, np.ndarray]:
    url = storage.join(run.out, stored.FOLDER, f"{shard_name(shard)}.parquet")
    if storage.exists(url):
        kept = stored.read_features(url)
        kind = kept.kinds.get(task, {})
        if kind.get("features") == family and kind.get("backbone_sha256") == cache.backbone.digest:
            return {key: vector for key, vector in kept.vectors[task].items() if key in keys}
    return {key: cache([family], *arrays)[family] for key, arrays in _pixels(run, shard, keys, task)}


def _pixels(run: Run, shard: int, keys: set[str], task: str) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """Yield (key, arrays as the judge saw them, but for JPEG) of samples that were kept or audited."""
    rule: dict[str, Any] = run.config["layers"]
    for folder in ("shards", "audit"):
        url = storage.join(run.out, folder, f"{shard_name(shard)}.tar")
        for triplet in open_triplets(url) if storage.exists(url) else ():
            if triplet.key not in keys:
                continue
            if task == "mask":
                yield triplet.key, (triplet.image, triplet.mask)
            else:
                hole = layers.hole(triplet.mask, float(rule["foreground_threshold"]), int(rule["dilate"]))
                yield triplet.key, (triplet.image, triplet.mask, triplet.background, hole)
