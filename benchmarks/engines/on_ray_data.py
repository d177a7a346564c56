"""The toy pipeline on Ray Data: a map of tasks, one of an actor pool, one that writes; rows in order, so that a
block of ``rows_per_shard`` of them is a shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from benchmarks.engines import work
from benchmarks.engines.work import Job, Models


class Fused:
    """All model stages in one actor."""

    def __init__(self, job: Job) -> None:
        self.models = Models(job)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        keys = batch["key"].tolist()
        found = self.models.run(keys, batch["image"])
        columns = {name: np.array([one[name] if one else b"" for one in found], object) for name in work.MEMBERS}
        return {"row": batch["row"], "key": batch["key"]} | columns


def draw(batch: dict[str, np.ndarray], side: int) -> dict[str, Any]:
    keys = [work.key(int(row)) for row in batch["id"]]
    return {"row": batch["id"], "key": np.array(keys), "image": work.images(keys, side)}


def write(batch: dict[str, np.ndarray], job: Job) -> dict[str, Any]:
    names = work.MEMBERS
    samples = [
        (key, dict(zip(names, members, strict=True)))
        for key, *members in zip(batch["key"].tolist(), *(batch[name] for name in names), strict=True)
        if members[0]
    ]
    number = int(batch["row"][0]) // job.rows_per_shard
    work.write_shard(job.out, number, samples)
    return {"shard": [number]}


def start(job: Job) -> Callable[[], None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True

    def run() -> None:
        pool = ray.data.ActorPoolStrategy(size=job.workers, max_tasks_in_flight_per_actor=2)
        items = [{"id": row} for row in range(job.rows)]  # no read tasks, which would ask for a CPU each
        data = ray.data.from_items(items, override_num_blocks=-(-job.rows // job.batch))
        data = data.map_batches(draw, batch_size=job.batch, fn_kwargs={"side": job.side}, num_cpus=work.SOURCE_CPUS)
        data = data.map_batches(
            Fused, fn_constructor_args=(job,), batch_size=job.batch, compute=pool, num_cpus=work.MODEL_CPUS
        )
        data = data.map_batches(write, batch_size=job.rows_per_shard, fn_kwargs={"job": job}, num_cpus=work.WRITER_CPUS)
        data.materialize()

    return run


if __name__ == "__main__":
    work.main(start)
