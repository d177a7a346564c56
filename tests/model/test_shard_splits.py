"""A build's splits as trainers and evaluation read them: `runs/sample#train`."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_toy import split_toy_run, toy_run

from l2i_builder.errors import ConfigError
from l2i_builder.output.shards import read_members
from l2i_builder.splits import read_splits
from model.evaluation.reference import Reference
from model.shard_selection import Selection
from model.shard_set import find_shards, selected


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    return split_toy_run(tmp_path_factory.mktemp("split"))


def keys(location: str, selection: Selection | None = None) -> set[str]:
    selection = selection or Selection()
    return {key for shard in find_shards(location, selection) for key, _ in selected(shard, selection)}


def test_each_split_is_read_alone_la_also_from_the_audit_slice(out: str) -> None:
    table = read_splits(out)
    assert table is not None
    expected = {name: set() for name in ("train", "test", "la")}
    for key in table.keys.tolist():
        if (split := table.of([key.decode()])[0]) in expected:
            expected[split].add(key.decode())
    assert {name: keys(f"{out}#{name}") for name in expected} == expected
    assert all(expected.values())
    audited = {key for tar in Path(out, "audit").iterdir() for key, _ in read_members(str(tar))}
    assert expected["la"] & audited
    assert not expected["train"] & audited


def test_all_reads_whatever_was_kept(out: str) -> None:
    kept = {key for tar in Path(out, "shards").iterdir() for key, _ in read_members(str(tar))}
    assert keys(f"{out}#all") == kept


def test_a_split_goes_with_other_selections(out: str) -> None:
    parts = [keys(f"{out}#train", Selection(part=part, holdout=0.3)) for part in ("train", "held_out")]
    assert parts[0] | parts[1] == keys(f"{out}#train")
    assert not parts[0] & parts[1]
    high = keys(f"{out}#train", Selection(min_mask_score=0.6))
    assert set() < high < keys(f"{out}#train")


def test_a_reference_of_the_evaluation_is_a_split(out: str) -> None:
    captions = Reference("LL2I-E", f"{out}#test", 100).captions()
    assert {key for key, _ in captions} == keys(f"{out}#test")
    assert len(list(Reference("LA", f"{out}#la", 3).images())) == 3


def test_where_splits_were_drawn_one_must_be_named(out: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name one, .*#train"):
        find_shards(out)
    with pytest.raises(ConfigError, match="it has train, test, la"):
        find_shards(f"{out}#validation")
    toy_run(tmp_path, tmp_path / "out", rows=20)
    with pytest.raises(ConfigError, match="draw them with `l2i splits"):
        find_shards(f"{tmp_path}/out#train")
