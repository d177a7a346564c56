"""Further objects are peeled off the background, round by round, and never decide what becomes of the sample."""

from __future__ import annotations

import numpy as np
import pytest
from layered_toy import FindLargest, discs, largest, layered_stages
from toy import ToyJudge, toy_config

from l2i_builder import layers, stages
from l2i_builder.peeling import Found, Take, Uncover, inpainted_share, with_peeling
from l2i_builder.report.reasons import PEEL_ENDS
from l2i_builder.run.resources import ORDER
from l2i_builder.sample import Batch, PeelEnd, Reason, Row

MODELS = ORDER[:-1]


@pytest.fixture
def config(tmp_path):
    keys = ("layers.count=4", "judge.mask.threshold=0", "judge.inpainting.threshold=0")
    return toy_config(tmp_path, tmp_path / "out", *keys)


def batch_of(*objects: int, audit: bool = False) -> Batch:
    rows = [Row(f"{i:032x}", f"http://toy.test/{i}", "toy", 0, i, audit=audit) for i in range(len(objects))]
    images = np.stack([discs(count, row.key) for count, row in zip(objects, rows, strict=True)])
    return Batch(rows, np.arange(len(rows)), shard_rows=len(rows), image=images)


def peel(config, batch: Batch, **parts) -> Batch:
    """Run all stages but encode; parts: attributes of stages, as ``segment=...``: the model of that name."""
    made = layered_stages(config, False, MODELS)
    for stage in made:
        model = parts.get(stage.name)
        if model is not None and not isinstance(stage, Found):
            setattr(stage, "judge" if stage.name.startswith("judge") else "model", model)
    return stages.run_stages(made, batch)


def ends(batch: Batch) -> list[tuple[int, str]]:
    return [(row.layers, row.peel_end) for row in batch.rows]


def test_objects_are_taken_one_behind_the_other_until_nothing_is_left_or_it_is_enough(config):
    batch = peel(config, batch_of(1, 2, 3))
    assert ends(batch) == [(2, "mask_empty"), (3, "mask_empty"), (4, "enough")]
    assert all(row.kept for row in batch.rows)
    third = batch.rows[2]
    assert [len(batch.peeled.get(row.index, ())) for row in batch.rows] == [0, 1, 2]
    assert third.peels[0].mask_area > third.peels[1].mask_area > 0
    (second_mask, behind_second), (third_mask, behind_third) = batch.peeled[third.index]
    assert second_mask[44, 44] == 255
    assert third_mask[14, 48] == 255
    assert behind_second[14, 48].min() > 250  # still there
    assert behind_third.max() < 250


def test_every_background_is_the_one_before_it_outside_the_hole(config):
    batch = peel(config, batch_of(3))
    before = batch.background[0]
    for mask, behind in batch.peeled[0]:
        outside = ~layers.hole(mask, 0.1, config.layers.dilate)
        assert (behind[outside] == before[outside]).all()
        before = behind


def test_the_facts_of_the_first_object_stay_those_of_the_sample(config):
    plain = peel(config.model_copy(update={"layers": config.layers.model_copy(update={"count": 2})}), batch_of(3))
    peeled = peel(config, batch_of(3))
    for name in ("mask_area", "hole_area", "mask_components", "mask_score", "inpainting_score", "verdict", "reason"):
        assert getattr(plain.rows[0], name) == getattr(peeled.rows[0], name)
    assert (plain.mask == peeled.mask).all()
    assert (plain.background == peeled.background).all()
    assert plain.features.keys() == peeled.features.keys()
    assert (plain.rows[0].layers, plain.peeled) == (-1, {})


class OnlyFirsts(ToyJudge):
    """Passes pictures in which the first object still is."""

    def features(self, images, *parts):
        first = (images[:, 16, 16].min(axis=-1) == 255).astype(np.float32)
        return np.stack([first, first], axis=1)


@pytest.mark.parametrize(
    ("stage", "end"), [("judge_mask", "mask_rejected"), ("judge_inpainting", "inpainting_rejected")]
)
def test_a_refused_further_object_ends_the_peeling_and_the_sample_is_kept(config, stage, end):
    batch = peel(config, batch_of(3, 1), **{stage: OnlyFirsts(0.5)})
    assert ends(batch) == [(2, end), (2, "mask_empty")]
    assert all(row.kept for row in batch.rows)
    assert batch.peeled == {}
    assert getattr(batch.rows[0].peels[0], stage.replace("judge_", "") + "_score") == 0.0
    assert batch.rows[0].mask_score >= 0


