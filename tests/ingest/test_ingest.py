"""Ingest: which rows a run has, and in which shards; how little is read to know it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from laion import laion, rows_of, write

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import MetadataError
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.sample import sample_key


def test_rows_are_packed_in_file_and_row_order_into_shards_that_span_files(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", laion(5, first=7))
    write(tmp_path / "a.parquet", laion(7, first=0))
    config = Config(metadata=str(tmp_path), ingest={"rows_per_shard": 5})
    plan = planning.plan(config)
    a, b = str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")
    spans = [[(span.path, span.start, span.stop) for span in shard.spans] for shard in plan.shards]
    assert spans == [[(a, 0, 5)], [(a, 5, 7), (b, 0, 3)], [(b, 3, 5)]]
    assert [(shard.number, shard.name, shard.rows) for shard in plan.shards] == [
        (0, "00000", 5),
        (1, "00001", 5),
        (2, "00002", 2),
    ]
    rows = [row for shard in plan.shards for row in planning.read_rows(shard, config)]
    assert [row.caption for row in rows] == [f"caption {i}" for i in range(12)]
    assert [(row.shard, row.index) for row in rows] == [(i // 5, i % 5) for i in range(12)]


def test_the_same_metadata_give_the_same_shards_and_keys_on_every_run_and_place(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        for part in range(3):
            write(tmp_path / folder / "sub" / f"{part}.parquet", laion(10, first=10 * part))
    plans = [planning.plan(Config(metadata=str(tmp_path / folder))) for folder in ("here", "here", "there")]
    assert plans[0].digest == plans[1].digest == plans[2].digest
    assert plans[0] == plans[1]
    assert [row.key for row in rows_of(tmp_path / "here")] == [row.key for row in rows_of(tmp_path / "there")]


@pytest.mark.parametrize(
    "change",
    [
        {"rows_per_shard": 7},
        {"limit": 29},
        {"columns": {"caption": "ALT"}},
    ],
)
def test_what_changes_the_rows_changes_the_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "a.parquet", laion(30, ALT=["x"] * 30))
    before = planning.plan(Config(metadata=str(tmp_path)))
    assert planning.plan(Config(metadata=str(tmp_path), ingest=change)).digest != before.digest


def test_a_changed_file_of_the_same_size_changes_the_digest(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(30, first=10), compression="none")
    before, size = planning.plan(Config(metadata=str(tmp_path))).digest, (tmp_path / "a.parquet").stat().st_size
    write(tmp_path / "a.parquet", laion(30, first=11), compression="none")
    assert (tmp_path / "a.parquet").stat().st_size == size
    assert planning.plan(Config(metadata=str(tmp_path))).digest != before


def test_keys_are_of_url_and_caption_and_do_not_move_with_position(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(4))
    before = {row.caption: row.key for row in rows_of(tmp_path)}
    write(tmp_path / "0.parquet", laion(3, first=100))
    after = {row.caption: row.key for row in rows_of(tmp_path)}
    assert before.items() <= after.items()
    assert before["caption 2"] == sample_key("http://a.test/2.jpg", "caption 2")


def test_the_plan_survives_its_json(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(30))
    plan = planning.plan(Config(metadata=str(tmp_path), ingest={"rows_per_shard": 7, "limit": 20}))
    again = InputPlan.from_json(plan.to_json())
    assert again == plan
    assert again.shards == plan.shards
    assert sum(shard.rows for shard in again.shards) == again.rows == 20


ENDLESS = b'{"columns": {}, "files": [], "rows": Infinity, "rows_per_shard": 1, "digest": ""}'


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"files": 1}', b"\xff\xfe", b"[" * 100_000, ENDLESS])
def test_a_damaged_plan_is_explained(damage: bytes) -> None:
    with pytest.raises(MetadataError, match=r"input\.json is damaged"):
        InputPlan.from_json(damage)


def test_a_plan_whose_numbers_were_edited_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(30))
    edited = planning.plan(Config(metadata=str(tmp_path))).to_json().replace(b'"rows": 30', b'"rows": 31')
    with pytest.raises(MetadataError, match="digest"):
        InputPlan.from_json(edited)


@pytest.mark.parametrize(("rows", "per_shard"), [(30, -20), (-1, 7), (10**15, 1)])
@pytest.mark.parametrize("consistent", [False, True], ids=["as edited", "with its digest computed anew"])
def test_numbers_that_no_run_has_do_not_keep_anybody_busy(
    tmp_path: Path, rows: int, per_shard: int, consistent: bool
) -> None:
    write(tmp_path / "a.parquet", laion(30))
    raw = json.loads(planning.plan(Config(metadata=str(tmp_path))).to_json())
    raw |= {"rows": rows, "rows_per_shard": per_shard}
    raw["files"][0]["rows"] = 10**15
    if consistent:
        raw["digest"] = planning._digest(raw["columns"], raw["files"], raw["rows"], per_shard)
    with pytest.raises(MetadataError, match=r"input\.json is damaged"):
        InputPlan.from_json(json.dumps(raw).encode())


@pytest.mark.parametrize(("limit", "rows"), [(1, 1), (5, 5), (8, 8), (12, 12), (99, 12)])
def test_limit_takes_only_the_first_rows(tmp_path: Path, limit: int, rows: int) -> None:
    write(tmp_path / "a.parquet", laion(7))
    write(tmp_path / "b.parquet", laion(5, first=7))
    captions = [row.caption for row in rows_of(tmp_path, limit=limit, rows_per_shard=4)]
    assert captions == [f"caption {i}" for i in range(rows)]


def test_a_file_a_folder_and_a_glob_are_metadata(tmp_path: Path) -> None:
    write(tmp_path / "a-1.parquet", laion(2))
    write(tmp_path / "sub" / "a-2.parquet", laion(3))
    write(tmp_path / "b.parquet", laion(4))
    write(tmp_path / "_delta" / "checkpoint.parquet", {"x": [1]})
    write(tmp_path / ".hidden.parquet", {"x": [1]})
    (tmp_path / "README.md").write_text("about")
    assert len(rows_of(tmp_path / "b.parquet")) == 4
    assert len(rows_of(tmp_path)) == 9
    assert len(rows_of(tmp_path / "a-*.parquet")) == 2
    assert len(rows_of(tmp_path / "**" / "a-*.parquet")) == 5


def test_files_without_rows_are_fine_among_others(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(0, URL=pa.array([], pa.string()), TEXT=pa.array([], pa.string())))
    write(tmp_path / "b.parquet", laion(3))
    assert len(rows_of(tmp_path, rows_per_shard=2)) == 3


@pytest.mark.parametrize("place", ["s3", "memory"])
def test_metadata_may_lie_in_an_object_store(place: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue("s3_folder")) if place == "s3" else f"memory://{uuid4().hex}"
    for part in range(3):
        write(storage.join(folder, "meta", f"{part}.parquet"), laion(10, first=10 * part), row_group_size=4)
    captions = [f"caption {i}" for i in range(30)]
    for metadata in (storage.join(folder, "meta"), storage.join(folder, "meta", "*.parquet")):
        assert [row.caption for row in rows_of(metadata, rows_per_shard=7)] == captions
    assert [row.caption for row in rows_of(storage.join(folder, "meta", "1.parquet"))] == captions[10:20]


def test_img2dataset_shards_are_planned_a_tar_at_a_time(tmp_path: Path) -> None:
    for number, rows in enumerate((3, 5)):
        write(tmp_path / f"{number:05d}.parquet", laion(rows, key=[f"{i:09d}" for i in range(rows)]))
        (tmp_path / f"{number:05d}.tar").write_bytes(b"")
    plan = planning.plan(Config(metadata=str(tmp_path), source="img2dataset_shards"))
    assert [shard.rows for shard in plan.shards] == [3, 5]
    assert [planning.tar_of(shard.spans[0].path) for shard in plan.shards] == [
        str(tmp_path / "00000.tar"),
        str(tmp_path / "00001.tar"),
    ]


def test_img2dataset_metadata_without_their_tar_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "00000.parquet", laion(3))
    with pytest.raises(MetadataError, match=r"00000\.tar.*source: urls"):
        planning.plan(Config(metadata=str(tmp_path), source="img2dataset_shards"))


# what cannot be planned


def test_no_parquet_no_path_and_no_rows_are_explained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.csv").write_text("url,text")
    write(tmp_path / "rows" / "a.parquet", laion(0, URL=pa.array([], pa.string()), TEXT=pa.array([], pa.string())))
    for folder in ("empty", "other", "absent", "*.json"):
        with pytest.raises(MetadataError, match="no parquet file"):
            rows_of(tmp_path / folder)
    with pytest.raises(MetadataError, match="no rows"):
        rows_of(tmp_path / "rows")
    with pytest.raises(MetadataError, match="not set"):
        rows_of("")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"url,text\n" * 9, b"PAR1" + b"\0" * 20 + b"\xff\xff\xff\x7fPAR1"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.parquet").write_bytes(content)
    with pytest.raises(MetadataError, match=r"broken\.parquet"):
        rows_of(tmp_path)


def test_every_way_to_cut_a_parquet_off_is_explained(tmp_path: Path) -> None:
    write(tmp_path / "whole.parquet", laion(50))
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "whole.parquet").unlink()
    for size in range(0, len(whole), 97):
        (tmp_path / "cut.parquet").write_bytes(whole[:size])
        with pytest.raises(MetadataError, match=r"cut\.parquet"):
            rows_of(tmp_path)


def test_damage_inside_a_parquet_gives_a_metadata_error_or_rows_but_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(200))
    whole = (tmp_path / "a.parquet").read_bytes()
    outcomes = set()
    for place in range(4, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place : place + 8] = bytes(byte ^ 0xFF for byte in damaged[place : place + 8])
        (tmp_path / "a.parquet").write_bytes(damaged)
        try:
            outcomes.add(len(rows_of(tmp_path)))
        except MetadataError:
            outcomes.add(-1)
    assert -1 in outcomes


def test_a_file_that_changed_or_went_after_planning_is_explained(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(30))
    config = Config(metadata=str(tmp_path))
    shard = planning.plan(config).shards[0]
    write(tmp_path / "a.parquet", laion(20))
    with pytest.raises(MetadataError, match="20 rows"):
        planning.read_rows(shard, config)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(MetadataError, match=r"a\.parquet"):
        planning.read_rows(shard, config)


# how much is read


class Reads:
    """Watches what is read of files: bytes in all, and the most at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = self.largest = 0
        opened = storage.open_read

        def open_read(*arguments: Any, **options: Any) -> Any:
            file = opened(*arguments, **options)

            def read(size: int = -1) -> bytes:
                data: bytes = file.read(size)
                self.bytes, self.largest = self.bytes + len(data), max(self.largest, len(data))
                return data

            return pa.PythonFile(Counted(file, read), mode="r")

        monkeypatch.setattr(storage, "open_read", open_read)


