"""Commit: one shard's files, whole or absent, the manifest last, the same bytes whoever does it."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from samples import members_of, preview, processed, row_of, small

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import OutputError
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import ShardManifest, finished, read_manifest
from l2i_builder.output.shards import open_triplets, read_members
from l2i_builder.sample import Batch, Reason, Row, key_fraction

STATS = {"attempt": 2, "start_time": 100.0, "end_time": 160.5, "host": "a"}


def rows_of(count: int, shard: int = 0) -> list[Row]:
    return [row_of(i, shard) for i in range(count)]


def commit(out: Path | str, batches: list[Batch], config: Config | None = None, **stats: Any) -> ShardManifest:
    rows = [row for batch in batches for row in batch.rows]
    shard = InputShard(rows[0].shard, (), {}, len(rows))
    return commit_shard(str(out), shard, config or small("", out), batches, STATS | stats, "run")


def ten(out: Path | str, **keys: Any) -> list[Batch]:
    """Batches of ten rows: 3 is a bad mask, 5 a 404, 7 an audited bad inpainting, the others are kept."""
    return processed(rows_of(10), small("", out, **keys))


def content(out: Path | str) -> dict[str, bytes]:
    """All files but the stats, which hold times."""
    return {
        f"{folder}/{name}": storage.read_bytes(storage.join(str(out), folder, name))
        for folder in ("shards", "audit", "previews", "features", "ledger", "manifests")
        for name in storage.list_names(storage.join(str(out), folder))
    }


def file_names(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_a_shard_leaves_seven_files_and_no_others(tmp_path: Path) -> None:
    commit(tmp_path, ten(tmp_path))
    assert file_names(tmp_path) == [
        "audit/00000.tar",
        "features/00000.parquet",
        "ledger/00000.parquet",
        "manifests/00000.json",
        "previews/00000.tar",
        "shards/00000.tar",
        "stats/00000.json",
    ]
    assert finished(str(tmp_path)) == {0}


def test_the_tar_holds_the_kept_rows_and_the_audit_tar_the_audited_refused_ones(tmp_path: Path) -> None:
    commit(tmp_path, ten(tmp_path))
    keys = [row.key for row in rows_of(10)]
    assert [t.key for t in open_triplets(str(tmp_path / "shards/00000.tar"))] == [
        keys[i] for i in (0, 1, 2, 4, 6, 8, 9)
    ]
    assert [t.key for t in open_triplets(str(tmp_path / "audit/00000.tar"))] == [keys[7]]
    assert [key for key, _ in read_members(str(tmp_path / "previews/00000.tar"))] == [
        key for i, key in enumerate(keys) if i != 5
    ]


def test_the_ledger_has_every_row_whatever_became_of_it(tmp_path: Path) -> None:
    commit(tmp_path, ten(tmp_path))
    table = read_ledger(str(tmp_path / "ledger/00000.parquet"))
    assert table["key"].to_pylist() == [row.key for row in rows_of(10)]
    reasons = ["", "", "", "mask_rejected", "", "http_4xx", "", "inpainting_rejected", "", ""]
    assert table["reason"].to_pylist() == reasons
    scores = {"http_4xx": -1.0, "mask_rejected": 0.25}
    assert table["mask_score"].to_pylist() == [scores.get(reason, 0.75) for reason in reasons]


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    manifest = commit(tmp_path, ten(tmp_path))
    assert read_manifest(str(tmp_path), 0) == manifest
    assert (manifest.shard, manifest.rows, manifest.kept, manifest.run_digest) == (0, 10, 7, "run")
    assert manifest.reasons == {"http_4xx": 1, "inpainting_rejected": 1, "mask_rejected": 1}
    assert sorted(manifest.files) == [
        "audit/00000.tar",
        "features/00000.parquet",
        "ledger/00000.parquet",
        "previews/00000.tar",
        "shards/00000.tar",
    ]
    for name, entry in manifest.files.items():
        data = (tmp_path / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert entry.get("md5", "") == (hashlib.md5(data).hexdigest() if name.endswith(".tar") else "")


def test_stats_have_img2dataset_s_keys_and_the_seconds_of_each_stage(tmp_path: Path) -> None:
    commit(tmp_path, ten(tmp_path))
    stats = json.loads((tmp_path / "stats/00000.json").read_bytes())
    assert stats == {
        "count": 10,
        "successes": 7,
        "failed_to_download": 1,
        "failed_to_resize": 0,
        "start_time": 100.0,
        "end_time": 160.5,
        "duration": 60.5,
        "status_dict": {"http_4xx": 1, "inpainting_rejected": 1, "mask_rejected": 1, "success": 7},
        "seconds": {"segment": 1.5},
        "images": {"segment": 9},
        "attempt": 2,
        "host": "a",
    }


def test_decoding_failures_and_rejections_are_img2dataset_s_failures_to_resize(tmp_path: Path) -> None:
    batch = Batch(rows_of(4), np.empty(0, np.int64))
    for row, reason in zip(
        batch.rows, (Reason.DECODE_ERROR, Reason.TOO_SMALL, Reason.TIMEOUT, Reason.UNSAFE), strict=True
    ):
        row.refuse(reason, {Reason.TIMEOUT: "fetch", Reason.UNSAFE: "ingest"}.get(reason, "decode"))
    commit(tmp_path, [batch])
    stats = json.loads((tmp_path / "stats/00000.json").read_bytes())
    assert (stats["failed_to_download"], stats["failed_to_resize"], stats["successes"]) == (1, 2, 0)


@pytest.mark.parametrize("place", ["local", "s3", "memory"])
def test_the_same_rows_give_the_same_bytes_whatever_the_attempt_and_place(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = str(tmp_path / "out")
    if place != "local":
        out = str(request.getfixturevalue("s3_folder")) if place == "s3" else f"memory://{uuid4().hex}"
    commit(tmp_path / "first", ten(out), attempt=1, start_time=1.0)
    commit(out, processed(rows_of(10), small("", out), batch_rows=3), attempt=7, start_time=2.0)
    assert content(out) == content(tmp_path / "first")
    commit(out, ten(out))
    assert content(out) == content(tmp_path / "first")


def test_a_shard_that_keeps_nothing_is_finished_without_a_tar(tmp_path: Path) -> None:
    batch = Batch(rows_of(3), np.empty(0, np.int64))
    for row in batch.rows:
        row.refuse(Reason.TIMEOUT, "fetch")
    manifest = commit(tmp_path, [batch])
    assert file_names(tmp_path) == ["ledger/00000.parquet", "manifests/00000.json", "stats/00000.json"]
    assert (manifest.kept, manifest.reasons) == (0, {"timeout": 3})
    assert finished(str(tmp_path)) == {0}


def test_a_commit_that_keeps_less_than_an_earlier_one_leaves_nothing_of_it(tmp_path: Path) -> None:
    commit(tmp_path, ten(tmp_path))
    batch = Batch(rows_of(10), np.empty(0, np.int64))
    for row in batch.rows:
        row.refuse(Reason.TIMEOUT, "fetch")
    commit(tmp_path, [batch])
    assert file_names(tmp_path) == ["ledger/00000.parquet", "manifests/00000.json", "stats/00000.json"]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("fails", ["shards", "audit", "previews", "ledger", "stats", "manifests"])
def test_a_commit_that_breaks_off_anywhere_is_not_finished_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, again: bool
) -> None:
    commit(tmp_path / "whole", ten(tmp_path))
    if again:
        commit(tmp_path / "out", ten(tmp_path))
    create = storage.create

    def failing(url: str, *given: Any) -> Any:
        if f"/{fails}/" in url:
            raise OutputError("disk full")
        return create(url, *given)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "create", failing)
        with pytest.raises(OutputError, match="disk full"):
            commit(tmp_path / "out", ten(tmp_path))
    assert finished(str(tmp_path / "out")) == set()
    commit(tmp_path / "out", ten(tmp_path))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("before", ["https://", "https://archive.test/http://", "https://cdn.test/?u=http%3A%2F%2F"])
def test_credentials_in_a_url_never_reach_the_output(tmp_path: Path, before: str) -> None:
    rows = rows_of(2)
    rows[0].url = rows[1].url = f"{before}user:hunter2@a.test/x.jpg"
    rows[1].refuse(Reason.URL_CREDENTIALS, "fetch")
    batch = Batch(rows, np.empty(0, np.int64))
    batch.triplets[rows[0].key] = members_of(rows[0], small("", tmp_path))
    commit(tmp_path, [batch])
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in written
    urls = read_ledger(str(tmp_path / "ledger/00000.parquet"))["url"].to_pylist()
    assert all("hunter2" not in url and url.endswith("@a.test/x.jpg") for url in urls)
    assert rows[0].url.startswith(f"{before}user:hunter2@")


@pytest.mark.parametrize("reason", [Reason.UNSAFE, Reason.OPTED_OUT])
def test_pixels_that_must_not_be_shown_are_never_written_even_in_the_audit_slice(
    tmp_path: Path, reason: Reason
) -> None:
    config = small("", tmp_path)
    row = row_of(0, audit=True)
    batch = Batch([row], np.empty(0, np.int64))
    batch.triplets[row.key], batch.previews[row.key] = members_of(row, config), preview(1)
    row.refuse(reason, "decode")
    commit(tmp_path, [batch])
    assert not list(tmp_path.rglob("*.tar"))


def test_a_key_that_comes_twice_is_kept_once(tmp_path: Path) -> None:
    rows = [row_of(0), row_of(1), row_of(0), row_of(0)]
    batches = []
    for index, row in enumerate(rows):
        row.index = index
        batch = Batch([row], np.empty(0, np.int64))
        batch.triplets[row.key] = members_of(row, small("", tmp_path), index)
        batch.previews[row.key] = preview(index)
        batches.append(batch)
    manifest = commit(tmp_path, batches)
    assert (manifest.kept, manifest.reasons) == (2, {"duplicate": 2})
    triplets = list(open_triplets(str(tmp_path / "shards/00000.tar")))
    assert [triplet.key for triplet in triplets] == [rows[0].key, rows[1].key]
    assert triplets[0].info["index"] == 0
    assert len(list(read_members(str(tmp_path / "previews/00000.tar")))) == 2


# batches that are not the shard's


def broken(change: str) -> list[Batch]:
    batches = processed(rows_of(10), small("", ""))
    if change == "a batch is missing":
        del batches[1]
    elif change == "a batch is there twice":
        batches.append(batches[0])
    elif change == "batches are swapped":
        batches[0], batches[1] = batches[1], batches[0]
    elif change == "a row of another shard":
        batches[2].rows[0].shard = 9
    elif change == "a kept row has no members":
        batches[0].triplets.clear()
    elif change == "a kept row lacks one member":
        del next(iter(batches[0].triplets.values()))["txt"]
    return batches


@pytest.mark.parametrize(
    "change",
    [
        "a batch is missing",
        "a batch is there twice",
        "batches are swapped",
        "a row of another shard",
        "a kept row has no members",
        "a kept row lacks one member",
    ],
)
def test_batches_that_are_not_exactly_the_shard_s_rows_are_refused_before_anything_is_written(
    tmp_path: Path, change: str
) -> None:
    with pytest.raises(ValueError, match="shard 00000"):
        commit_shard(str(tmp_path), InputShard(0, (), {}, 10), small("", tmp_path), broken(change), STATS, "run")
    assert list(tmp_path.iterdir()) == []


# previews


def shown(tmp_path: Path, rows: list[Row], rejected: int, kept: int) -> list[Row]:
    config = small("", tmp_path, previews={"rejected_per_shard": rejected, "kept_per_shard": kept})
    batch = Batch(rows, np.empty(0, np.int64))
    picture = members_of(row_of(), config)
    for row in rows:
        batch.previews[row.key] = preview(0)
        if row.kept:
            batch.triplets[row.key] = picture
    commit(tmp_path, [batch], config)
    if not (tmp_path / "previews/00000.tar").exists():
        return []
    by_key = {row.key: row for row in rows}
    return [by_key[key] for key, _ in read_members(str(tmp_path / "previews/00000.tar"))]


def mixed(counts: dict[Reason | None, int]) -> list[Row]:
    rows = rows_of(sum(counts.values()))
    reasons = [reason for reason, count in counts.items() for _ in range(count)]
    for row, reason in zip(rows, reasons, strict=True):
        if reason:
            row.refuse(reason, "x")
    return rows


def test_previews_are_capped_and_every_reason_gets_its_share(tmp_path: Path) -> None:
    rows = mixed({None: 40, Reason.MASK_REJECTED: 60, Reason.INPAINTING_REJECTED: 50, Reason.MASK_EMPTY: 3})
    counts = Counter(row.reason for row in shown(tmp_path, rows, rejected=20, kept=7))
    assert counts == {"": 7, "mask_rejected": 8, "inpainting_rejected": 9, "mask_empty": 3}


def test_previews_are_those_with_the_lowest_draws_in_input_order(tmp_path: Path) -> None:
    rows = mixed({None: 30, Reason.MASK_REJECTED: 30})
    drawn = shown(tmp_path, rows, rejected=5, kept=4)
    assert drawn == sorted(drawn, key=lambda row: row.index)
    for part, count in ((rows[:30], 4), (rows[30:], 5)):
        lowest = sorted(part, key=lambda row: key_fraction(row.key, "preview"))[:count]
        assert {row.key for row in drawn if row in part} == {row.key for row in lowest}


def test_no_previews_are_stored_where_none_are_wanted(tmp_path: Path) -> None:
    assert shown(tmp_path, mixed({None: 3, Reason.MASK_REJECTED: 3}), rejected=0, kept=0) == []


def test_previews_are_webp(tmp_path: Path) -> None:
    commit(tmp_path, ten(tmp_path))
    for _, members in read_members(str(tmp_path / "previews/00000.tar")):
        assert Image.open(io.BytesIO(members["webp"])).format == "WEBP"
