"""``--retry-failed``: rows of finished shards whose failure was transient are fetched again.

The shard is made anew (``output/rewrite.py``): old rows and samples as they were, retried rows with their new
outcome. What was kept stays kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.ingest.planning import InputPlan, InputShard, read_rows
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import PENDING, ShardManifest, whole_manifests
from l2i_builder.output.rewrite import promote, stored_rows, stored_shard
from l2i_builder.run.cluster import Parts
from l2i_builder.run.observe import SETTLED
from l2i_builder.sample import Batch, Reason, Row
from l2i_builder.source.source import Source, make_source


def retryable(out: str, plan: InputPlan, done: Collection[int]) -> list[InputShard]:
    """Return those of the finished shards ``done`` that hold a row whose failure was transient."""
    shards = [shard for shard in plan.shards if shard.number in done]
    manifests = whole_manifests(out, [shard.number for shard in shards])
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
        for row, old in zip(rows, stored_rows(self.config.out, shard.number), strict=True):
            if not _transient(old):
                row.refuse(Reason.STAGE_ERROR, SETTLED, "settled in an earlier run")  # replaced when committed
        yield from self.source.batches_of(rows, shard)


def commit_retry(
    out: str, shard: InputShard, config: Config, batches: Sequence[Batch], stats: Mapping[str, Any], run_digest: str
) -> ShardManifest:
    """Merge retried rows into a finished shard and move the result into place."""
    manifest = _commit_merged(out, shard, config, batches, stats, run_digest)
    promote(out, shard.number)
    return manifest


def _commit_merged(
    out: str, shard: InputShard, config: Config, batches: Sequence[Batch], stats: Mapping[str, Any], run_digest: str
) -> ShardManifest:
    """Commit, under ``pending/``, the shard's old rows and samples, and the new ones where a row was retried."""
    with stored_shard(out, shard.number) as merged:
        old = merged.rows
        new = [row for batch in batches for row in batch.rows]
        merged.rows = [now if _transient(was) else was for was, now in zip(old, new, strict=True)]
        if config.fetch.dedup:
            _refuse_repeated_content(merged.rows, [_transient(row) for row in old])
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
        return commit_shard(storage.join(out, PENDING), shard, config, [merged], stats, run_digest)


def _refuse_repeated_content(rows: list[Row], retried: list[bool]) -> None:
    """A retried row gives way to any settled row with the same content."""
    settled = {row.sha256: row.index for row, again in zip(rows, retried, strict=True) if row.sha256 and not again}
    for row, again in zip(rows, retried, strict=True):
        if again and row.kept and row.sha256 in settled:
            row.refuse(Reason.DUPLICATE, "fetch", f"same content as row {settled[row.sha256]} of this shard")


def _transient(row: Row) -> bool:
    return bool(row.reason) and Reason(row.reason).transient
