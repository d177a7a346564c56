"""Stored features: what the judges saw, for every scored row, so that heads can score it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finished_toy import THRESHOLDS, judged_run, tiny_heads, toy_run
from samples import finished_run

from l2i_builder.errors import OutputError
from l2i_builder.judge.judges import load_head
from l2i_builder.output.features import Features, read_features, write_features
from l2i_builder.output.ledger import read_ledger
from l2i_builder.sample import UNKNOWN

KIND = {"head": "mask-v1", "features": "mask-rich", "dim": 3, "backbone": "b0", "backbone_sha256": "0" * 64}


def three() -> Features:
    rng = np.random.default_rng(0)
    mask = {key: rng.normal(size=3).astype(np.float32) for key in "abc"}
    return Features({"mask": mask, "inpainting": {"b": np.arange(2, dtype=np.float32)}}, {"mask": KIND})


def test_what_is_written_is_read_back_bit_by_bit_in_input_order(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(write_features(three(), "cbxa", {"shard": 7}))
    read = read_features(str(tmp_path / "f.parquet"))
    assert list(read.vectors["mask"]) == ["c", "b", "a"]
    for task, vectors in three().vectors.items():
        assert {key: vector.tolist() for key, vector in read.vectors[task].items()} == {
            key: vector.tolist() for key, vector in vectors.items()
        }
    assert read.vectors["mask"]["a"].dtype == np.float32
    assert read.kinds == {"mask": KIND}
    assert read.heads == {"mask": "mask-v1"}


def test_the_same_features_give_the_same_bytes() -> None:
    assert write_features(three(), "abc", {}) == write_features(three(), "abc", {})


def test_vectors_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        write_features(Features({"mask": {"a": np.zeros(2), "b": np.zeros(3)}, "inpainting": {}}), "ab", {})


@pytest.mark.parametrize("content", [b"", b"PAR1", "ledger", "cut"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "f.parquet"
    if content == "ledger":
        finished_run(tmp_path / "metadata", tmp_path / "out", rows=2)
        content = (tmp_path / "out/ledger/00000.parquet").read_bytes()
    elif content == "cut":
        content = write_features(three(), "abc", {})[:-20]
    path.write_bytes(content)
    with pytest.raises(OutputError, match="run the build again"):
        read_features(str(path))


@pytest.mark.slow
def test_every_scored_row_has_features_that_give_exactly_its_score(tmp_path: Path) -> None:
    heads = tiny_heads(tmp_path)
    config = judged_run(tmp_path, tmp_path / "out", heads)

    features = read_features(f"{config.out}/features/00000.parquet")
    lines = read_ledger(f"{config.out}/ledger/00000.parquet").to_pylist()
    for task, path in heads.items():
        head = load_head(str(path), task)
        scores = {line["key"]: line[f"{task}_score"] for line in lines if line[f"{task}_score"] != UNKNOWN}
        assert scores
        assert {key: float(head.predict(v[None])[0]) for key, v in features.vectors[task].items()} == scores
        assert features.kinds[task]["backbone_sha256"] == head.card["backbone"]["sha256"]
        assert features.heads[task] == f"{task}-rich-0"


def test_a_configuration_key_switches_them_off(tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "out", *THRESHOLDS, "shards.features=false", rows=20)
    assert not (tmp_path / "out/features").exists()
    assert (tmp_path / "out/ledger/00000.parquet").exists()
