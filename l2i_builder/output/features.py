"""Stored features: what each judge saw of a sample as numbers, so that thresholds and heads can be changed later.

``features/00042.parquet`` has a line for every row that a judge scored, in input order: ``key``, ``mask`` and
``inpainting``, float32 lists of one length each, empty where that judge did not score. ``judge.score_features`` of
them gives the scores in the ledger; ``l2i refilter`` and training need neither pixels nor a backbone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder.errors import L2IError, OutputError
from l2i_builder.output.ledger import METADATA_KEY
from l2i_builder.storage import open_read

FOLDER = "features"
TASKS = ("mask", "inpainting")
_VECTOR = pa.list_(pa.float32())
SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), *(pa.field(task, _VECTOR) for task in TASKS)])


@dataclass
class Features:
    """The features of a shard.

    vectors: task ("mask", "inpainting") -> key -> float32 [D], in input order, of the rows that its judge scored.
    kinds: task -> what made them: "features" (family), "dim", "backbone", "backbone_sha256", and "head", which scored.
    """

    vectors: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: {task: {} for task in TASKS})
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def heads(self) -> dict[str, str]:
        """task -> name of the head that scored."""
        return {task: kind["head"] for task, kind in self.kinds.items()}


def write_features(features: Features, keys: Iterable[str], metadata: Mapping[str, Any]) -> bytes:
    """Return a parquet file (zstd) of the features, lines in the order of ``keys``, those without any left out.

    The same features give the same bytes. ``metadata`` (JSON types) goes under the schema's key ``l2i``, with the
    kinds. Raises ValueError where vectors of one task differ in length.
    """
    dims = {task: {len(vector) for vector in features.vectors[task].values()} for task in TASKS}
    if any(len(found) > 1 for found in dims.values()):
        raise ValueError(f"features of one task differ in length: {dims}")
    lines = [key for key in keys if any(key in features.vectors[task] for task in TASKS)]
    columns = [pa.array(lines, pa.string())] + [_column(features.vectors[task], lines) for task in TASKS]
    note = json.dumps({**metadata, "kinds": features.kinds}, sort_keys=True, ensure_ascii=True).encode()
    table = pa.table(columns, schema=SCHEMA.with_metadata({METADATA_KEY: note}))
    sink = pa.BufferOutputStream()
    split = {f"{task}.list.element": "BYTE_STREAM_SPLIT" for task in TASKS}  # measured: 440 bytes a line, plain 510
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, column_encoding=split)
    return sink.getvalue().to_pybytes()


def read_features(url: str) -> Features:
    """Read a shard's features. Raises OutputError where the file is missing or damaged."""
    with open_read(url, OutputError, cache="none") as file:
        try:
            table = pq.read_table(file, use_threads=False)
            if not table.schema.equals(SCHEMA):
                raise ValueError("its columns are not key, mask and inpainting")
            kinds = json.loads((table.schema.metadata or {})[METADATA_KEY])["kinds"]
            keys = table["key"].to_pylist()
            return Features({task: _vectors(keys, table[task]) for task in TASKS}, kinds)
        except L2IError:
            raise
        except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
            raise OutputError(
                f"the features {url} cannot be read: {' '.join(str(problem).split())[:200]}. "
                "Delete the shard's manifest and run the build again: it is made anew."
            ) from problem


def _column(vectors: Mapping[str, np.ndarray], lines: list[str]) -> pa.Array:
    lengths = [len(vectors.get(key, ())) for key in lines]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = [np.asarray(vectors[key], np.float32) for key in lines if key in vectors]
    values = np.concatenate(present) if present else np.empty(0, np.float32)
    return pa.ListArray.from_arrays(offsets, pa.array(values, pa.float32())).cast(_VECTOR)


def _vectors(keys: list[str], column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    array = column.combine_chunks()
    if array.null_count or array.values.null_count:
        raise ValueError("it holds nulls")
    offsets, values = array.offsets.to_numpy(), array.values.to_numpy()
    spans = zip(keys, offsets[:-1], offsets[1:], strict=True)
    return {key: values[start:stop] for key, start, stop in spans if stop > start}
