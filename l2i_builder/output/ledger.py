"""The ledger: one parquet file a shard, one line for every input row, whatever became of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder.config import MAX_LAYERS
from l2i_builder.errors import OutputError
from l2i_builder.sample import UNKNOWN, Peel, Row
from l2i_builder.storage import read_bytes

METADATA_KEY = b"l2i"  # of the parquet schema; its value is JSON

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_FURTHER = {"layers": "int", "peel_end": "str"}
_KINDS: dict[str, str] = {
    field.name: str(field.type) for field in fields(Row) if field.name not in {*_FURTHER, "peels"}
}
_PEEL: dict[str, str] = {field.name: str(field.type) for field in fields(Peel)}


def schema(layers: int = 2) -> pa.Schema:
    """Return the schema of the ledgers of a run whose ``layers.count`` is so large.

    Above 2 it has a sample's ``layers`` and ``peel_end``, and ``mask_score_2`` ... of each further object.
    """
    kinds = {**_KINDS}
    if layers > 2:
        kinds |= _FURTHER | {f"{name}_{k}": kind for k in range(2, layers) for name, kind in _PEEL.items()}
    return pa.schema([pa.field(name, _TYPES[kind], nullable=False) for name, kind in kinds.items()])


SCHEMA = schema()

# Columns that ledgers of earlier versions lack, and what their rows have there.
ADDED: dict[str, Any] = {"nsfw_score": float(UNKNOWN)}


def write_ledger(rows: Iterable[Row], metadata: Mapping[str, Any], layers: int = 2) -> bytes:
    """Return a parquet file (zstd) of the rows in the given order; the same rows give the same bytes.

    ``metadata`` (JSON types) goes under the schema's key ``l2i``; layers: ``layers.count``.
    """
    columns: dict[str, list[Any]] = {name: [] for name in schema(layers).names}
    for row in rows:
        for name, value in plain(row, layers).items():
            columns[name].append(value)
    note = json.dumps(dict(metadata), sort_keys=True, ensure_ascii=True).encode()
    table = pa.table(columns, schema=schema(layers).with_metadata({METADATA_KEY: note}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=100_000)
    return sink.getvalue().to_pybytes()


def read_ledger(url: str, columns: Sequence[str] | None = None, encoded: Sequence[str] = ()) -> pa.Table:
    """Read a ledger, or only the named columns of it; those ``encoded`` as dictionaries, which is quicker to count.

    Raises OutputError where it is missing or damaged.
    """
    data = pa.BufferReader(read_bytes(url))  # one request: a ledger is small, and object stores answer slowly
    try:
        with pq.ParquetFile(data, read_dictionary=list(encoded)) as file:
            return _read(file, columns)
    except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
        raise OutputError(
            f"the ledger {url} cannot be read: {' '.join(str(problem).split())[:200]}. "
            "Delete the shard's manifest and run the build again: it is made anew."
        ) from problem


def _read(file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    """Read the columns that are there, and fill in those that ledgers of earlier versions lack."""
    there = file.schema_arrow.names
    order = SCHEMA.names if columns is None else list(columns)
    is_ledger = set(SCHEMA.names) <= set(there) | set(ADDED)
    added = [name for name in order if is_ledger and name in ADDED and name not in there]
    if columns is not None and (missing := set(columns) - set(there) - set(added)):
        raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    wanted = None if columns is None else [name for name in columns if name not in added]
    table = file.read(columns=wanted, use_threads=False)
    for name in added:
        field = SCHEMA.field(name)
        table = table.append_column(field, pa.array([ADDED[name]] * len(table), field.type))
    return table.select(order) if added else table


def ledger_metadata(table: pa.Table) -> dict[str, Any]:
    """Return what ``write_ledger`` was given as metadata."""
    return json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))


def plain(row: Row, layers: int = 2) -> dict[str, Any]:
    """Return a row's fields as plain finite values of the schema's types, in the schema's order.

    Lone surrogates become "?", numbers that are not finite ``UNKNOWN``: no reader can choke on them.
    """
    return {name: _plain(getattr(row, name), kind) for name, kind in _KINDS.items()} | further_facts(row, layers)


def further_facts(row: Row, layers: int) -> dict[str, Any]:
    """Return what is known of a row's further objects: {} unless layers (``layers.count``) is above 2."""
    if layers == 2:
        return {}
    facts = {name: _plain(getattr(row, name), kind) for name, kind in _FURTHER.items()}
    for number in range(2, layers):
        peel = row.peels[number - 2] if number - 2 < len(row.peels) else Peel()
        facts |= {f"{name}_{number}": _plain(getattr(peel, name), kind) for name, kind in _PEEL.items()}
    return facts


def to_row(line: Mapping[str, Any]) -> Row:
    """Return the row that a line of a ledger was written from; a line may lack columns that have a default."""
    row = Row(**{name: value for name, value in line.items() if name in _KINDS or name in _FURTHER})
    for number in range(2, MAX_LAYERS):
        names = [name for name in _PEEL if f"{name}_{number}" in line]
        row.peels.append(Peel(**{name: line[f"{name}_{number}"] for name in names}))
    while row.peels and row.peels[-1] == Peel():
        row.peels.pop()
    return row


def _plain(value: Any, kind: str) -> Any:
    if kind == "str":
        if type(value) is str and value.isascii():  # nearly all
            return value
        text = value.value if isinstance(value, Enum) else str(value)
        return text.encode("utf-8", "replace").decode()
    if kind == "bool":
        return bool(value)
    if kind == "int" and type(value) is int:
        return value
    if not math.isfinite(float(value)):
        value = UNKNOWN
    return float(value) if kind == "float" else int(value)
