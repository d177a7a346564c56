"""People's labels meet the features of the samples they judged, kept by the run or made anew, and train heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from samples import finished_run
from tiny_judges import BACKBONE, samples, tiny_backbone
from typer.testing import CliRunner

from classifiers import command, train
from classifiers.features import Collector, FeatureCache
from classifiers.people import KIND, labels_of
from classifiers.scenes import Scene
from classifiers.train import PLAIN
from l2i_builder.cli import app
from l2i_builder.errors import MetadataError
from l2i_builder.judge.backbone import Backbone, make_backbone
from l2i_builder.judge.judges import load_head
from l2i_builder.labels import Judgement, to_table, write_labels
from l2i_builder.output.features import Features, write_features
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.shards import open_triplets

FAMILIES = ("mask-rich", "inpainting-rich")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(BACKBONE, weights=str(tiny_backbone(tmp_path_factory.mktemp("weights"))))


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A finished run whose kept samples two people judged: every second mask is bad, one of the two disagrees once."""
    out = tmp_path / "out"
    finished_run(tmp_path / "metadata", out, rows=8)
    (out / "features" / "00000.parquet").unlink(missing_ok=True)
    said = []
    for i, key in enumerate(kept(str(out))):
        answers = {"mask": "bad" if i % 2 else "good", "inpainting": ""}
        said.append(Judgement(key, "ada", shard=0, queue="audit", weight=10.0, **answers))
        said.append(Judgement(key, "bob", shard=0, queue="second", **answers | ({"mask": "good"} if i == 1 else {})))
    write_labels(to_table(said), str(out / "labels.parquet"))
    return str(out)


def kept(out: str) -> list[str]:
    return [triplet.key for triplet in open_triplets(f"{out}/shards/00000.tar")]


def test_features_are_made_of_the_stored_pixels(run: str, backbone: Backbone) -> None:
    found = labels_of(run, "mask", "mask-rich", FeatureCache(backbone, None))
    keys = kept(run)
    assert sorted(keys) == found.scene.tolist()
    assert len(keys) >= 3
    quality = dict(zip(found.scene.tolist(), found.quality.tolist(), strict=True))
    assert [quality[key] for key in keys[:3]] == [1.0, 0.5, 1.0]
    first = next(open_triplets(f"{run}/shards/00000.tar"))
    wanted = FeatureCache(backbone, None)(["mask-rich"], first.image, first.mask)["mask-rich"]
    assert np.array_equal(found.vectors["mask-rich"][found.scene.tolist().index(first.key)], wanted)
    assert set(found.kind) == {KIND}
    assert found.facts["labels of people"] == str(len(keys))


def test_stored_features_of_the_same_making_are_taken_as_they_are(run: str, backbone: Backbone) -> None:
    keys = kept(run)
    kind = {"head": "x", "features": "mask-rich", "dim": 3, "backbone": BACKBONE, "backbone_sha256": backbone.digest}
    stored = Features({"mask": {key: np.full(3, i, np.float32) for i, key in enumerate(keys)}, "inpainting": {}}, {})
    for family, taken in (("mask-rich", True), ("mask-plain", False)):
        stored.kinds["mask"] = kind | {"features": family}
        path = Path(run) / "features" / "00000.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(write_features(stored, keys, {}))
        found = labels_of(run, "mask", "mask-rich", FeatureCache(backbone, None))
        assert (found.vectors["mask-rich"].shape[1] == 3) == taken


def test_labels_whose_pixels_are_gone_are_counted(run: str, backbone: Backbone) -> None:
    rows = read_ledger(f"{run}/ledger/00000.parquet", ["key", "verdict", "audit"]).to_pylist()
    gone = [row["key"] for row in rows if row["key"] not in kept(run) and not row["audit"]]
    extra = [Judgement(key, "ada", shard=0, queue="uncertain", mask="bad") for key in (*gone, "unheard-of")]
    write_labels(
        to_table([*extra, Judgement(kept(run)[0], "ada", shard=0, queue="audit", mask="good")]), f"{run}/labels.parquet"
    )
    found = labels_of(run, "mask", "mask-rich", FeatureCache(backbone, None))
    assert found.facts["labels of people"] == "1"
    assert found.facts["labels without pixels"] == str(len(extra))


def test_a_task_that_nobody_judged_is_said(run: str, backbone: Backbone) -> None:
    with pytest.raises(MetadataError, match="nobody has judged the inpainting"):
        labels_of(run, "inpainting", "inpainting-rich", FeatureCache(backbone, None))


def test_the_command_mixes_both_and_writes_two_heads(
    run: str, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, heads = tmp_path / "labels", tmp_path / "heads"
    for family in FAMILIES:
        bootstrapped(family, backbone).save(data / f"{family.partition('-')[0]}.npz")
    monkeypatch.setattr(command, "make_backbone", lambda name: backbone)
    monkeypatch.setattr(command, "FAMILY", {"mask": FAMILIES[0], "inpainting": FAMILIES[1]})
    monkeypatch.setattr(command, "RECIPE", dict.fromkeys(("mask", "inpainting"), PLAIN))
    options = ["--data", str(data), "--labels", run, "--bootstrap-weight", "0.5", "--out", str(heads), "--tag", "v9"]
    result = CliRunner().invoke(app, ["train-filters", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "nobody has judged" in result.output  # inpaintings: trained on the bootstrapped labels alone
    made = {task: json.loads((heads / f"{task}-v9.json").read_text())["data"] for task in ("mask", "inpainting")}
    assert made["mask"]["labels of people"] == str(len(kept(run)))
    assert made["mask"]["bootstrap weight"] == "0.5"
    assert made["inpainting"]["labels of people"] == "0"
    assert load_head(str(heads / "mask-v9.json"), "mask").card["features"] == "mask-rich"
    again = CliRunner().invoke(app, ["train-filters", *options])
    assert "never replaced" in str(again.exception)


def bootstrapped(family: str, backbone: Backbone):  # type: ignore[no-untyped-def]
    images, masks, backgrounds, holes = samples(30)
    arrays = (images, masks) if family.startswith("mask") else (images, masks, backgrounds, holes)
    collector, cache = Collector([family]), FeatureCache(backbone, None)
    for i in range(30):
        scene = Scene(f"scene-{i}", (f"photo-{i}",), i % 3 == 0, True, images[i], masks[i])
        kind = train.FIELD[family.partition("-")[0]][0] if i % 4 < 2 else "true"
        collector.add(cache([family], *(a[i] for a in arrays)), scene, kind, float(i % 2), 0.5)
    return collector.labelled({"backbone": BACKBONE, "backbone sha256": backbone.digest, "seed": "0"})
