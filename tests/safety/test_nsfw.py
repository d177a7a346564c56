"""The NSFW stage: refuses before anything is drawn or kept; the real network is tried where its weights are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples import noise, scene
from tiny_onnx import saliency_model

from l2i_builder.config import Config, Nsfw
from l2i_builder.errors import WeightsError
from l2i_builder.run.build import weight_digests
from l2i_builder.safety.nsfw import WEIGHTS, NsfwModel, NsfwStage, prepared
from l2i_builder.sample import Batch, Row
from l2i_builder.stages import SegmentStage, make_stages
from l2i_builder.weights import registry

needs_weights = pytest.mark.skipif(
    not registry.cached(WEIGHTS), reason="runs where the weights are: l2i weights pull open_nsfw"
)


def batch_of(count: int) -> Batch:
    rows = [Row(f"{i:032x}", "http://a.test", "x", 0, i, audit=i == 1) for i in range(count)]
    return Batch(rows, np.arange(count), count, image=np.stack([scene(i) for i in range(count)]))


def stage(threshold: float = 0.8) -> NsfwStage:
    """The stage around a model that knows the answers: 0.1, 0.9, 0.8, 0.79."""
    made = NsfwStage.__new__(NsfwStage)
    made.config = Config(image={"size": 64}, safety={"nsfw": {"enabled": True, "threshold": threshold}})
    answers = {scene(i).tobytes(): score for i, score in enumerate((0.1, 0.9, 0.8, 0.79))}
    made.model = lambda images: np.array([answers[image.tobytes()] for image in images], np.float64)  # type: ignore[assignment]
    return made


def test_images_at_or_above_the_threshold_are_refused_also_in_the_audit_slice() -> None:
    batch = stage()(batch_of(4))
    assert [row.reason for row in batch.rows] == ["", "unsafe", "unsafe", ""]
    assert [row.nsfw_score for row in batch.rows] == [0.1, 0.9, 0.8, 0.79]
    assert batch.rows[1].stage == "nsfw"
    assert batch.live.tolist() == [0, 3]
    assert len(batch.image) == 2  # type: ignore[arg-type]
    assert batch.previews == {}


def test_the_network_sees_the_middle_in_blue_green_red_less_the_mean() -> None:
    red = np.zeros((100, 80, 3), np.uint8)
    red[..., 0] = 255
    seen = prepared(red)
    assert seen.shape == (224, 224, 3)
    assert seen.dtype == np.float32
    assert np.allclose(seen[0, 0], [-104, -117, 255 - 123], atol=3)  # by way of a JPEG


def test_it_runs_before_the_segmenter_in_its_actor_and_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentStage, "__init__", lambda *_: None)
    monkeypatch.setattr(NsfwStage, "__init__", lambda *_: None)
    on = Config(safety={"nsfw": {"enabled": True}})
    assert [s.name for s in make_stages(["segment", "encode"], on)] == ["nsfw", "segment", "encode"]
    assert [s.name for s in make_stages(["encode"], on)] == ["encode"]
    assert [s.name for s in make_stages(["segment", "encode"], Config())] == ["segment", "encode"]


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(saliency_model(32))
    with pytest.raises(WeightsError, match="no NSFW model"):
        NsfwModel(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="could not be loaded"):
        NsfwModel(tmp_path / "x.onnx")


@needs_weights
def test_the_real_network_finds_noise_and_shapes_harmless_whatever_is_beside_them() -> None:
    model = NsfwModel(registry.pull(WEIGHTS))
    images = np.stack([noise(1, 256), scene(2, 256), np.full((256, 256, 3), 255, np.uint8)])
    scores = model(images)
    assert ((scores >= 0) & (scores < 0.5)).all()
    assert scores.tolist() == [float(model(image[None])[0]) for image in images]


@needs_weights
def test_its_weights_are_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(
        segment={"backend": "u2netp", "weights": str(registry.pull(WEIGHTS))},
        judge={"mask": {"enabled": False}, "inpainting": {"enabled": False}},
        safety={"nsfw": Nsfw(enabled=True)},
    )
    assert registry.REGISTRY[WEIGHTS].sha256 in weight_digests(config).values()
    assert any(name.startswith("nsfw: ") for name in weight_digests(config))
