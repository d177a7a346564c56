"""LAION-shaped metadata for tests: write it, and read it as a run would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.ingest import planning
from l2i_builder.sample import Row


def write(path: Path | str, columns: dict[str, Any], **options: Any) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    storage.write_bytes(str(path), sink.getvalue().to_pybytes())


def laion(count: int, first: int = 0, **columns: Any) -> dict[str, Any]:
    numbers = range(first, first + count)
    plain = {"URL": [f"http://a.test/{i}.jpg" for i in numbers], "TEXT": [f"caption {i}" for i in numbers]}
    return plain | {"punsafe": [0.01] * count} | columns


def rows_of(metadata: Path | str, **ingest_keys: Any) -> list[Row]:
    config = Config(metadata=str(metadata), ingest=ingest_keys)
    return [row for shard in planning.plan(config).shards for row in planning.read_rows(shard, config)]


def one_row(tmp_path: Path, filters: dict[str, Any] | None = None, **columns: Any) -> Row:
    write(tmp_path / "one.parquet", laion(1) | {name: [value] for name, value in columns.items()})
    return rows_of(tmp_path, filter=filters or {})[0]