def test_a_trace_of_inpainting_is_no_object(config):
    def sees_the_hole_again(images):
        masks = np.zeros(images.shape[:3], np.uint8)
        masks[:, 8:24, 8:24] = 255
        return masks

    batch = peel(config, batch_of(1), segment=sees_the_hole_again)
    assert ends(batch) == [(2, "mask_inpainted")]
    assert batch.rows[0].peels[0].mask_area == 1 / 16


def test_the_share_in_former_holes_is_that_of_the_mask():
    mask, hole = np.zeros((16, 16), np.uint8), np.zeros((16, 16), bool)
    mask[:4, :8], hole[:, :2] = 255, True
    assert inpainted_share(mask, [hole]) == 0.25
    assert inpainted_share(mask, [hole, ~hole]) == 1.0
    assert inpainted_share(np.zeros_like(mask), [hole]) == 0.0


def test_further_objects_have_a_least_size_of_their_own(config):
    rule = config.layers.model_copy(update={"further": config.layers.further.model_copy(update={"min_area": 0.1})})
    batch = peel(config.model_copy(update={"layers": rule}), batch_of(3))
    assert ends(batch) == [(2, "mask_empty")]
    assert 0 < batch.rows[0].peels[0].mask_area < 0.1


def test_a_model_that_fails_on_one_background_ends_that_peeling_alone(config):
    def model(images):
        if (images[:, 16, 16].min(axis=-1) < 255).any() and (images[:, 14, 48].min(axis=-1) > 250).any():
            raise ValueError("cannot take it")
        return largest(images)

    batch = peel(config, batch_of(2, 3), segment=model)
    assert ends(batch) == [(3, "mask_empty"), (2, "stage_error")]
    assert all(row.kept for row in batch.rows)


def test_refused_samples_are_not_peeled_also_where_they_are_audited(config):
    refuses_all = ToyJudge()
    refuses_all.threshold = 2.0
    batch = peel(config, batch_of(3, audit=True), judge_mask=refuses_all)
    assert batch.rows[0].reason == "mask_rejected"
    assert ends(batch) == [(2, "")]
    assert len(batch) == 1


def test_a_sample_s_layers_do_not_depend_on_the_others_of_its_batch(config):
    together = peel(config, batch_of(3, 1, 2))
    alone = peel(config, batch_of(3))
    index = alone.rows[0].index
    for one, other in zip(together.peeled[index], alone.peeled[index], strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert together.rows[0] == alone.rows[0]


def test_two_rows_of_one_key_do_not_share_their_layers(config):
    batch = batch_of(3, 2)
    batch.rows[1].key = batch.rows[0].key
    batch = peel(config, batch)
    assert ends(batch) == [(4, "enough"), (3, "mask_empty")]
    assert [len(batch.peeled[index]) for index in (0, 1)] == [2, 1]


def test_further_rounds_are_counted_as_work_of_the_same_stages(config):
    batch = peel(config, batch_of(1, 2, 3))
    assert batch.images["segment"] == 3 + 3 + 2  # of three, then of the two that gave a second object
    assert batch.images["inpaint"] == 3 + 2 + 1
    assert batch.seconds.keys() == batch.images.keys()


def test_batches_without_pixels_pass_through(config):
    batch = batch_of(1)
    batch.rows[0].refuse(Reason.HTTP_4XX, "fetch")
    batch = peel(config, batch.compress([False]))
    assert (len(batch), batch.peeled, ends(batch)) == (0, {}, [(-1, "")])


def test_two_layers_need_no_rounds_and_encoding_actors_none_either(config):
    two = toy_config("m", "o")
    models = layered_stages(two, False, MODELS)
    assert with_peeling(models, two) == models
    encode = [stages.EncodeStage(config, "cpu", 1)]
    assert with_peeling(encode, config) == encode


def test_a_round_is_the_same_models_again_before_encoding(config):
    made = layered_stages(config, False, ORDER)
    one_round = ["uncover", "segment", "judge_mask", "inpaint", "judge_inpainting", "take"]
    assert [stage.name for stage in made] == [*MODELS, *one_round, *one_round, "encode"]
    assert len({id(stage) for stage in made if isinstance(stage, FindLargest | ToyJudge)}) == 1
    assert isinstance(made[4], Uncover)
    assert isinstance(made[9], Take)


def test_every_end_is_explained_and_shares_the_names_of_reasons():
    assert set(PEEL_ENDS) == set(PeelEnd)
    own = {PeelEnd.ENOUGH, PeelEnd.MASK_INPAINTED}
    assert {end.value for end in PeelEnd} - own <= {reason.value for reason in Reason}