class Counted:
    def __init__(self, file: Any, read: Any) -> None:
        self.file, self.read = file, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_reading_a_shard_touches_its_row_groups_and_columns_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = [uuid4().hex * 200 for _ in range(2000)]
    write(tmp_path / "a.parquet", laion(2000, embedding=noise), row_group_size=100, compression="none")
    size = (tmp_path / "a.parquet").stat().st_size
    assert size > 10_000_000
    config = Config(metadata=str(tmp_path), ingest={"rows_per_shard": 100})
    shard = planning.plan(config).shards[7]
    reads = Reads(monkeypatch)
    assert [row.caption for row in planning.read_rows(shard, config)] == [f"caption {i}" for i in range(700, 800)]
    assert 0 < reads.bytes < 200_000


def test_a_huge_row_group_is_streamed_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "READ_BUFFER", 2**16)
    captions = [f"{i:07d} " + "word " * 60 for i in range(20_000)]
    pages = {"compression": "none", "data_page_size": 2**14, "write_batch_size": 64, "use_dictionary": False}
    write(tmp_path / "a.parquet", laion(20_000, TEXT=captions), row_group_size=20_000, **pages)
    config = Config(metadata=str(tmp_path), ingest={"rows_per_shard": 100})
    shard = planning.plan(config).shards[90]
    reads = Reads(monkeypatch)
    rows = planning.read_rows(shard, config)
    assert [row.caption for row in rows] == captions[9000:9100]
    assert 0 < reads.largest < 2**18  # the captions alone are 6 MB
    assert reads.bytes < (tmp_path / "a.parquet").stat().st_size


def test_planning_reads_footers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = [uuid4().hex * 200 for _ in range(500)]
    for part in range(3):
        write(tmp_path / f"{part}.parquet", laion(500, embedding=noise), row_group_size=10, compression="none")

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("planning opened a file to stream it")

    monkeypatch.setattr(storage, "open_read", forbidden)
    sizes = []
    fs_type = type(storage.filesystem(str(tmp_path))[0])
    plain = fs_type.cat_file

    def counted(self: Any, *arguments: Any, **options: Any) -> bytes:
        data: bytes = plain(self, *arguments, **options)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(fs_type, "cat_file", counted)
    assert planning.plan(Config(metadata=str(tmp_path))).rows == 1500
    assert sum(sizes) < 3 * 2 * planning.FOOTER_GUESS


def test_a_footer_longer_than_the_first_guess_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "FOOTER_GUESS", 100)
    write(tmp_path / "a.parquet", laion(500), row_group_size=5)
    assert len(rows_of(tmp_path)) == 500


def test_shard_names_grow_beyond_five_digits() -> None:
    shard = planning.InputShard(123_456, (), {}, 0)
    assert shard.name == "123456"
