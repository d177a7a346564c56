"""A published folder as trainers and evaluation read it: `/data/l2i#train`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from finished_toy import split_toy_run, toy_run

from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.publish.release import Options, publish
from model.config import Data
from model.data import Loader, Place
from model.evaluation.reference import Reference
from model.shard_selection import Selection
from model.shard_set import find_shards, selected

SPLITS = ("train", "test", "la")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return split_toy_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def published(run: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("published"))
    publish(run, folder, Options(shard_bytes=20_000, pictures=False))
    return folder


def keys(location: str, selection: Selection | None = None) -> set[str]:
    selection = selection or Selection()
    return {key for shard in find_shards(location, selection) for key, _ in selected(shard, selection)}


def test_each_split_holds_what_it_holds_in_the_run(run: str, published: str) -> None:
    for name in SPLITS:
        assert keys(f"{published}#{name}") == keys(f"{run}#{name}"), name


def test_all_is_what_the_filters_kept(run: str, published: str) -> None:
    kept = keys(f"{run}#all")
    in_a_split = set().union(*(keys(f"{published}#{name}") for name in SPLITS))
    assert keys(f"{published}#all") == kept & in_a_split
    assert in_a_split - kept  # of the unfiltered split


def test_samples_are_counted_without_opening_a_tar(published: str, tmp_path: Path) -> None:
    no_tars = tmp_path / "published"
    shutil.copytree(published, no_tars, ignore=shutil.ignore_patterns("*.tar"))
    for selection in (Selection(), Selection("train", 0.3), Selection(min_mask_score=0.6)):
        for name in (*SPLITS, "all"):
            counts = [shard.samples for shard in find_shards(f"{published}#{name}", selection)]
            assert counts == [shard.samples for shard in find_shards(f"{no_tars}#{name}", selection)]


def test_held_out_keys_and_scores_select_as_in_the_run(run: str, published: str) -> None:
    for selection in (Selection("train", 0.3), Selection("held_out", 0.3), Selection(min_mask_score=0.6)):
        assert keys(f"{published}#train", selection) == keys(f"{run}#train", selection)


def test_the_trainers_loader_and_the_evaluation_read_it(published: str) -> None:
    loader = Loader(Data(shards=f"{published}#train", size=32, holdout=0.1, workers=0), Place(batch=2), seed=0)
    assert len(next(iter(loader))) == 2
    captions = Reference("LL2I-E", f"{published}#test", 100).captions()
    assert {key for key, _ in captions} == keys(f"{published}#test")


def test_where_there_are_splits_one_must_be_named(published: str) -> None:
    with pytest.raises(ConfigError, match=r"name one, .*#train, .*#test, .*#la; .*#all reads"):
        find_shards(published)
    with pytest.raises(ConfigError, match="no split 'validation'; it has train, test, la"):
        find_shards(f"{published}#validation")


def test_a_folder_published_without_splits_needs_no_name(tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "out")
    publish(str(tmp_path / "out"), str(tmp_path / "published"), Options(pictures=False))
    kept = keys(str(tmp_path / "out"))
    assert keys(str(tmp_path / "published")) == keys(f"{tmp_path}/published#train") == kept


@pytest.mark.parametrize("data", [None, b"no parquet"])
def test_a_sidecar_that_is_missing_or_damaged_is_named(published: str, tmp_path: Path, data: bytes | None) -> None:
    folder = tmp_path / "published"
    shutil.copytree(published, folder)
    sidecar = folder / "metadata/train-00000.parquet"
    sidecar.unlink() if data is None else sidecar.write_bytes(data)
    with pytest.raises(OutputError, match=r"train-00000\.parquet"):
        find_shards(f"{folder}#train", Selection("train", 0.3))
