import json
import shutil
from pathlib import Path

import pytest
from toy_training import toy_shards

from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import read_members, write_tar
from model.shard_selection import Selection, Shard
from model.shard_set import captions, find_shards, selected


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return toy_shards(tmp_path_factory.mktemp("toy"))


def names(shards: list[Shard]) -> list[tuple[str, int]]:
    return [(Path(shard.url).name, shard.samples) for shard in shards]


def keys(shards: list[Shard], selection: Selection) -> set[str]:
    return {key for shard in shards for key, _ in selected(shard, selection)}


def test_a_builds_manifests_say_how_many(run, tmp_path):
    expected = [("00000.tar", 20), ("00001.tar", 26), ("00002.tar", 14)]
    assert names(find_shards(run)) == expected
    no_tars = tmp_path / "run"
    shutil.copytree(run, no_tars, ignore=shutil.ignore_patterns("*.tar"))
    assert names(find_shards(str(no_tars))) == expected  # nothing but manifests was opened


def test_tars_alone_are_counted_by_reading(run, tmp_path):
    shutil.copy(f"{run}/shards/00001.tar", tmp_path)
    assert names(find_shards(str(tmp_path))) == [("00001.tar", 26)]
    assert names(find_shards(f"{run}/shards/*.tar, {tmp_path}/00001.tar"))[2:] == [("00002.tar", 14), ("00001.tar", 26)]


def test_a_folder_with_an_index_is_not_read(run, tmp_path):
    shutil.copy(f"{run}/index.json", tmp_path)
    assert names(find_shards(str(tmp_path))) == [("00000.tar", 20), ("00001.tar", 26), ("00002.tar", 14)]


def test_held_out_keys_and_the_others_are_all_keys(run):
    parts = [Selection(part, 0.3) for part in ("train", "held_out")]
    train, held_out = (keys(find_shards(run, part), part) for part in parts)
    assert not train & held_out
    assert train | held_out == keys(find_shards(run), Selection())
    assert 5 < len(held_out) < 30


def test_the_ledger_and_the_tars_agree_on_what_is_selected(run, tmp_path):
    selection = Selection("train", 0.3)
    for shard in Path(run, "shards").iterdir():
        shutil.copy(shard, tmp_path)
    counted = [shard.samples for shard in find_shards(run, selection)]
    assert counted == [shard.samples for shard in find_shards(str(tmp_path), selection)]


def test_scores_select(run, tmp_path):
    scored = [
        (key, members | {"json": json.dumps(json.loads(members["json"]) | {"mask_score": number / 20}).encode()})
        for number, (key, members) in enumerate(read_members(f"{run}/shards/00000.tar"))
    ]
    write_tar(scored, str(tmp_path / "scored.tar"))
    assert names(find_shards(str(tmp_path), Selection(min_mask_score=0.75))) == [("scored.tar", 5)]
    with pytest.raises(ConfigError, match=r"only samples that are of inpainting score 0\.5 or more"):
        find_shards(run, Selection(min_inpainting_score=0.5))  # by the ledger: unknown there


def test_nothing_to_read_is_a_sentence(tmp_path):
    for location in (str(tmp_path), "", str(tmp_path / "absent.tar")):
        with pytest.raises(ConfigError, match="no samples to read"):
            find_shards(location)


def test_a_shard_that_holds_another_number_is_refused(run):
    shard = find_shards(run)[0]
    with pytest.raises(OutputError, match="holds 20 samples to read where 21 were counted"):
        list(selected(Shard(shard.url, 21), Selection()))


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(OutputError, match=r"index.json is no index"):
        find_shards(str(tmp_path))


def test_captions_are_those_of_the_selected_samples(run):
    found = list(captions(find_shards(run), Selection()))
    assert len(found) == 60
    assert all(" on a " in caption for caption in found)


def test_samples_without_facts_have_no_scores(run, tmp_path):
    members = [(key, {name: data for name, data in parts.items() if name != "json"}) for key, parts in
               read_members(f"{run}/shards/00002.tar")]  # fmt: skip
    write_tar(members, str(tmp_path / "plain.tar"))
    assert names(find_shards(str(tmp_path))) == [("plain.tar", 14)]
    with pytest.raises(ConfigError):
        find_shards(str(tmp_path), Selection(min_mask_score=0.1))
