"""Finished shards opened to be made anew: read when needed, never when damaged, and moved without a gap."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from finished_toy import LOOSE, toy_run
from toy import contents

from l2i_builder.errors import OutputError
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import RunManifest
from l2i_builder.output.rewrite import StoredSample, recover, spread, stored_shard, stored_stats
from l2i_builder.output.rules import rule_of
from l2i_builder.output.shards import MEMBERS, read_members


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    toy_run(folder, folder / "out", *LOOSE, rows=20)
    return folder / "out"


@pytest.fixture
def out(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "out"))


def test_samples_are_read_from_the_open_tar_when_asked_for(out: Path) -> None:
    wanted = dict(read_members(str(out / "shards/00000.tar")))
    with stored_shard(str(out), 0) as batch:
        assert len(batch.rows) == 20
        assert set(wanted) <= set(batch.triplets)
        for key, members in wanted.items():
            sample = batch.triplets[key]
            assert isinstance(sample, StoredSample)
            assert tuple(sample) == MEMBERS
            assert dict(sample) == members
            assert dict(sample.replace("txt", b"new")) == {**members, "txt": b"new"}
        assert batch.previews
        assert batch.features["mask"]
    with pytest.raises(ValueError, match="closed"):
        sample["jpg"]


def test_committing_what_was_read_gives_the_same_bytes(out: Path, tmp_path: Path) -> None:
    from l2i_builder.config import Config
    from l2i_builder.ingest.planning import InputPlan

    run = RunManifest.from_json((out / "run.json").read_bytes())
    plan = InputPlan.from_json((out / "input.json").read_bytes())
    config = Config.model_validate({**run.config, "out": str(tmp_path / "new")})
    with stored_shard(str(out), 0) as batch:
        commit_shard(str(tmp_path / "new"), plan.shards[0], config, [batch], stored_stats(str(out), 0), run.digest)
    new = contents(tmp_path / "new")
    assert new == {name: data for name, data in contents(out).items() if name in new}
    assert len(new) == 6


@pytest.mark.parametrize(
    "name", ["shards/00000.tar", "previews/00000.tar", "features/00000.parquet", "ledger/00000.parquet"]
)
def test_a_file_that_is_not_what_the_manifest_says_is_never_handed_on(out: Path, name: str) -> None:
    data = bytearray((out / name).read_bytes())
    data[len(data) // 3] ^= 4
    (out / name).write_bytes(data)
    with pytest.raises(OutputError, match="is not what its manifest says"), stored_shard(str(out), 0):
        pass


def test_recovering_deletes_what_was_not_finished(out: Path) -> None:
    (out / "pending/shards").mkdir(parents=True)
    (out / "pending/shards/00000.tar").write_bytes(b"half")
    before = contents(out)
    assert recover(str(out)) == 0
    assert contents(out) == {name: data for name, data in before.items() if not name.startswith("pending")}


@pytest.mark.parametrize("workers", [1, 3])
def test_work_is_spread_and_told_of(workers: int) -> None:
    done: list[int] = []
    told: list[tuple[int, int]] = []
    spread(done.append, range(10), workers, lambda count, total: told.append((count, total)))
    assert sorted(done) == list(range(10))
    assert told == [(i, 10) for i in range(1, 11)]


def test_an_error_begins_nothing_further() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise OutputError("the disk is full.")

    with pytest.raises(OutputError):
        spread(work, range(100), 1)
    assert begun == [0, 1, 2]


def test_the_head_of_a_run_is_found_by_its_name_when_another_is_the_default() -> None:
    from l2i_builder.judge.judges import SHIPPED, load_head

    for task in SHIPPED:
        head = load_head(f"{task}-v1", task)
        run = RunManifest({"judge": {task: {"enabled": True, "head": "", "threshold": -1.0}}},
                          {f"judge {task}: {task}-v1": head.digest}, "i")  # fmt: skip
        assert rule_of(run, task).threshold == head.card["threshold"]
        other = RunManifest(run.config, {f"judge {task}: {task}-v1": "0" * 64}, "i")
        assert rule_of(other, task).threshold is None
