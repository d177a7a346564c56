"""Shards with further layers: what readers get, that the layers are exact, and that nothing on the way loses them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from finished_toy import toy_run
from layered_toy import discs, layered_run, layered_stages, objects_of
from samples import finished_run
from toy import contents, toy_config

from l2i_builder import layers, stages
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.layered import decode_further, decode_layers, open_layers, stored_layers
from l2i_builder.output.ledger import SCHEMA, read_ledger
from l2i_builder.output.manifest import RunManifest, claim, identity
from l2i_builder.output.refilter import refilter
from l2i_builder.output.rewrite import stored_rows, stored_shard
from l2i_builder.output.shards import (
    MEMBERS,
    encode_members,
    info_types,
    member_names,
    open_triplets,
    read_members,
)
from l2i_builder.output.takedown import take_down
from l2i_builder.output.tombstones import Identifier
from l2i_builder.output.verify import verify
from l2i_builder.run.resources import ORDER
from l2i_builder.sample import Batch, Row


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rows in two shards, of which kept ones have two, three or four layers."""
    folder = tmp_path_factory.mktemp("layered")
    layered_run(folder, folder / "out")
    return folder / "out"


@pytest.fixture
def out(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "out"))


def tar(out: Path, number: int = 0) -> str:
    return f"{out}/shards/{number:05d}.tar"


def test_samples_come_back_as_ordered_layers(template: Path) -> None:
    found = list(open_layers(tar(template)))
    assert {len(sample.layers) for sample in found} == {1, 2, 3}
    for sample in found:
        assert len(sample.layers) == objects_of(sample.key) == sample.info["layers"] - 1
        assert all(layer.shape == (64, 64, 4) for layer in sample.layers)
        areas = [(layer[..., 3] > 127).sum() for layer in sample.layers]
        assert areas == sorted(areas, reverse=True)  # the toy's objects lie largest in front
        assert sample.background.max() < 250  # nothing bright is left


def test_each_layer_is_cut_from_what_the_ones_before_it_left(template: Path) -> None:
    for key, members in read_members(tar(template)):
        triplet = next(t for t in open_triplets(tar(template)) if t.key == key)
        before = triplet.background
        for foreground, mask, behind in decode_further(key, members, ""):
            selected, hole = mask > 0.1 * 255, layers.hole(mask, 0.1, 9)
            assert np.array_equal(foreground[selected], before[selected])
            assert (foreground[~selected] == 0).all()
            assert np.array_equal(behind[~hole], before[~hole])
            before = behind


def test_the_composite_is_the_image_where_no_hole_and_no_soft_edge_is(template: Path) -> None:
    for sample in open_layers(tar(template)):
        made = layers.flatten(sample.layers, sample.background)
        masks = [layer[..., 3] for layer in sample.layers]
        holes = np.logical_or.reduce([layers.hole(mask, 0.1, 9) for mask in masks])
        exact = (masks[0] == 255) | ~holes
        assert np.array_equal(made[exact], sample.image[exact])
        assert sample.info["composite_error"] == pytest.approx(layers.difference(made, sample.image), abs=0.01)


def test_every_sample_has_the_same_members_and_facts_whatever_was_found(template: Path) -> None:
    for number in (0, 1):
        for _, members in read_members(tar(template, number)):
            assert tuple(members) == member_names(4)
            info = json.loads(members["json"])
            assert {name: type(value) for name, value in info.items()} == info_types(4)
            assert tuple(members)[:6] == MEMBERS
            if info["layers"] < 4:
                assert members["bg3.jpg"] == members["bg2.jpg"]


def test_readers_of_triplets_see_the_first_object(template: Path) -> None:
    for triplet, sample in zip(open_triplets(tar(template)), open_layers(tar(template)), strict=True):
        assert np.array_equal(np.dstack([triplet.foreground, triplet.mask]), sample.layers[0])


