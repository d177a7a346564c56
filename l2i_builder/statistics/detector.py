"""A detector that counts objects: one of torchvision's, over weights that the user has.

Weights are a state dict as torchvision publishes them, trained on COCO. They are read as tensors only, never unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.weights.registry import file_sha256

_NAMED = re.compile(r"-([0-9a-f]{8})\.pth$")  # torchvision puts the first digits of the SHA-256 into the name


class Detector:
    """See ``options.Finder``. Boxes under ``threshold`` do not count."""

    def __init__(self, name: str, weights: Path, device: str = "cpu", threshold: float = 0.5, sha256: str = "") -> None:
        """name: a detection model of torchvision; sha256: digest that the weights must have, "" = any.

        Raises ConfigError for a model that is not there, WeightsError where the file is missing, has another digest or
        does not fit.
        """
        from torchvision import models

        if name not in models.list_models(module=models.detection):
            known = ", ".join(models.list_models(module=models.detection))
            raise ConfigError(f"torchvision has no detector {name!r}; choose one of {known}")
        published = models.get_model_weights(name).DEFAULT
        self.categories: Sequence[str] = published.meta["categories"]
        self.name, self.threshold, self.device = name, threshold, device
        self.digest = _checked(weights, sha256, name, published.url)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            model = models.get_model(name, weights=None, weights_backbone=None, num_classes=len(self.categories))
            model.load_state_dict(state)
        except Exception as problem:  # torch raises nearly anything on files that are no state dict
            said = " ".join(str(problem).split())[:200]
            raise WeightsError(f"{weights} does not fit {name}: {said}. Its own weights: {published.url}") from problem
        self.model: Any = model.eval().to(device)

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> list[list[str]]:
        """Return for each image (uint8 [H, W, 3]) the categories of its objects, best first."""
        tensors = [torch.from_numpy(image).permute(2, 0, 1).float().div(255).to(self.device) for image in images]
        found = []
        for boxes in self.model(tensors):
            labels = boxes["labels"][boxes["scores"] >= self.threshold].tolist()
            found.append([self.categories[label] for label in labels])
        return found


def _checked(weights: Path, sha256: str, name: str, url: str) -> str:
    """Return the digest of the weights' file, after comparing it with what it must be."""
    if not weights.is_file():
        raise WeightsError(f"{weights} is not there. Fetch the weights of {name} once: {url}")
    digest = file_sha256(weights)
    named = _NAMED.search(weights.name)
    expected = sha256.lower() or (named[1] if named else "")
    if not digest.startswith(expected):
        raise WeightsError(f"{weights} has SHA-256 {digest}, not {expected}…: fetch it again from {url}")
    return digest
