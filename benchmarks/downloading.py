"""Links to shards of pictures at 512 pixels with this project's source, as img2dataset does it: for the comparison.

    python -m benchmarks.downloading '{"metadata": ..., "out": ..., "connect_to": ..., ...}'

A source (guarded fetcher, decoder processes) feeds a loop that encodes JPEGs as img2dataset does and writes a tar and a
ledger of every row per input shard.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.ledger import plain, write_ledger
from l2i_builder.output.shards import write_tar
from l2i_builder.sample import Row
from l2i_builder.source.source import Source, make_source

_scratch = threading.local()  # memory that is not asked for again with each picture


def members(row: Row, image: Any) -> dict[str, bytes]:
    """The members that img2dataset writes, its settings for JPEG."""
    swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR, getattr(_scratch, "image", None))
    _scratch.image = swapped
    done, data = cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    return {"jpg": data.tobytes(), "txt": row.caption.encode(), "json": json.dumps(plain(row)).encode()}


def download(config: Config) -> None:
    """Write all shards, two at a time: while one waits for its last answers, the other one's pictures are decoded."""
    cv2.setNumThreads(1)
    source = make_source(config)
    with ThreadPoolExecutor(2) as pool:
        deque(pool.map(partial(_write, source, config), planning.plan(config).shards), maxlen=0)
    source.close()


def _write(source: Source, config: Config, shard: InputShard) -> None:
    samples, rows = [], []
    for batch in source.batches(shard):
        rows += batch.rows
        assert batch.image is not None
        samples += [(row.key, members(row, image)) for row, image in zip(batch.live_rows, batch.image, strict=True)]
    write_tar(samples, f"{config.out}/{shard.name}.tar")
    Path(f"{config.out}/{shard.name}.parquet").write_bytes(write_ledger(rows, {"shard": shard.number}))


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    Path(job["out"]).mkdir(parents=True)
    overrides = [f"ingest.rows_per_shard={job['rows_per_shard']}", f"fetch.connect_to={job['connect_to']}"]
    overrides += [
        f"fetch.concurrency={job['concurrency']}",
        f"fetch.per_host={job['concurrency']}",
        "fetch.dedup=false",
    ]
    overrides += ["fetch.retries=0", "image.min_size=0", f"image.workers={job['workers']}", "ingest.audit_rate=0"]
    download(load_config(None, overrides, metadata=job["metadata"], out=job["out"]))
