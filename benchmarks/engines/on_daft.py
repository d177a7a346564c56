"""The toy pipeline on Daft's native runner: a batch function that draws, a class in worker processes, and rows in
order to this process, which writes them. Pictures and members are binary columns, its fastest way for bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import daft
import numpy as np
from daft import DataType, col

from benchmarks.engines import work
from benchmarks.engines.work import Job, Models

MEMBERS = DataType.struct({name: DataType.binary() for name in work.MEMBERS})


def start(job: Job) -> Callable[[], None]:
    daft.set_runner_native()

    @daft.func.batch(return_dtype=DataType.binary(), batch_size=job.batch)
    def draw(keys: daft.Series) -> list[bytes]:
        return [picture.tobytes() for picture in work.images(keys.to_pylist(), job.side)]

    @daft.cls(max_concurrency=job.workers, use_process=True)
    class Fused:
        def __init__(self) -> None:
            self.models = Models(job)

        @daft.method.batch(return_dtype=MEMBERS, batch_size=job.batch)
        def run(self, keys: daft.Series, pictures: daft.Series) -> list[Any]:
            shape = (job.side, job.side, 3)
            stacked = np.stack([np.frombuffer(one, np.uint8).reshape(shape) for one in pictures.to_pylist()])
            return self.models.run(keys.to_pylist(), stacked)

    def run() -> None:
        rows = range(job.rows)
        data = daft.from_pydict({"row": list(rows), "key": [work.key(row) for row in rows]}).into_batches(job.batch)
        data = data.with_column("image", draw(col("key")))
        data = data.with_column("members", Fused().run(col("key"), col("image"))).exclude("image")
        shard: list[dict[str, Any]] = []
        for row in data.iter_rows():
            shard.append(row)
            if len(shard) == job.rows_per_shard or row["row"] == job.rows - 1:
                number = shard[0]["row"] // job.rows_per_shard
                work.write_shard(job.out, number, [(one["key"], one["members"]) for one in shard if one["members"]])
                shard = []

    return run


if __name__ == "__main__":
    work.main(start)
