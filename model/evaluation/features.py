"""Feature extractors for the Fréchet distance. Only one of them makes the number an FID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch

from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.weights import registry
from model.messages import said

BATCH = 16


class Extractor(Protocol):
    """Callable: images uint8 [N, H, W, 3] -> features float32 [N, D]. An image's features depend on it alone."""

    name: str  # what the tables call it
    metric: str  # what its distance may be called
    digest: str  # SHA-256 of the weights

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class InceptionExtractor:
    """Clean-FID's features (Parmar et al. 2022): resized by Pillow's bicubic filter in float, then FID's Inception.

    The network is pytorch-fid's port of the weights of 2015-12-05, as ``clean-fid`` carries it, loaded from a pinned
    file. Its distance is the FID.
    """

    metric = "FID"

    def __init__(self, device: str = "cpu") -> None:
        """Raises WeightsError when the weights cannot be fetched or have another digest."""
        path = registry.pull("inception")
        self.digest = registry.lookup("inception").sha256
        self.name = "Inception 2015-12-05, clean"
        self.model = inception(torch.load(path, map_location="cpu", weights_only=True)).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        from cleanfid.resize import build_resizer

        resize = build_resizer("clean")
        x = torch.stack([torch.from_numpy(resize(image)) for image in images]).permute(0, 3, 1, 2)
        return self.model(x.to(self.device) / 255)[0][:, :, 0, 0].cpu().numpy()


class BackboneExtractor:
    """Pooled features of an ImageNet backbone (the judges'): a substitute where Inception cannot be had."""

    def __init__(self, backbone: str = "tf_efficientnet_lite0", device: str = "cpu", weights: str = "") -> None:
        """``weights``: file; empty = the registry's. Raises WeightsError when they cannot be had."""
        from l2i_builder.judge.backbone import make_backbone

        self.backbone = make_backbone(backbone, device, weights, threads=torch.get_num_threads())
        self.name = self.backbone.name
        self.metric = f"FD ({self.name})"
        self.digest = self.backbone.digest
        self.device = device

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        from PIL import Image

        facts = self.backbone
        how = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[facts.interpolation]
        # The whole image, without the centre crop: what is generated at the edges counts.
        small = [np.asarray(Image.fromarray(image).resize((facts.side,) * 2, how)) for image in images]
        x = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (facts.mean, facts.std))
        return facts.module(((x - mean) / std).to(self.device)).float().cpu().numpy()


def make_extractor(name: str, device: str = "cpu") -> Extractor:
    """Return an extractor: "inception" (FID), or a timm model of the judges such as "tf_efficientnet_lite0".

    Raises ConfigError for an unknown name, WeightsError when its weights cannot be had.
    """
    if name == "inception":
        try:
            return InceptionExtractor(device)
        except WeightsError as error:
            raise WeightsError(f"{error}. Offline, choose extractor=tf_efficientnet_lite0: not an FID") from error
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"no extractor is called {name!r}; choose inception or a timm model, tf_efficientnet_lite0")
    return BackboneExtractor(name, device)


def features(extractor: Extractor, images: Iterable[np.ndarray], batch: int = BATCH) -> np.ndarray:
    """Return features float32 [N, D] of images uint8 [H, W, 3]; those of one size go together."""
    found = [extractor(stack) for stack in _stacks(images, batch)]
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def inception(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return FID's Inception over a state dict: images [N, 3, 299, 299] in 0..1 -> [features [N, 2048, 1, 1]].

    Raises WeightsError when the weights do not fit.
    """
    from cleanfid import inception_pytorch

    original = inception_pytorch.load_state_dict_from_url
    inception_pytorch.load_state_dict_from_url = lambda *_, **__: state  # never fetched behind our back
    try:
        return inception_pytorch.InceptionV3(resize_input=False, normalize_input=True).eval()
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit FID's Inception: {said(error)}") from error
    finally:
        inception_pytorch.load_state_dict_from_url = original


def _stacks(images: Iterable[np.ndarray], batch: int) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    for image in images:
        if waiting and (len(waiting) == batch or image.shape != waiting[0].shape):
            yield np.stack(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield np.stack(waiting)
