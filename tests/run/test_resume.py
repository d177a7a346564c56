"""What a resumed run takes as finished: manifests that can be read, and files of full size."""

from pathlib import Path

import pytest
from toy import Silent, contents, toy_config, toy_parts, write_metadata

from l2i_builder.ingest import planning
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.run.inline import run_inline
from l2i_builder.run.resume import altered_shards, whole_shards


@pytest.fixture
def out(tmp_path):
    config = toy_config(write_metadata(tmp_path / "metadata", rows=60), tmp_path / "out")
    plan = planning.plan(config)
    run = claim(config.out, RunManifest.of(config, plan.digest, {}))
    run_inline(config, plan.shards, run.digest, Silent(), toy_parts(config))
    return Path(config.out)


def test_an_undamaged_folder_needs_no_work(out):
    assert whole_shards(str(out)) == ({0, 1, 2}, {})
    assert whole_shards(str(out / "absent")) == (set(), {})


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("shards/00001.tar", "of"),
        ("ledger/00001.parquet", "of"),
        ("previews/00001.tar", "of"),
        ("manifests/00001.json", "is damaged"),
    ],
)
def test_a_truncated_file_sends_its_shard_through_again(out, file, words):
    path = out / file
    path.write_bytes(path.read_bytes()[:-100])
    whole, damaged = whole_shards(str(out))
    assert whole == {0, 2}
    assert set(damaged) == {1}
    assert words in damaged[1]


def test_a_missing_file_sends_its_shard_through_again(out):
    (out / "ledger/00002.parquet").unlink()
    assert whole_shards(str(out)) == ({0, 1}, {2: "ledger/00002.parquet is missing"})


@pytest.mark.parametrize("file", ["shards/00001.tar", "ledger/00001.parquet", "previews/00001.tar", "stats/00001.json"])
def test_a_byte_changed_in_a_file_of_full_size_is_found_by_reading_it(out, file):
    path = out / file
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    run = RunManifest.from_json((out / "run.json").read_bytes())
    plan = planning.plan(toy_config(out.parent / "metadata", out))
    assert whole_shards(str(out)) == ({0, 1, 2}, {})
    assert set(altered_shards(str(out), plan, run, [0, 1, 2])) == (set() if file.startswith("stats") else {1})
    assert altered_shards(str(out), plan, run, [0, 2]) == {}


def test_building_the_damaged_shard_again_restores_its_bytes(out, tmp_path):
    before = contents(out)
    (out / "shards/00000.tar").write_bytes(b"")
    config = toy_config(tmp_path / "metadata", out)
    whole, _ = whole_shards(str(out))
    todo = [shard for shard in planning.plan(config).shards if shard.number not in whole]
    assert [shard.number for shard in todo] == [0]
    digest = RunManifest.from_json((out / "run.json").read_bytes()).digest
    run_inline(config, todo, digest, Silent(), toy_parts(config))
    assert contents(out) == before
