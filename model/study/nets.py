"""The small networks of the study: segmenters, the judge of masks, and one that reads a scene's attributes.

They stand for what the paper takes from elsewhere: ICON, the quality filter, people who draw masks, Inception and CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from l2i_builder.weights.registry import file_sha256
from model.text import words
from model.toy_scenes import COLOURS, SHAPES, TEXTURES

ATTRIBUTES = (TEXTURES, tuple(COLOURS), SHAPES, TEXTURES, tuple(COLOURS))  # in the order of the caption
_ATTRIBUTE_WORDS = (1, 2, 3, 6, 7)  # "a striped red circle on a plain blue ground"
BATCH = 32

Loss = Callable[[Tensor, Tensor], Tensor]  # of outputs and targets


class WeakSegmenter(nn.Sequential):
    """Image [N, 3, H, W] in 0..1 -> logits of the mask [N, 1, H, W]: dilated convolutions of few channels."""

    def __init__(self, width: int = 12) -> None:
        layers: list[nn.Module] = []
        for inputs, dilation in ((3, 1), (width, 2), (width, 4), (width, 2)):
            layers += [_conv(inputs, width, dilation), nn.GroupNorm(4, width), nn.ReLU()]
        super().__init__(*layers, _conv(width, 1))


class StrongSegmenter(nn.Module):
    """The same, another way: a U of three resolutions with skips."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, width), _block(width, 2 * width), _block(2 * width, 2 * width)])
        self.up = nn.ModuleList([_block(4 * width, width), _block(2 * width, width)])
        self.last = _conv(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if number else x)
            kept.append(x)
        for block, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([functional.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], 1))
        logits: Tensor = self.last(x)
        return logits


class MaskJudge(nn.Sequential):
    """Image and mask [N, 4, H, W] in 0..1 -> logit [N] that the mask is good."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(*_trunk(4, width), nn.Linear(4 * width, 1), nn.Flatten(0))


class AttributeReader(nn.Module):
    """Image [N, 3, H, W] in 0..1 -> logits of each attribute of a scene, [N, K] one beside the other."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.trunk = _trunk(3, width)
        self.heads = nn.Linear(4 * width, sum(len(names) for names in ATTRIBUTES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.heads(self.trunk(x))
        return logits


def attributes_of(caption: str) -> list[int]:
    """Return the numbers of a caption's texture, colour, shape, ground texture, ground colour. Raises ValueError."""
    found = words(caption)
    return [names.index(found[place]) for names, place in zip(ATTRIBUTES, _ATTRIBUTE_WORDS, strict=True)]


def attribute_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum of the attributes' cross entropies; wanted int64 [N, 5]."""
    parts = logits.split([len(names) for names in ATTRIBUTES], dim=1)
    return torch.stack([functional.cross_entropy(part, wanted[:, i]) for i, part in enumerate(parts)]).sum()


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross entropy; masks [N, 1, H, W] in 0..1."""
    return functional.binary_cross_entropy_with_logits(logits, masks)


def fit(net: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, steps: int, seed: int, rate: float = 3e-3) -> None:
    """Train on random batches of 32 with AdamW and one cycle of the learning rate; deterministic by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1)
    net.train()
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (BATCH,), generator=generator)
        optimiser.zero_grad()
        loss(net(inputs[chosen]), targets[chosen]).backward()
        optimiser.step()
        schedule.step()
    net.eval()


@torch.no_grad()
def predict(net: nn.Module, inputs: Tensor, batch: int = 256) -> Tensor:
    """Return the network's outputs, batch after batch."""
    return torch.cat([net(part) for part in inputs.split(batch)])


def pixels(images: Iterable[np.ndarray]) -> Tensor:
    """uint8 [N, H, W, 3] or [N, H, W] -> float32 [N, 3 or 1, H, W] in 0..1."""
    planes = torch.from_numpy(np.stack(list(images))).float() / 255
    return planes[:, None] if planes.ndim == 3 else planes.permute(0, 3, 1, 2)


def save(net: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    save_file(net.state_dict(), half)
    half.replace(path)


class MaskMaker:
    """A trained segmenter as evaluation and generate-then-segment take it: uint8 images to uint8 masks."""

    def __init__(self, net: nn.Module, weights: Path) -> None:
        net.load_state_dict(load_file(weights))
        self.net, self.digest = net.eval(), file_sha256(weights)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> uint8 [N, H, W]."""
        masks = predict(self.net, pixels(images)).sigmoid()[:, 0]
        return np.rint(masks.numpy() * 255).astype(np.uint8)


class AttributeScorer:
    """An ``AttributeReader`` as evaluation takes it: features for a Fréchet distance, and agreement with captions."""

    name = "a network that reads shape, colours and textures"

    def __init__(self, weights: Path) -> None:
        self.net = AttributeReader()
        self.net.load_state_dict(load_file(weights))
        self.net.eval()
        self.digest = file_sha256(weights)

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, D]."""
        return predict(self.net.trunk, pixels(images)).numpy()

    def right(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Return the share of a caption's five attributes that its image shows, float64 [N]."""
        parts = predict(self.net, pixels(images)).split([len(names) for names in ATTRIBUTES], dim=1)
        found = torch.stack([part.argmax(1) for part in parts], dim=1).numpy()
        return (found == np.array([attributes_of(text) for text in texts])).mean(1)


def _conv(inputs: int, outputs: int, dilation: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, stride=stride)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(inputs, outputs), nn.GroupNorm(4, outputs), nn.ReLU(), _conv(outputs, outputs), nn.ReLU()
    )


def _trunk(inputs: int, width: int) -> nn.Sequential:
    """[N, inputs, H, W] -> features [N, 4 * width]: means and maxima of what strided convolutions find."""
    return nn.Sequential(
        _conv(inputs, width), nn.ReLU(),
        _conv(width, 2 * width, stride=2), nn.GroupNorm(4, 2 * width), nn.ReLU(),
        _conv(2 * width, 2 * width, stride=2), nn.GroupNorm(4, 2 * width), nn.ReLU(),
        _conv(2 * width, 2 * width), nn.ReLU(),
        MeanAndMax(),
    )  # fmt: skip


class MeanAndMax(nn.Module):
    """[N, C, H, W] -> [N, 2C]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
