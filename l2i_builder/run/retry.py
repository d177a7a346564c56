"""``--retry-failed``: rows of finished shards whose failure was transient are fetched again.

The shard is committed anew under ``pending/`` of the output folder: old rows and samples as they were, retried rows
with their new outcome. Then its files move into place, the manifest last. ``recover`` finishes a move that was
interrupted, so a shard is the old one or the new one, and what was kept stays kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.ingest.planning import InputPlan, InputShard, read_rows
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.features import FOLDER as FEATURES
from l2i_builder.output.features import read_features
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import PENDING, ShardManifest, finished, manifest_url, read_manifest, shard_name
from l2i_builder.output.shards import read_members
from l2i_builder.run.cluster import Parts
from l2i_builder.sample import Batch, Reason, Row
from l2i_builder.source.source import Source, make_source

READERS = 32  # manifests read at once


def retryable(out: str, plan: InputPlan, done: Collection[int]) -> list[InputShard]:
    """Return those of the finished shards ``done`` that hold a row whose failure was transient."""
    shards = [shard for shard in plan.shards if shard.number in done]
    with ThreadPoolExecutor(READERS) as pool:
        manifests = pool.map(lambda shard: read_manifest(out, shard.number), shards)
        return [
            shard
            for shard, manifest in zip(shards, manifests, strict=True)
            if any(Reason(reason).transient for reason in manifest.reasons)
        ]


def retry_parts(config: Config) -> Parts:
    """The parts of a run that retries."""
    return Parts(partial(RetrySource, config), Parts.of(config).stages, commit_retry)


class RetrySource:
    """Streams a finished shard again; only rows whose failure was transient are fetched."""

    def __init__(self, config: Config, make: Any = make_source) -> None:
        self.config = config
        self.source: Source = make(config)

    def batches(self, shard: InputShard) -> Iterator[Batch]:
        rows = read_rows(shard, self.config)
        for row, old in zip(rows, _ledger_rows(self.config.out, shard), strict=True):
            if not _transient(old):
                row.refuse(Reason.STAGE_ERROR, "retry", "settled in an earlier run")  # replaced when committed
        yield from self.source.batches_of(rows, shard)


def commit_retry(
    out: str, shard: InputShard, config: Config, batches: Sequence[Batch], stats: Mapping[str, Any], run_digest: str
) -> ShardManifest:
    """Merge retried rows into a finished shard and move the result into place."""
    merged = _merge(out, shard, config, batches)
    manifest = commit_shard(storage.join(out, PENDING), shard, config, [merged], stats, run_digest)
    promote(out, shard.number)
    return manifest


def recover(out: str) -> int:
    """Finish the moves that an interrupted retry left under ``pending/``. Returns how many shards it moved."""
    left = finished(storage.join(out, PENDING))
    for number in sorted(left):
        promote(out, number)
    return len(left)


def promote(out: str, number: int) -> None:
    """Move a shard committed under ``pending/`` into place, the manifest last. Safe to repeat."""
    pending = storage.join(out, PENDING)
    new = read_manifest(pending, number)
    for name in [*new.files, f"stats/{shard_name(number)}.json"]:
        if storage.exists(storage.join(pending, name)):
            storage.move(storage.join(pending, name), storage.join(out, name))
    for name in read_manifest(out, number).files:
        if name not in new.files:
            storage.delete(storage.join(out, name))
    storage.write_bytes(manifest_url(out, number), new.to_json())
    storage.delete(manifest_url(pending, number))


def _merge(out: str, shard: InputShard, config: Config, batches: Sequence[Batch]) -> Batch:
    """Return one batch with the shard's old rows and samples, and the new ones where a row was retried."""
    old = _ledger_rows(out, shard)
    new = [row for batch in batches for row in batch.rows]
    rows = [now if _transient(was) else was for was, now in zip(old, new, strict=True)]
    if config.fetch.dedup:
        _refuse_repeated_content(rows, [_transient(row) for row in old])
    merged = Batch(rows, np.empty(0, np.int64), shard_rows=len(rows))
    for folder, target in (("shards", merged.triplets), ("audit", merged.triplets), ("previews", merged.previews)):
        url = storage.join(out, folder, f"{shard.name}.tar")
        if storage.exists(url):
            samples: Any = read_members(url)
            target.update(samples if folder != "previews" else ((key, members["webp"]) for key, members in samples))
    url = storage.join(out, FEATURES, f"{shard.name}.parquet")
    if storage.exists(url):
        stored = read_features(url)
        merged.features, merged.feature_kinds = stored.vectors, stored.kinds
    _add_old_effort(storage.join(out, "stats", f"{shard.name}.json"), merged)
    for batch in batches:
        merged.triplets |= batch.triplets
        merged.previews |= batch.previews
        merged.feature_kinds |= batch.feature_kinds
        for task, vectors in batch.features.items():
            merged.features.setdefault(task, {}).update(vectors)
        for stage, seconds in batch.seconds.items():
            merged.seconds[stage] = merged.seconds.get(stage, 0.0) + seconds
        for stage, images in batch.images.items():
            merged.images[stage] = merged.images.get(stage, 0) + images
    return merged


def _refuse_repeated_content(rows: list[Row], retried: list[bool]) -> None:
    """A retried row gives way to any settled row with the same content."""
    settled = {row.sha256: row.index for row, again in zip(rows, retried, strict=True) if row.sha256 and not again}
    for row, again in zip(rows, retried, strict=True):
        if again and row.kept and row.sha256 in settled:
            row.refuse(Reason.DUPLICATE, "fetch", f"same content as row {settled[row.sha256]} of this shard")


def _add_old_effort(url: str, batch: Batch) -> None:
    if storage.exists(url):
        stats = json.loads(storage.read_bytes(url))
        batch.seconds, batch.images = dict(stats["seconds"]), dict(stats["images"])


def _ledger_rows(out: str, shard: InputShard) -> list[Row]:
    table = read_ledger(storage.join(out, "ledger", f"{shard.name}.parquet"))
    return [Row(**record) for record in table.to_pylist()]


def _transient(row: Row) -> bool:
    return bool(row.reason) and Reason(row.reason).transient
