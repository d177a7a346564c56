"""The same run in one process, without Ray: for debugging a stage, and as the yardstick of overhead."""

from __future__ import annotations

import time
from collections.abc import Sequence

from l2i_builder.config import Config
from l2i_builder.ingest.planning import InputShard
from l2i_builder.run.cluster import Parts
from l2i_builder.run.progress import Progress
from l2i_builder.run.resources import ORDER
from l2i_builder.stages import run_stages


def run_inline(
    config: Config, shards: Sequence[InputShard], run_digest: str, progress: Progress, parts: Parts | None = None
) -> None:
    """Run shards one after another in a plain loop. An exception ends the run; finished shards stay."""
    parts = parts or Parts.of(config)
    source, stages = parts.source(), parts.stages(ORDER, "cpu", 1)
    for shard in shards:
        stats = {"attempt": 1, "start_time": time.time()}
        batches = []
        for batch in source.batches(shard):
            batches.append(run_stages(stages, batch))
            progress.rows(rows=len(batch.rows), kept=sum(row.kept for row in batch.rows))
        progress.shard_done(parts.commit(config.out, shard, config, batches, stats, run_digest))
