"""The toy pipeline on this project's driver and a local Ray, committed as every build is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.engines import work
from benchmarks.engines.work import Job, Models
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import InputShard, read_rows
from l2i_builder.run.progress import Progress
from l2i_builder.sample import Batch, Reason


class Source:
    """Draws the pictures of a shard's rows."""

    def __init__(self, job: Job, config: Config) -> None:
        self.job, self.config = job, config

    def batches(self, shard: InputShard) -> Iterator[Batch]:
        rows = read_rows(shard, self.config)
        for start in range(0, len(rows), self.job.batch):
            part = rows[start : start + self.job.batch]
            pictures = work.images([row.key for row in part], self.job.side)
            yield Batch(part, np.arange(len(part)), shard_rows=len(rows), image=pictures)


class Stage:
    """One of the toy's stages as the project's are: arrays on a batch, refused rows lose theirs."""

    def __init__(self, name: str, models: Models) -> None:
        self.name, self.models = name, models

    def __call__(self, batch: Batch) -> Batch:
        return getattr(self, f"_{self.name}")(batch)

    def _segment(self, batch: Batch) -> Batch:
        self.models.began(len(batch))
        batch.mask = self.models.segment(batch.image)
        return batch

    def _inpaint(self, batch: Batch) -> Batch:
        batch.background = self.models.inpaint(batch.image, batch.mask)
        return batch

    def _judge_mask(self, batch: Batch) -> Batch:
        return self._judge(batch, "mask", Reason.MASK_REJECTED)

    def _judge_inpainting(self, batch: Batch) -> Batch:
        return self._judge(batch, "inpainting", Reason.INPAINTING_REJECTED)

    def _judge(self, batch: Batch, task: str, reason: Reason) -> Batch:
        good = self.models.judge([row.key for row in batch.live_rows], task)
        for row, keep in zip(batch.live_rows, good, strict=True):
            if not keep:
                row.refuse(reason, self.name)
        return batch.compress(good)

    def _encode(self, batch: Batch) -> Batch:
        for slot, row in enumerate(batch.live_rows):
            layers = (batch.image[slot], batch.mask[slot], batch.background[slot])
            batch.triplets[row.key] = self.models.encode(row.key, *layers)
        batch.compress(np.zeros(len(batch), bool))
        batch.image = batch.mask = batch.background = None
        return batch


def stages(job: Job, names: Sequence[str], device: str, threads: int) -> list[Stage]:
    models = Models(job)
    return [Stage(name, models) for name in names]


class Quiet(Progress):
    """Draws nothing."""

    def __init__(self) -> None:
        self.kept = 0

    def rows(self, rows: int, kept: int) -> None:
        self.kept += kept

    def undo(self, rows: int, kept: int) -> None:
        self.kept -= kept

    def shard_done(self, manifest: object) -> None:
        return None

    def note(self, text: str, shard: str = "", attempt: int = 0) -> None:
        print(text, flush=True)


def start(job: Job) -> Callable[[], None]:
    from l2i_builder.run.cluster import Driver, Parts
    from l2i_builder.run.connection import start_ray
    from l2i_builder.run.resources import plan_layout
    from l2i_builder.run.resume import whole_shards

    metadata = Path(job.out) / "metadata.parquet"
    rows = range(job.rows)
    table = {"URL": [work.url(row) for row in rows], "TEXT": [work.caption(row) for row in rows]}
    pq.write_table(pa.table(table | {"punsafe": [0.0] * job.rows}), metadata)
    overrides = [f"ingest.rows_per_shard={job.rows_per_shard}", f"cluster.batch_rows={job.batch}", "cluster.cpus=2"]
    overrides += ["ingest.audit_rate=0", f"image.size={job.side}"]
    config = load_config(None, overrides, metadata=str(metadata), out=job.out)
    parts = Parts(partial(Source, job, config), partial(stages, job))
    resources = start_ray(config)

    async def drive() -> None:
        driver = Driver(config, plan_layout(config, resources), "benchmark", Quiet(), parts)
        done, _ = whole_shards(config.out)
        outcome = await driver.run([shard for shard in planning.plan(config).shards if shard.number not in done])
        if outcome.failed:
            raise SystemExit(f"failed shards: {outcome.failed}")

    return lambda: asyncio.run(drive())


if __name__ == "__main__":
    work.main(start)
