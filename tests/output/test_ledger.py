"""The ledger: every row, every field, plain values, the same bytes for the same rows."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import row_of

from l2i_builder.errors import OutputError
from l2i_builder.output.ledger import (
    ADDED,
    SCHEMA,
    ledger_metadata,
    plain,
    read_ledger,
    schema,
    to_row,
    write_ledger,
)
from l2i_builder.sample import UNKNOWN, Peel, PeelEnd, Reason, Row


def stored(tmp_path: Path, *rows: Row, **metadata: Any) -> str:
    path = tmp_path / "ledger.parquet"
    path.write_bytes(write_ledger(rows, metadata))
    return str(path)


def test_it_has_a_typed_column_for_every_field_of_a_row_and_no_nulls() -> None:
    known = {field.name: str(field.type) for field in fields(Row) if field.name not in ("layers", "peel_end", "peels")}
    assert SCHEMA.names == list(known)
    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    assert [field.type for field in SCHEMA] == [kinds[kind] for kind in known.values()]
    assert not any(field.nullable for field in SCHEMA)


def test_further_objects_have_columns_only_where_they_are_looked_for(tmp_path: Path) -> None:
    assert schema(2).equals(SCHEMA)
    peeled = row_of(1, layers=3, peel_end=PeelEnd.MASK_REJECTED.value)
    peeled.peels = [Peel(0.25, 0.5, 1, 0.75, 0.875), Peel(0.125, 0.25, 2, 0.0625)]
    rows = [row_of(0), peeled, row_of(2, layers=2, peel_end=PeelEnd.STAGE_ERROR.value)]
    (tmp_path / "a.parquet").write_bytes(write_ledger(rows, {}, layers=4))
    table = read_ledger(str(tmp_path / "a.parquet"))
    assert table.schema.equals(schema(4))
    assert table.column_names[len(SCHEMA.names) :][:4] == ["layers", "peel_end", "mask_area_2", "hole_area_2"]
    assert table["inpainting_score_3"].to_pylist() == [-1.0, -1.0, -1.0]
    assert not any(field.nullable for field in table.schema)
    assert [to_row(line) for line in table.to_pylist()] == rows


def test_rows_come_back_as_they_were_in_order(tmp_path: Path) -> None:
    rows = [row_of(i, shard=3, width=640, aesthetic=6.5, mask_score=0.25, audit=i == 1) for i in range(4)]
    rows[2].refuse(Reason.HTTP_4XX, "fetch", "404 Not Found")
    lines = read_ledger(stored(tmp_path, *rows)).to_pylist()
    assert [Row(**line) for line in lines] == rows
    assert lines[2]["reason"] == "http_4xx"
    assert lines[2]["verdict"] == "failed"


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = [row_of(i) for i in range(500)]
    assert write_ledger(rows, {"b": 1, "a": [2]}) == write_ledger(iter(rows), {"a": [2], "b": 1})
    assert write_ledger(rows, {}) != write_ledger(rows[::-1], {})


def test_metadata_travel_along(tmp_path: Path) -> None:
    assert ledger_metadata(read_ledger(stored(tmp_path, row_of(), shard=3, run="é"))) == {"shard": 3, "run": "é"}


def test_single_columns_can_be_read(tmp_path: Path) -> None:
    table = read_ledger(stored(tmp_path, row_of(0), row_of(1)), ["key", "reason"])
    assert table.column_names == ["key", "reason"]
    assert table["key"].to_pylist() == [row_of(0).key, row_of(1).key]


def test_an_empty_ledger_is_one(tmp_path: Path) -> None:
    table = read_ledger(stored(tmp_path))
    assert (table.num_rows, table.schema.names) == (0, SCHEMA.names)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("aesthetic", math.nan, -1.0),
        ("aesthetic", math.inf, -1.0),
        ("aesthetic", np.float32(0.5), 0.5),
        ("aesthetic", 6, 6.0),
        ("status", np.int64(200), 200),
        ("status", math.nan, UNKNOWN),
        ("bytes", 2**40, 2**40),
        ("bytes", 2**53 + 1, 2**53 + 1),
        ("audit", np.True_, True),
        ("reason", Reason.UNSAFE, "unsafe"),
        ("caption", "a\ud800b", "a?b"),
        ("caption", "nul \0 🙂", "nul \0 🙂"),
        ("detail", "\x1b[31mred\nline", "\x1b[31mred\nline"),
    ],
)
def test_values_are_plain_and_finite(tmp_path: Path, field: str, value: Any, expected: Any) -> None:
    row = row_of()
    setattr(row, field, value)
    read = read_ledger(stored(tmp_path, row)).to_pylist()[0][field]
    assert (read, type(read)) == (expected, type(expected))
    assert plain(row)[field] == expected


def test_a_damaged_ledger_is_an_output_error_that_names_it(tmp_path: Path) -> None:
    whole = write_ledger([row_of(i) for i in range(200)], {})
    path = tmp_path / "ledger.parquet"
    for size in range(0, len(whole), 211):
        path.write_bytes(whole[:size])
        with pytest.raises(OutputError, match=r"ledger\.parquet"):
            read_ledger(str(path))


def test_a_missing_ledger_or_column_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        read_ledger(str(tmp_path / "absent.parquet"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    assert read_ledger(str(tmp_path / "other.parquet")).column_names == ["x"]


def test_other_tools_read_it(tmp_path: Path) -> None:
    import pandas

    frame = pandas.read_parquet(stored(tmp_path, row_of(0), row_of(1)))
    assert list(frame["url"]) == [row_of(0).url, row_of(1).url]


def test_a_ledger_of_an_earlier_version_is_read_with_what_its_rows_would_have(tmp_path: Path) -> None:
    (tmp_path / "now.parquet").write_bytes(write_ledger([row_of(1)], {"shard": 3}))
    now = read_ledger(str(tmp_path / "now.parquet"))
    pq.write_table(now.drop_columns(list(ADDED)), tmp_path / "old.parquet")
    old = read_ledger(str(tmp_path / "old.parquet"))
    assert old.equals(now)
    assert ledger_metadata(old) == {"shard": 3}
    assert read_ledger(str(tmp_path / "old.parquet"), ["nsfw_score", "key"]).column_names == ["nsfw_score", "key"]
