"""The detector: torchvision's own code over a checkpoint made here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from l2i_builder.errors import ConfigError, WeightsError

MODEL = "ssdlite320_mobilenet_v3_large"  # torchvision's smallest


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights whose coarsest head is sure of category 18, a dog, everywhere; the others of nothing."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(MODEL, weights=None, weights_backbone=None, num_classes=91)
    with torch.no_grad():
        for module in model.head.classification_head.module_list:
            last = module[1]
            last.weight.zero_()
            last.bias.zero_()
            last.bias.view(-1, 91)[:, 0] = 20.0
        last.bias.view(-1, 91)[:, 18] = 40.0
    path = tmp_path_factory.mktemp("detector") / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


def test_objects_from_the_threshold_on_count_by_category(weights: Path) -> None:
    from l2i_builder.statistics.detector import Detector

    detector = Detector(MODEL, weights, threshold=0.5)
    images = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(2)]
    found = detector(images)
    assert len(found) == 2
    assert set(found[0]) == {"dog"}
    assert detector.digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    detector.threshold = 1.1
    assert detector(images) == [[], []]


def test_what_is_no_detector_or_does_not_fit_is_said(weights: Path, tmp_path: Path) -> None:
    from l2i_builder.statistics.detector import Detector

    with pytest.raises(ConfigError, match=r"choose one of .*fasterrcnn_resnet50_fpn_v2"):
        Detector("yolov7", weights)
    with pytest.raises(WeightsError, match=r"Fetch the weights of .* https://"):
        Detector(MODEL, tmp_path / "absent.pth")
    torch.save({"wrong": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        Detector(MODEL, tmp_path / "other.pth")
    torch.save(print, tmp_path / "code.pth")  # a pickle of anything but tensors is never loaded
    with pytest.raises(WeightsError, match="does not fit"):
        Detector(MODEL, tmp_path / "code.pth")


def test_weights_named_by_their_digest_must_have_it(weights: Path, tmp_path: Path) -> None:
    from l2i_builder.statistics.detector import Detector

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    named = [tmp_path / f"ssd-{first}.pth" for first in (digest[:8], "00000000")]
    for path in named:
        path.write_bytes(weights.read_bytes())
    assert Detector(MODEL, named[0]).digest == digest
    with pytest.raises(WeightsError, match="fetch it again"):
        Detector(MODEL, named[1])
    with pytest.raises(WeightsError, match="fetch it again"):
        Detector(MODEL, weights, sha256="ab" * 32)