@pytest.mark.slow
def test_hugging_face_datasets_reads_them(template: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset("webdataset", data_files=[tar(template)], split="train", cache_dir=str(tmp_path))
    for sample, members in zip(loaded, read_members(tar(template)), strict=True):
        assert sample["fg3.png"].size == (64, 64)
        assert sample["json"] == json.loads(members[1]["json"])


def test_two_layer_shards_open_as_one_layer_over_a_background(tmp_path: Path) -> None:
    config = finished_run(tmp_path / "metadata", tmp_path / "out", rows=10)
    for triplet, sample in zip(open_triplets(tar(Path(config.out))), open_layers(tar(Path(config.out))), strict=True):
        assert len(sample.layers) == 1
        assert np.array_equal(sample.background, triplet.background)


def test_by_default_nothing_of_further_layers_is_written(tmp_path: Path) -> None:
    config = toy_run(tmp_path, tmp_path / "out", rows=20)
    assert all(tuple(members) == MEMBERS for _, members in read_members(tar(tmp_path / "out")))
    assert read_ledger(f"{config.out}/ledger/00000.parquet").schema.equals(SCHEMA)
    assert info_types().keys() & {"layers", "peel_end", "composite_error", "mask_score_2"} == set()


def test_outputs_begun_before_there_were_further_layers_go_on(tmp_path: Path) -> None:
    assert {"count", "further"}.isdisjoint(identity(Config())["layers"])
    more = identity(Config.model_validate({"layers": {"count": 3}}))
    assert (more["layers"]["count"], more["layers"]["further"]["min_area"]) == (3, 0.02)
    old = RunManifest.of(Config(), "", {})
    claim(str(tmp_path), old)
    assert claim(str(tmp_path), RunManifest.of(Config(), "", {})) == old
    with pytest.raises(ConfigError, match=r"layers\.count: \(absent\) -> 3"):
        claim(str(tmp_path), RunManifest.of(Config.model_validate({"layers": {"count": 3}}), "", {}))
    odd = Config.model_validate({"layers": {"further": {"min_area": 0.5}}})  # decides nothing while there are two
    assert RunManifest.of(odd, "", {}).digest == RunManifest.of(Config(), "", {}).digest


def test_the_same_run_gives_the_same_bytes(template: Path, tmp_path: Path) -> None:
    layered_run(tmp_path, tmp_path / "out")
    again = contents(tmp_path / "out")
    assert {name: data for name, data in contents(template).items() if name != "input.json"} == {
        name: data for name, data in again.items() if name != "input.json"
    }


def test_layers_reach_an_encoder_in_another_process(tmp_path: Path) -> None:
    config = toy_config(tmp_path, tmp_path, "layers.count=4", "judge.mask.threshold=0", "judge.inpainting.threshold=0")
    row = Row("a" * 32, "http://toy.test/", "toy", 0, 0)
    batch = Batch([row], np.arange(1), shard_rows=1, image=discs(3)[None])
    models = layered_stages(config, False, ORDER[:-1])
    batch = stages.run_stages(models, batch)
    sent = pickle.loads(pickle.dumps(batch))
    assert sent.outer is None
    done = stages.run_stages(layered_stages(config, False, ["encode"]), sent)
    sample = decode_layers(row.key, done.triplets[row.key], "")
    assert len(sample.layers) == 3
    assert done.peeled == {}


def test_refilter_keeps_the_layers_of_what_it_keeps(out: Path, tmp_path: Path) -> None:
    refilter(str(out), str(tmp_path / "strict"), ["judge.mask.threshold=0.5"])
    before = {sample.key: len(sample.layers) for sample in open_layers(tar(out))}
    after = {sample.key: len(sample.layers) for sample in open_layers(tar(tmp_path / "strict"))}
    assert 0 < len(after) < len(before)
    assert after.items() <= before.items()
    assert [finding.what for finding in verify(str(tmp_path / "strict"), deep=True)] == []


def test_a_takedown_leaves_nothing_of_the_further_layers(out: Path) -> None:
    gone = next(sample.key for sample in open_layers(tar(out)) if len(sample.layers) == 3)
    take_down(str(out), [Identifier("key", gone)])
    assert gone not in {sample.key for sample in open_layers(tar(out))}
    line = next(x for x in read_ledger(f"{out}/ledger/00000.parquet").to_pylist() if x["key"] == gone)
    assert (line["reason"], line["layers"], line["peel_end"], line["mask_score_2"]) == ("taken_down", -1, "", -1.0)
    assert verify(str(out), deep=True) == []


def test_a_stored_shard_opens_with_all_that_is_known_of_its_layers(out: Path) -> None:
    rows = {row.key: row for row in stored_rows(str(out), 0)}
    with stored_shard(str(out), 0) as batch:
        for sample in open_layers(tar(out)):
            assert len(rows[sample.key].peels) >= len(sample.layers) - 1
            assert rows[sample.key].layers == len(sample.layers) + 1
            assert tuple(batch.triplets[sample.key]) == member_names(4)


def test_samples_are_found_by_key_in_a_run_or_a_tar(out: Path) -> None:
    keys = [sample.key for number in (1, 0) for sample in open_layers(tar(out, number))][::7]
    assert [sample.key for sample in stored_layers(str(out), keys)] == keys
    inside = [sample.key for sample in open_layers(tar(out))][:2]
    assert [sample.key for sample in stored_layers(tar(out), inside)] == inside
    with pytest.raises(ConfigError, match="stores no sample nowhere"):
        stored_layers(str(out), [keys[0], "nowhere"])
    with pytest.raises(OutputError, match="no finished shard"):
        stored_layers(str(out / "shards"), keys)


def test_audited_samples_are_found_too(tmp_path: Path) -> None:
    config = finished_run(tmp_path / "metadata", tmp_path / "out", rows=10)
    key = next(key for key, _ in read_members(f"{config.out}/audit/00000.tar"))
    assert stored_layers(config.out, [key])[0].key == key


@pytest.mark.parametrize("suffix", ["fg2.png", "mask2.png", "bg2.jpg"])
@pytest.mark.parametrize("damage", ["gone", "cut", "size"])
def test_a_further_member_that_is_wrong_is_named(template: Path, suffix: str, damage: str) -> None:
    key, members = next(iter(read_members(tar(template))))
    if damage == "gone":
        del members[suffix]
    else:
        config = Config(image={"size": 128}, layers={"count": 3})
        other = np.zeros((128, 128, 3), np.uint8)
        large = encode_members(Row("k", "", "", 0, 0), other, other[..., 0], other, config)
        members[suffix] = members[suffix][:60] if damage == "cut" else large[suffix]
    with pytest.raises(OutputError, match=suffix.removesuffix(".png") if damage == "cut" else "decode|differ"):
        decode_layers(key, members, "a.tar")


def test_layers_of_another_size_than_the_image_are_refused(template: Path) -> None:
    key, members = next(iter(read_members(tar(template))))
    config = Config(image={"size": 128}, layers={"count": 4})
    other = np.zeros((128, 128, 3), np.uint8)
    large = encode_members(Row("k", "", "", 0, 0), other, np.full((128, 128), 255, np.uint8), other, config)
    members |= {f"{part}2.{kind}": large[f"{part}.{kind}"] for part, kind in (("fg", "png"), ("mask", "png"))}
    members["bg2.jpg"] = large["bg.jpg"]
    with pytest.raises(OutputError, match="differ in size"):
        decode_layers(key, members, "a.tar")
