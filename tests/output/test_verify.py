"""Verify: a finished run has no findings; every kind of damage has one that names the file and says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from damage import about, change_manifest, findings
from laion import laion, write
from samples import finished_run, noise, processed, small

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.ingest import planning
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.output.shards import wids_index
from l2i_builder.output.verify import verify


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 25 rows in three shards."""
    folder = tmp_path_factory.mktemp("template")
    finished_run(folder / "metadata", folder / "out")
    return folder / "out"


@pytest.fixture
def out(template: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(template, tmp_path / "out"))


# a good run


@pytest.mark.parametrize("deep", [False, True])
def test_a_finished_run_has_no_findings(template: Path, deep: bool) -> None:
    assert findings(template, deep) == []


def test_a_finished_run_in_an_object_store_has_no_findings(s3_folder: str, tmp_path: Path) -> None:
    finished_run(tmp_path, f"{s3_folder}/out")
    assert findings(f"{s3_folder}/out") == []


def test_progress_is_told_shard_by_shard(template: Path) -> None:
    told: list[tuple[int, int]] = []
    verify(str(template), False, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_shard_that_keeps_nothing_is_fine(tmp_path: Path) -> None:
    write(tmp_path / "metadata/a.parquet", laion(5) | {"punsafe": [0.9] * 5})
    config = small(tmp_path / "metadata", tmp_path / "out")
    commit_run(config)
    assert findings(config.out) == []


def commit_run(config: Config) -> None:
    """Commit a run whose rows go no further than ingest."""
    from l2i_builder.sample import Batch

    plan = planning.plan(config)
    run = RunManifest.of(config, plan.digest, {})
    claim(config.out, run)
    storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
    for shard in plan.shards:
        rows = planning.read_rows(shard, config)
        commit_shard(config.out, shard, config, [Batch(rows, None)], {}, run.digest)  # type: ignore[arg-type]
    storage.write_bytes(storage.join(config.out, "index.json"), wids_index(config.out))


def test_files_of_publishing_belong_there(out: Path) -> None:
    for name in ("README.md", "SHA256SUMS", "croissant.json", "report.html", "report.json"):
        (out / name).write_text("x")
    assert findings(out) == []


# the run's own files


@pytest.mark.parametrize("name", ["run.json", "input.json"])
@pytest.mark.parametrize("content", [None, b"", b"null", b"[" * 100_000, b"\xff\x00"])
def test_without_its_run_or_input_nothing_can_be_checked(out: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (out / name).unlink()
    else:
        (out / name).write_bytes(content)
    assert list(about(findings(out))) == [name]


def test_an_empty_or_absent_folder_is_a_finding(tmp_path: Path) -> None:
    assert set(about(findings(tmp_path))) == {"run.json", "input.json"}
    assert set(about(findings(tmp_path / "absent"))) == {"run.json", "input.json"}


def test_the_input_of_another_run_is_found(out: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "metadata", tmp_path / "other", rows=26)
    shutil.copy(tmp_path / "other/input.json", out / "input.json")
    assert "not the input that run.json names" in about(findings(out))["input.json"]


def test_unfinished_shards_are_listed(out: Path) -> None:
    (out / "manifests/00000.json").unlink()
    (out / "manifests/00002.json").unlink()
    found = about(findings(out))
    assert found["manifests"] == "2 of 3 shards are not finished: 00000, 00002\n"
    assert set(found) == {"manifests", "index.json"}


def test_a_manifest_of_a_shard_that_the_input_has_not_is_found(out: Path) -> None:
    shutil.copy(out / "manifests/00002.json", out / "manifests/00077.json")
    assert "no such shard" in about(findings(out))["manifests/00077.json"]


def test_shards_that_an_interrupted_retry_left_are_listed(out: Path) -> None:
    (out / "pending/manifests").mkdir(parents=True)
    shutil.copy(out / "manifests/00002.json", out / "pending/manifests/00002.json")
    assert about(findings(out)) == {"pending": "1 shards of an interrupted retry are not in their place yet: 00002\n"}


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_an_index_that_is_not_of_these_shards_is_found(out: Path, content: bytes | None) -> None:
    if content is None:
        (out / "index.json").unlink()
    else:
        (out / "index.json").write_bytes(content)
    assert list(about(findings(out))) == ["index.json"]


# manifests


@pytest.mark.parametrize("content", [b"", b"null", b'{"shard": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_manifest_is_found(out: Path, content: bytes) -> None:
    (out / "manifests/00001.json").write_bytes(content)
    assert set(about(findings(out))) == {"manifests/00001.json", "index.json", "input.json"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 9}, "names 9, the input has 10"),
        ({"kept": 8}, "accounts for 11 rows"),
        ({"reasons": {}}, "accounts for 7 rows"),
        ({"shard": 2}, "manifest of shard 2"),
        ({"run_digest": "0" * 64}, "made by another run"),
    ],
)
def test_a_manifest_whose_numbers_are_wrong_is_found(out: Path, change: dict[str, Any], words: str) -> None:
    change_manifest(out, lambda data: data.update(change))
    assert words in about(findings(out))["manifests/00001.json"]


def test_a_manifest_that_lists_files_elsewhere_is_found_and_they_are_not_touched(out: Path) -> None:
    entry = {"bytes": 1, "sha256": "0" * 64, "md5": "0" * 32}
    change_manifest(out, lambda data: data["files"].update({"../../secret.tar": entry}))
    found = about(findings(out))
    assert list(found) == ["manifests/00001.json"]
    assert "../../secret.tar" in found["manifests/00001.json"]


def test_a_tar_or_ledger_that_the_manifest_does_not_list_is_found(out: Path) -> None:
    for name in ("audit/00001.tar", "ledger/00001.parquet", "shards/00001.tar"):
        change_manifest(out, lambda data, name=name: data["files"].pop(name))
    found = about(findings(out))
    assert "does not list this tar" in found["audit/00001.tar"]
    assert "does not list ledger/00001.parquet" in found["manifests/00001.json"]
    assert "keeps 7 samples but lists no tar" in found["shards/00001.tar"]


# files


FILES = ["shards/00001.tar", "audit/00001.tar", "previews/00001.tar", "ledger/00001.parquet", "stats/00001.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(out: Path, name: str) -> None:
    (out / name).unlink()
    assert name in about(findings(out))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found(out: Path, name: str, share: float) -> None:
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[: int(len(data) * share)])
    assert name in about(findings(out))


@pytest.mark.parametrize("name", [name for name in FILES if "stats" not in name])
def test_one_flipped_bit_anywhere_is_found(out: Path, name: str) -> None:
    whole = (out / name).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 12)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (out / name).write_bytes(damaged)
        assert name in about(findings(out)), f"byte {place}"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"count": 3}', b"\xff", b"[" * 100_000])
