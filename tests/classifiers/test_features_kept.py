"""Features are computed once, by content, and labels of different origin mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_judges import BACKBONE, samples, tiny_backbone

from classifiers import features
from classifiers.features import FeatureCache, Labelled, joined, mixed
from l2i_builder.errors import MetadataError
from l2i_builder.judge.backbone import Backbone, make_backbone
from l2i_builder.judge.judges import Extractor

IMAGES, MASKS, _, _ = samples(3)
MASK_FAMILIES = ("mask-plain", "mask-rich", "mask-standing", "mask-close")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(BACKBONE, weights=str(tiny_backbone(tmp_path_factory.mktemp("weights"))))


class Counting:
    """Counts how often the backbone runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, maps = 0, Extractor.maps

        def counted(extractor: Extractor, views: list[np.ndarray]):  # type: ignore[no-untyped-def]
            self.runs += len(views)
            return maps(extractor, views)

        monkeypatch.setattr(Extractor, "maps", counted)


def test_vectors_are_the_judges_own(backbone: Backbone) -> None:
    found = FeatureCache(backbone, None)(MASK_FAMILIES, IMAGES[0], MASKS[0])
    for family in MASK_FAMILIES:
        assert np.array_equal(found[family], Extractor(backbone, family)(IMAGES[:1], MASKS[:1])[0])


def test_what_was_computed_once_is_kept(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FeatureCache(backbone, tmp_path)(MASK_FAMILIES, IMAGES[0], MASKS[0])
    counting = Counting(monkeypatch)
    second = FeatureCache(backbone, tmp_path)(MASK_FAMILIES, IMAGES[0].copy(), MASKS[0])
    assert counting.runs == 0
    assert all(np.array_equal(first[name], second[name]) for name in MASK_FAMILIES)
    FeatureCache(backbone, tmp_path)(MASK_FAMILIES, IMAGES[1], MASKS[1])
    assert counting.runs > 0


def test_masks_of_one_picture_share_its_view(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, cache = Counting(monkeypatch), FeatureCache(backbone, None)
    for mask in MASKS:
        cache(["mask-rich"], IMAGES[0], mask)
    assert counting.runs == 1


def test_other_weights_or_other_code_meet_no_old_vector(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureCache(backbone, tmp_path)(["mask-rich"], IMAGES[0], MASKS[0])
    counting = Counting(monkeypatch)
    FeatureCache(replace(backbone, digest="1" * 64), tmp_path)(["mask-rich"], IMAGES[0], MASKS[0])
    assert counting.runs == 1
    monkeypatch.setattr(features.measures, "__file__", __file__)
    FeatureCache(backbone, tmp_path)(["mask-rich"], IMAGES[0], MASKS[0])
    assert counting.runs == 2


def labelled(count: int, facts: dict[str, str], family: str = "mask-rich") -> Labelled:
    names = np.array([f"{count}-{i}" for i in range(count)])
    ones = np.ones(count, np.float32)
    vectors = np.full((count, 3), count, np.float32)
    facts = {"backbone": "b", "backbone sha256": "0" * 64} | facts
    return Labelled({family: vectors}, ones, ones, names == names[0], names, names, names, ones, facts)


class TestMixing:
    def test_people_count_more_than_the_bootstrap(self) -> None:
        people = labelled(2, {"labels of people": "2", "runs": "abc"})
        both = mixed(labelled(5, {"seed": "0"}), people, 0.2, "mask-rich")
        assert both.weight.tolist() == pytest.approx([0.2] * 5 + [1, 1])
        assert both.vectors["mask-rich"][:, 0].tolist() == [5] * 5 + [2] * 2
        assert both.facts["labels of people"] == "2"
        assert both.facts["bootstrap weight"] == "0.2"
        assert both.facts["seed"] == "0"

    def test_several_runs_add_up(self) -> None:
        runs = [labelled(n, {"labels of people": str(n), "runs": f"run-{n}"}) for n in (2, 3)]
        both = joined(*runs)
        assert both.facts["labels of people"] == "5"
        assert both.facts["runs"] == "run-2 run-3"
        assert len(both) == 5

    def test_features_of_two_backbones_do_not_mix(self) -> None:
        with pytest.raises(MetadataError, match="two backbones"):
            joined(labelled(2, {}), labelled(2, {"backbone sha256": "1" * 64}))

    def test_some_samples_can_be_taken(self) -> None:
        data = labelled(4, {})
        some = data.take(np.array([3, 0]))
        assert some.scene.tolist() == ["4-3", "4-0"]
        assert len(some.vectors["mask-rich"]) == 2
