"""The toy pipeline on Xenna, the engine of NeMo Curator, in streaming mode: a stage that draws, one that holds the
models, one that writes a shard when it has all of it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cosmos_xenna.pipelines.v1 as xenna
import numpy as np
import ray

from benchmarks.engines import work
from benchmarks.engines.work import Job, Models


@dataclass
class Part:
    """A batch on its way."""

    rows: range
    keys: list[str]
    pictures: np.ndarray | None = None
    members: list[dict[str, bytes] | None] | None = None


class Draw(xenna.Stage):
    def __init__(self, job: Job) -> None:
        self.job = job

    @property
    def required_resources(self) -> xenna.Resources:
        return xenna.Resources(cpus=work.SOURCE_CPUS)

    def process_data(self, in_data: list[tuple[int, int]]) -> list[Part]:
        parts = [Part(range(*span), [work.key(row) for row in range(*span)]) for span in in_data]
        for part in parts:
            part.pictures = work.images(part.keys, self.job.side)
        return parts


class Fused(xenna.Stage):
    def __init__(self, job: Job) -> None:
        self.job = job

    @property
    def required_resources(self) -> xenna.Resources:
        return xenna.Resources(cpus=work.MODEL_CPUS)

    def setup(self, worker_metadata: xenna.WorkerMetadata) -> None:
        self.models = Models(self.job)

    def process_data(self, in_data: list[Part]) -> list[Part]:
        for part in in_data:
            part.members, part.pictures = self.models.run(part.keys, part.pictures), None
        return in_data


class Write(xenna.Stage):
    """The one writer: parts of a shard may come in any order."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.shards: dict[int, list[Part]] = defaultdict(list)

    @property
    def required_resources(self) -> xenna.Resources:
        return xenna.Resources(cpus=work.WRITER_CPUS)

    def process_data(self, in_data: list[Part]) -> list[Any]:
        for part in in_data:
            number = part.rows.start // self.job.rows_per_shard
            shard = self.shards[number]
            shard.append(part)
            size = min(self.job.rows_per_shard, self.job.rows - number * self.job.rows_per_shard)
            if sum(len(one.rows) for one in shard) == size:
                shard.sort(key=lambda one: one.rows.start)
                samples = [pair for one in shard for pair in zip(one.keys, one.members or [], strict=True)]
                work.write_shard(self.job.out, number, [(key, members) for key, members in samples if members])
                del self.shards[number]
        return []


def start(job: Job) -> Callable[[], None]:
    # What it sets itself where it starts Ray, which takes every CPU it sees.
    os.environ |= {f"RAY_MAX_LIMIT_FROM_{part}": "40000" for part in ("API_SERVER", "DATA_SOURCE")}
    os.environ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address  # or its monitor asks whichever Ray it finds

    def run() -> None:
        stages = [
            xenna.StageSpec(Draw(job), num_workers=1),
            xenna.StageSpec(Fused(job), num_workers=job.workers),
            xenna.StageSpec(Write(job), num_workers=1),
        ]
        config = xenna.PipelineConfig(
            execution_mode=xenna.ExecutionMode.STREAMING,
            cpu_allocation_percentage=1.0,
            actor_pool_verbosity_level=xenna.VerbosityLevel.NONE,
            monitoring_verbosity_level=xenna.VerbosityLevel.NONE,
        )
        xenna.run_pipeline(xenna.PipelineSpec(job.batches(), stages, config))

    return run


if __name__ == "__main__":
    work.main(start)