def test_damaged_stats_are_found(out: Path, content: bytes) -> None:
    (out / "stats/00001.json").write_bytes(content)
    assert list(about(findings(out))) == ["stats/00001.json"]


def test_foreign_files_and_leftovers_are_told_but_are_no_damage(out: Path) -> None:
    for name in ("notes.txt", "shards/extra.tar", "shards/00099.tar", "ledger/1.parquet", "previews/.x.tar.1-a.tmp"):
        (out / name).write_bytes(b"x")
    found = findings(out)
    assert sorted(finding.file for finding in found) == [
        "ledger/1.parquet",
        "notes.txt",
        "previews/.x.tar.1-a.tmp",
        "shards/00099.tar",
        "shards/extra.tar",
    ]
    assert not any(finding.serious for finding in found)
    assert "killed" in about(found)["previews/.x.tar.1-a.tmp"]


def test_a_sample_kept_by_two_shards_is_told_but_is_no_damage(tmp_path: Path) -> None:
    columns = laion(20)
    columns["URL"][14], columns["TEXT"][14] = columns["URL"][1], columns["TEXT"][1]
    write(tmp_path / "metadata/a.parquet", columns)
    config = small(tmp_path / "metadata", tmp_path / "out")
    plan = planning.plan(config)
    run = RunManifest.of(config, plan.digest, {})
    claim(config.out, run)
    storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
    for shard in plan.shards:
        batches = processed(planning.read_rows(shard, config), config)
        commit_shard(config.out, shard, config, batches, {}, run.digest)
    storage.write_bytes(storage.join(config.out, "index.json"), wids_index(config.out))
    (finding,) = findings(config.out)
    assert not finding.serious
    assert "1 samples are kept more than once" in finding.what
    assert "in 00000 and 00001" in finding.what


@pytest.mark.slow
def test_nothing_but_findings_comes_out_of_random_damage(out: Path) -> None:
    """Bytes of every file overwritten at random places, in many ways: always findings, never an exception."""
    names = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    for seed, name in enumerate(names * 3):
        whole = (out / name).read_bytes()
        start = seed * 37 % len(whole)
        (out / name).write_bytes(whole[:start] + noise(seed, 8).tobytes() + whole[start + 192 :])
        found = findings(out)
        if "stats" not in str(name):
            assert found
        about(found)
        (out / name).write_bytes(whole)
    assert findings(out) == []
