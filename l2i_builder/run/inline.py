"""The same run in one process, without Ray: for debugging a stage, and as the yardstick of overhead."""

from __future__ import annotations

import time
from collections.abc import Sequence

from l2i_builder.config import Config
from l2i_builder.ingest.planning import InputShard
from l2i_builder.run.cluster import Parts
from l2i_builder.run.observe import DriverState, Observer, Summary
from l2i_builder.run.progress import Progress
from l2i_builder.run.resources import ORDER
from l2i_builder.stages import run_stages


def run_inline(
    config: Config,
    shards: Sequence[InputShard],
    run_digest: str,
    progress: Progress,
    parts: Parts | None = None,
    observer: Observer | None = None,
) -> None:
    """Run shards one after another in a plain loop. An exception ends the run; finished shards stay."""
    parts, observer = parts or Parts.of(config), observer or Observer()
    observer.opened(lambda: DriverState(0, 1, []), sum(shard.rows for shard in shards), len(shards))
    source, stages = parts.source(), parts.stages(ORDER, "cpu", 1)
    for shard in shards:
        stats, started = {"attempt": 1, "start_time": time.time()}, time.monotonic()
        observer.began(shard.name, 1)
        batches = []
        for batch in source.batches(shard):
            batches.append(run_stages(stages, batch))
            summary = Summary.of(batches[-1])
            progress.rows(summary.rows, summary.kept)
            observer.batch(shard.name, 1, summary)
        manifest = parts.commit(config.out, shard, config, batches, stats, run_digest)
        progress.shard_done(manifest)
        observer.finished(shard.name, 1, time.monotonic() - started, manifest)
    observer.closed()
