"""Manifests: an output folder belongs to one configuration and input, and knows which shards are finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.manifest import (
    RunManifest,
    ShardManifest,
    claim,
    difference,
    finished,
    identity,
    manifest_url,
    read_manifest,
)

WEIGHTS = {"u2net": "1" * 64}


def run_of(config: Config | None = None, digest: str = "d" * 64, weights: dict[str, str] | None = None) -> RunManifest:
    return RunManifest.of(config or Config(), digest, weights or WEIGHTS)


def keys_of(tree: dict[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in tree.items():
        keys |= keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"}
    return keys


# identity


def test_what_is_built_is_identity_and_how_it_is_carried_out_is_not() -> None:
    keys = keys_of(identity(Config()))
    assert {"source", "seed", "image.size", "segment.backend", "layers.dilate", "judge.mask.threshold"} <= keys
    assert {"fetch.max_bytes", "ingest.filter.max_punsafe", "shards.jpeg_quality", "ingest.rows_per_shard"} <= keys
    assert not keys & {"out", "metadata", "fetch.concurrency", "fetch.user_agent", "segment.batch", "image.workers"}
    assert not any(key.startswith("cluster") for key in keys)


def test_machines_and_politeness_do_not_change_the_digest() -> None:
    other = Config(
        out="elsewhere",
        metadata="moved",
        fetch={"concurrency": 1, "connect_to": {"a": "127.0.0.1:1"}},
        segment={"batch": 1},
        cluster={"cpus": 2, "groups": [{"stages": ["segment"]}]},
    )
    assert run_of(other).digest == run_of().digest


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"image": {"size": 256}}, {"ingest": {"filter": {"languages": ["en"]}}}, {"layers": {"dilate": 8}}],
)
def test_what_is_built_changes_the_digest(change: dict[str, Any]) -> None:
    assert run_of(Config(**change)).digest != run_of().digest


def test_weights_and_input_change_the_digest() -> None:
    digests = {run_of().digest, run_of(weights={"u2net": "2" * 64}).digest, run_of(digest="e" * 64).digest}
    assert len(digests) == 3


def test_identity_is_plain_json() -> None:
    plain = identity(Config(ingest={"columns": {"url": "link"}}))
    assert json.loads(json.dumps(plain)) == plain
    assert plain["ingest"]["columns"] == {"url": "link"}


# difference


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"segment": {"backend": "u2net"}}, {"segment": {"backend": "isnet"}}, ["segment.backend: u2net -> isnet"]),
        ({"a": {"b": {"c": 0.5}}}, {"a": {"b": {"c": 1.0}}}, ["a.b.c: 0.5 -> 1.0"]),
        ({"a": 1}, {}, ["a: 1 -> (absent)"]),
        ({}, {"a": ""}, ['a: (absent) -> ""']),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] -> [2, 1]"]),
        ({"a": {}}, {"a": {"x": "y"}}, ["a: {} -> (absent)", "a.x: (absent) -> y"]),
        ({"a": True, "b": 2}, {"a": False, "b": 3}, ["a: true -> false", "b: 2 -> 3"]),
    ],
)
def test_differences_are_listed_leaf_by_leaf(old: dict[str, Any], new: dict[str, Any], lines: list[str]) -> None:
    assert difference(old, new) == lines


# claim


def test_a_claimed_folder_takes_the_same_run_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        claim(str(tmp_path), run_of())
    assert RunManifest.from_json((tmp_path / "run.json").read_bytes()) == run_of()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_another_configuration_input_or_weights_is_refused_with_the_differences(tmp_path: Path) -> None:
    claim(str(tmp_path), run_of())
    before = (tmp_path / "run.json").read_bytes()
    other = run_of(Config(segment={"backend": "isnet"}, seed=7), digest="e" * 64, weights={"isnet": "2" * 64})
    with pytest.raises(ConfigError) as caught:
        claim(str(tmp_path), other)
    text = str(caught.value)
    for line in (
        "segment.backend: u2net -> isnet",
        "seed: 0 -> 7",
        f"input digest: {'d' * 64} -> {'e' * 64}",
        f"weights.u2net: {'1' * 64} -> (absent)",
        f"weights.isnet: (absent) -> {'2' * 64}",
    ):
        assert line in text
    assert "image.size" not in text
    assert "Use another output folder" in text
    assert "no finished shard yet: delete" in text
    assert (tmp_path / "run.json").read_bytes() == before
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "00000.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        claim(str(tmp_path), other)
    assert "delete" not in str(caught.value)


def test_a_bug_fix_release_may_go_on_and_a_new_series_may_not(tmp_path: Path) -> None:
    old = run_of()
    claim(str(tmp_path), RunManifest(old.config, old.weights, old.input, "1.2.3"))
    claim(str(tmp_path), RunManifest(old.config, old.weights, old.input, "1.2.9"))
    with pytest.raises(ConfigError, match=r"version: 1\.2 -> 1\.3"):
        claim(str(tmp_path), RunManifest(old.config, old.weights, old.input, "1.3.0"))


def test_shards_without_a_run_json_are_not_taken_over(tmp_path: Path) -> None:
    storage.write_bytes(manifest_url(str(tmp_path), 0), b"{}")
    with pytest.raises(OutputError, match=r"no run\.json"):
        claim(str(tmp_path), run_of())


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'{"config": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_run_json_is_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"run\.json is damaged"):
        claim(str(tmp_path), run_of())


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"-Infinity"])
def test_a_run_json_with_a_number_that_json_has_not_is_explained(tmp_path: Path, number: bytes) -> None:
    claim(str(tmp_path), run_of())
    path = tmp_path / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": ' + number))
    with pytest.raises(OutputError, match=r"run\.json is damaged"):
        RunManifest.from_json(path.read_bytes())


def test_an_edited_run_json_is_explained(tmp_path: Path) -> None:
    claim(str(tmp_path), run_of())
    path = tmp_path / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(OutputError, match="digest"):
        claim(str(tmp_path), run_of())


def test_a_folder_in_an_object_store_is_claimed_alike(s3_folder: str) -> None:
    claim(s3_folder, run_of())
    claim(s3_folder, run_of())
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        claim(s3_folder, run_of(Config(seed=1)))


# shards


def test_a_shard_manifest_survives_its_json(tmp_path: Path) -> None:
    entry = {"bytes": 10, "sha256": "0" * 64, "md5": "0" * 32}
    manifest = ShardManifest(7, 10, 8, {"timeout": 2}, {"shards/00007.tar": entry}, "d" * 64)
    storage.write_bytes(manifest_url(str(tmp_path), 7), manifest.to_json())
    assert read_manifest(str(tmp_path), 7) == manifest
    assert (tmp_path / "manifests" / "00007.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "10"},
        {"kept": None},
        {"reasons": {"timeout": "2"}},
        {"reasons": []},
        {"files": {"a": 1}},
        {"files": {"a.tar": {"bytes": 1, "sha256": ""}}},
        {"files": {"a.parquet": {"sha256": ""}}},
    ],
)
def test_a_manifest_of_other_shape_is_damaged(change: dict[str, Any]) -> None:
    good = json.loads(ShardManifest(7, 10, 10).to_json())
    with pytest.raises(OutputError, match="damaged"):
        ShardManifest.from_json(json.dumps(good | change).encode())
    for key in good:
        with pytest.raises(OutputError, match="damaged"):
            ShardManifest.from_json(json.dumps({k: v for k, v in good.items() if k != key}).encode())


def test_finished_shards_are_known_from_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finished(str(tmp_path)) == set()
    folder = tmp_path / "manifests"
    folder.mkdir()
    for number in range(2000):
        (folder / f"{number * 60:05d}.json").touch()
    for name in (".00007.json.1-ab.tmp", "notes.json", "00008.json.bak", "README.md"):
        (folder / name).touch()
    calls = []
    listing = storage.list_names
    monkeypatch.setattr(
        storage, "list_names", lambda *given, **options: calls.append(given) or listing(*given, **options)
    )
    monkeypatch.setattr(storage, "read_bytes", lambda *_: pytest.fail("a manifest was read"))
    monkeypatch.setattr(storage, "exists", lambda *_: pytest.fail("a manifest was asked for"))
    assert finished(str(tmp_path)) == {number * 60 for number in range(2000)}
    assert len(calls) == 1
