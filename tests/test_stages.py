"""What the stages do around the models: refuse, audit, preview, and survive one bad sample."""

import io

import numpy as np
import pytest
from PIL import Image
from toy import SIDE, ToyJudge, ToySource, toy_config, toy_stages, write_metadata

from l2i_builder import stages
from l2i_builder.ingest import planning
from l2i_builder.layers import hole
from l2i_builder.output.shards import MEMBERS
from l2i_builder.run.resources import ORDER
from l2i_builder.sample import Batch, Reason, Row


@pytest.fixture
def config(tmp_path):
    return toy_config(write_metadata(tmp_path / "metadata", rows=20), tmp_path / "out")


@pytest.fixture
def batch(config):
    return next(ToySource(config).batches(planning.plan(config).shards[0]))


def fresh(count, audit=False):
    rows = [Row(f"{i:032x}", f"http://toy.test/{i}", "toy", 0, i, audit=audit) for i in range(count)]
    images = np.random.default_rng(0).integers(0, 200, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return Batch(rows, np.arange(count), shard_rows=count, image=images)


class Stage:
    """A stage class around a given model."""

    def __new__(cls, kind, config, **parts):
        stage = kind.__new__(kind)
        stage.config = config
        vars(stage).update(parts)
        return stage


def block(side):
    def model(images):
        masks = np.zeros(images.shape[:3], np.uint8)
        masks[:, :side, :side] = 255
        return masks

    return model


@pytest.mark.parametrize(
    ("side", "reason"), [(0, Reason.MASK_EMPTY), (5, Reason.MASK_EMPTY), (32, ""), (SIDE, Reason.MASK_FULL)]
)
def test_selections_of_nothing_or_nearly_everything_never_meet_a_judge(config, side, reason):
    result = Stage(stages.SegmentStage, config, model=block(side))(fresh(2, audit=True))
    assert [row.reason for row in result.rows] == [reason, reason]
    assert len(result) == (0 if reason else 2)


def test_the_segmenter_leaves_the_facts_of_the_mask(config):
    row = Stage(stages.SegmentStage, config, model=block(32))(fresh(1)).rows[0]
    assert row.mask_area == 0.25
    assert row.mask_components == 1
    assert 0.25 < row.hole_area < 0.5


def test_a_bad_mask_is_never_inpainted_unless_audited(config):
    for audit in (False, True):
        batch = Stage(stages.SegmentStage, config, model=block(32))(fresh(8, audit))
        judge = Stage(stages.JudgeMaskStage, config, judge=ToyJudge())
        judge.judge.threshold = 2.0
        batch = judge(batch)
        assert {row.reason for row in batch.rows} == {"mask_rejected"}
        assert all(0 <= row.mask_score < 1 and row.mask_head == "toy-1" for row in batch.rows)
        assert len(batch) == (8 if audit else 0)


def test_the_background_is_the_image_outside_the_hole(config, batch):
    for stage in toy_stages(config, 0, "", ["segment", "judge_mask", "inpaint"]):
        batch = stage(batch)
    assert len(batch)
    for image, mask, background in zip(batch.image, batch.mask, batch.background, strict=True):
        outside = ~hole(mask, 0.1, config.layers.dilate)
        assert (background[outside] == image[outside]).all()
        assert (background[~outside] == 90).all()


def test_encoding_leaves_members_and_no_pixels(config, batch):
    batch = stages.run_stages(toy_stages(config, 0, "", ORDER), batch)
    kept = [row.key for row in batch.rows if row.kept]
    assert kept
    assert batch.image is batch.mask is batch.background is None
    assert all(tuple(batch.triplets[key]) == MEMBERS for key in kept)
    assert batch.seconds.keys() == batch.images.keys() == set(ORDER)


def test_refused_samples_leave_a_preview_of_what_was_there(config):
    batch = Stage(stages.SegmentStage, config, model=block(5))(fresh(3))
    assert set(batch.previews) == {row.key for row in batch.rows}
    strip = Image.open(io.BytesIO(batch.previews[batch.rows[0].key]))
    assert strip.size == (4 * config.previews.side, config.previews.side)


def test_previews_can_be_switched_off(tmp_path):
    config = toy_config(tmp_path, tmp_path, "previews.rejected_per_shard=0")
    assert Stage(stages.SegmentStage, config, model=block(5))(fresh(3)).previews == {}


def test_one_bad_sample_costs_that_sample_alone(config):
    def model(images):
        if (images[:, 0, 0, 0] == 255).any():
            raise ValueError("cannot take it")
        return block(32)(images)

    batch = fresh(10, audit=True)
    batch.image[:, 0, 0, 0] = 0
    batch.image[3, 0, 0, 0] = 255
    batch = Stage(stages.SegmentStage, config, model=model)(batch)
    assert [row.index for row in batch.rows if not row.kept] == [3]
    assert (batch.rows[3].reason, batch.rows[3].stage) == ("stage_error", "segment")
    assert batch.rows[3].detail == "ValueError: cannot take it"
    assert list(batch.live) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_failing_inpainter_does_not_pass_an_audited_row_on(config):
    def model(images, holes):
        raise RuntimeError("out of memory")

    batch = Stage(stages.SegmentStage, config, model=block(32))(fresh(1, audit=True))
    batch.rows[0].refuse(Reason.MASK_REJECTED, "judge_mask")
    batch = Stage(stages.InpaintStage, config, model=model)(batch)
    assert batch.rows[0].reason == "mask_rejected"
    assert len(batch) == 0


def test_a_stage_that_fails_for_all_is_broken_itself(config):
    def model(images):
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        Stage(stages.SegmentStage, config, model=model)(fresh(4))


def test_empty_batches_pass_through(config):
    batch = stages.run_stages(toy_stages(config, 0, "", ORDER), fresh(0))
    assert batch.triplets == {}
