"""The judges: heads bound to their backbone, scores that do not depend on the batch, errors that say what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_judges import BACKBONE, samples, tiny_backbone, tiny_head

from l2i_builder.config import Judge
from l2i_builder.errors import WeightsError
from l2i_builder.judge.features import FAMILIES
from l2i_builder.judge.judges import HEADS, SHIPPED, Extractor, Head, load_head, make_inpainting_judge, make_mask_judge
from l2i_builder.weights import registry
from l2i_builder.weights.registry import file_sha256

TASKS = {"mask": make_mask_judge, "inpainting": make_inpainting_judge}
FORMS = [(task, family) for task in TASKS for family in FAMILIES if family.startswith(task)]


def arrays_for(task: str, count: int) -> tuple[np.ndarray, ...]:
    images, masks, backgrounds, holes = samples(count)
    return (images, masks) if task == "mask" else (images, masks, backgrounds, holes)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    backbone = tiny_backbone(folder)
    for task, family in FORMS:
        tiny_head(folder, f"{task}-{family}", task, family, backbone)
    return folder


@pytest.mark.parametrize(("task", "family"), FORMS)
class TestScores:
    def test_are_probabilities_one_for_each_sample(self, heads: Path, task: str, family: str) -> None:
        judge = TASKS[task](Judge(head=str(heads / f"{task}-{family}.json")))
        scores = judge.score(*arrays_for(task, 4))
        assert scores.shape == (4,)
        assert scores.dtype == np.float32
        assert ((scores > 0) & (scores < 1)).all()
        assert len(set(scores.tolist())) > 1

    def test_do_not_depend_on_the_batch_or_on_what_came_before(self, heads: Path, task: str, family: str) -> None:
        judge = TASKS[task](Judge(head=str(heads / f"{task}-{family}.json")))
        arrays = arrays_for(task, 5)
        together = judge.score(*arrays)
        alone = np.concatenate([judge.score(*(a[i : i + 1] for a in arrays)) for i in (4, 2, 0, 1, 3)])
        assert alone.tolist() == together[[4, 2, 0, 1, 3]].tolist()

    def test_come_from_features_that_can_be_kept(self, heads: Path, task: str, family: str) -> None:
        judge = TASKS[task](Judge(head=str(heads / f"{task}-{family}.json")))
        arrays = arrays_for(task, 3)
        features = judge.features(*arrays)
        assert features.dtype == np.float32
        assert features.shape == (3, judge.head.card["dim"])
        assert judge.score_features(features).tolist() == judge.score(*arrays).tolist()

    def test_of_nothing_are_none(self, heads: Path, task: str, family: str) -> None:
        judge = TASKS[task](Judge(head=str(heads / f"{task}-{family}.json")))
        assert judge.score(*arrays_for(task, 0)).shape == (0,)


class TestHead:
    def test_computes_what_its_card_says(self) -> None:
        tensors = {
            "centre": np.array([1.0, 0.0], np.float32),
            "scale": np.array([2.0, 1.0], np.float32),
            "w1": np.array([[1.0, 1.0], [-1.0, 0.0]], np.float32),
            "b1": np.array([0.0, 0.5], np.float32),
            "w2": np.array([2.0, 3.0], np.float32),
            "b2": np.float32(-1),
            "temperature": np.float32(2),
        }
        head = Head({"name": "by hand", "dim": 2}, tensors, "")
        # both units see z = (1, 0.5): the first gives 1.5, the second nothing
        assert head.predict(np.array([[3.0, 0.5]], np.float32))[0] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)

    def test_one_neuron_needs_no_hidden_layer(self) -> None:
        ones = np.ones(2, np.float32)
        tensors = {"centre": 0 * ones, "scale": ones, "w2": ones, "b2": np.float32(0), "temperature": np.float32(1)}
        scores = Head({"name": "neuron", "dim": 2}, tensors, "").predict(np.array([[1, -1], [100, 100]], np.float32))
        assert scores[0] == pytest.approx(0.5)
        assert scores[1] == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-6)  # z-scores are clipped at 4

    def test_refuses_features_of_another_size(self) -> None:
        with pytest.raises(ValueError, match=r"\[N, 2\]"):
            Head({"name": "x", "dim": 2}, {}, "").predict(np.zeros((1, 3), np.float32))

    def test_threshold_is_the_cards_unless_configured(self, heads: Path) -> None:
        path = str(heads / "mask-mask-rich.json")
        assert make_mask_judge(Judge(head=path)).threshold == 0.4
        assert make_mask_judge(Judge(head=path, threshold=0.0)).threshold == 0.0

    def test_digest_covers_the_threshold_but_not_the_prose(self, heads: Path, tmp_path: Path) -> None:
        copied = copy_head(heads, "mask-mask-rich", tmp_path)
        before = load_head(str(copied), "mask").digest
        edit(copied, remark="looked at 200 samples")
        assert load_head(str(copied), "mask").digest == before
        edit(copied, threshold=0.41)
        assert load_head(str(copied), "mask").digest != before


def copy_head(folder: Path, name: str, to: Path) -> Path:
    for suffix in (".json", ".safetensors"):
        shutil.copy(folder / f"{name}{suffix}", to)
    return to / f"{name}.json"


def edit(card: Path, **changes: object) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


class TestRefusals:
    def test_a_head_for_another_task(self, heads: Path) -> None:
        with pytest.raises(WeightsError, match="judges inpainting, not mask"):
            load_head(str(heads / "inpainting-inpainting-rich.json"), "mask")

    def test_an_unknown_name(self) -> None:
        with pytest.raises(WeightsError, match="mask-v1"):
            load_head("mask-of-zorro", "mask")

    def test_features_this_version_lacks(self, heads: Path, tmp_path: Path) -> None:
        card = copy_head(heads, "mask-mask-rich", tmp_path)
        edit(card, features="mask-clairvoyant")
        with pytest.raises(WeightsError, match="mask-clairvoyant"):
            load_head(str(card), "mask")

    def test_a_card_without_its_keys(self, heads: Path, tmp_path: Path) -> None:
        card = copy_head(heads, "mask-mask-rich", tmp_path)
        card.write_text('{"name": "x"}')
        with pytest.raises(WeightsError, match="lacks task"):
            load_head(str(card), "mask")

    @pytest.mark.parametrize("text", ["", "[1, 2]", '"mask"', "{"])
    def test_a_card_that_is_no_card(self, heads: Path, tmp_path: Path, text: str) -> None:
        card = copy_head(heads, "mask-mask-rich", tmp_path)
        card.write_text(text)
        with pytest.raises(WeightsError):
            load_head(str(card), "mask")

    def test_tensors_that_are_not_the_cards(self, heads: Path, tmp_path: Path) -> None:
        card = copy_head(heads, "mask-mask-rich", tmp_path)
        path = card.with_suffix(".safetensors")
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
        with pytest.raises(WeightsError, match="SHA-256"):
            load_head(str(card), "mask")

    def test_tensors_of_the_wrong_shape(self, heads: Path, tmp_path: Path) -> None:
        card = copy_head(heads, "mask-mask-rich", tmp_path)
        edit(card, dim=7)
        with pytest.raises(WeightsError, match="does not fit its card"):
            load_head(str(card), "mask")

    def test_missing_tensors(self, heads: Path, tmp_path: Path) -> None:
        card = copy_head(heads, "mask-mask-rich", tmp_path)
        card.with_suffix(".safetensors").unlink()
        with pytest.raises(WeightsError, match="could not be read"):
            load_head(str(card), "mask")

    def test_backbone_weights_the_head_was_not_trained_on(self, heads: Path, tmp_path: Path) -> None:
        card = copy_head(heads, "mask-mask-rich", tmp_path)
        other = tiny_backbone(tmp_path, seed=1)
        backbone = json.loads(card.read_text())["backbone"]
        edit(card, backbone=backbone | {"weights": str(other)})
        with pytest.raises(WeightsError):
            make_mask_judge(Judge(head=str(card)))


class TestShipped:
    @pytest.mark.parametrize("task", TASKS)
    def test_cards_say_how_they_were_made_and_measured(self, task: str) -> None:
        head = load_head("", task)
        card = head.card
        assert card["name"] == SHIPPED[task]
        assert 0 < card["threshold"] < 1
        assert card["backbone"]["sha256"] == registry.REGISTRY["efficientnet_lite0"].sha256
        low, high = card["test"]["auc"][1:]
        assert 0.5 < low <= card["test"]["auc"][0] <= high <= 1
        assert card["data"]["made by"]

    def test_are_small(self) -> None:
        assert all(path.stat().st_size < 500_000 for path in HEADS.iterdir())

    @pytest.mark.skipif(
        not registry.cached("efficientnet_lite0"), reason="runs when `l2i weights pull efficientnet_lite0` has been run"
    )
    @pytest.mark.parametrize("task", TASKS)
    def test_score_with_the_real_backbone(self, task: str) -> None:
        judge = TASKS[task](Judge())
        scores = judge.score(*arrays_for(task, 2))
        assert judge.version == SHIPPED[task]
        assert ((scores > 0) & (scores < 1)).all()


def test_a_backbone_sees_the_whole_view_whatever_its_shape(heads: Path) -> None:
    from l2i_builder.judge.backbone import make_backbone

    backbone = make_backbone(BACKBONE, weights=str(heads / "backbone-0.safetensors"), sha256="")
    extract = Extractor(backbone, "mask-rich")
    side = backbone.side
    views = [np.full((40, 90, 3), 200, np.uint8), np.zeros((side, side, 3), np.uint8)]
    maps = list(extract.maps(views))
    assert len(maps) == 2
    assert maps[0].pooled.shape == maps[1].pooled.shape == (backbone.dim,)
    assert backbone.digest == file_sha256(heads / "backbone-0.safetensors")


class TestFormsForGpus:
    """What a GPU does, on the CPU: it changes the order of sums, and so at most the last digits of a score."""

    @pytest.mark.parametrize(("task", "family"), [("mask", "mask-standing"), ("inpainting", "inpainting-rich")])
    @pytest.mark.parametrize("form", ["batched", "channels last", "compiled"])
    def test_score_the_same(self, heads: Path, task: str, family: str, form: str) -> None:
        import torch

        from l2i_builder.device import prepare

        make, config = TASKS[task], Judge(head=str(heads / f"{task}-{family}.json"))
        arrays = arrays_for(task, 5)
        expected, judge = make(config).score(*arrays), make(config)
        extract = judge._extract
        if form == "batched":
            extract.step = 3
        elif form == "channels last":
            prepare(extract.backbone.module, extract.device, channels_last=True)
        else:  # traced as torch.compile does, with what was traced run as it is: no compiler is needed
            extract._forward = torch.compile(extract._network, backend="eager")
        np.testing.assert_allclose(judge.score(*arrays), expected, atol=1e-4)

    def test_compiling_is_part_of_what_is_built_only_where_it_is_done(self) -> None:
        from l2i_builder.output.manifest import identity

        assert "compile" not in identity(Judge())
        assert identity(Judge(compile=True))["compile"] is True
