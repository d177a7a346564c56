"""A stored sample as the pixels a model is trained on: decoded, scaled, cropped and mirrored, all members alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import REBUILD
from model.config import Data
from model.losses import INSIDE

CHANNELS = 10  # foreground 3, background 3, mask 1, image 3
SOLID = 0.95  # m above it shows no background: colours to continue outwards
_WANTED = ("jpg", "bg.jpg", "mask.png", "txt")


@dataclass
class Batch:
    """Samples as they leave the loader.

    pixels: uint8 [N, 10, S, S]: F, B, m, I; empty [N, 0] for cached latents. moments: float16 [N, 2C, h, w] for
    cached latents, else None.
    """

    keys: list[str]
    captions: list[str]
    pixels: Tensor
    moments: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> Batch:
        moments = None if self.moments is None else self.moments.to(device, non_blocking=True)
        return Batch(self.keys, self.captions, self.pixels.to(device, non_blocking=True), moments)

    def layers(self) -> Tensor:
        """Return F, B in -1..1 and m in 0..1, float32 [N, 7, S, S]."""
        pixels = self.pixels[:, :7].float() / 255
        return torch.cat([2 * pixels[:, :6] - 1, pixels[:, 6:]], dim=1)

    def image(self) -> Tensor:
        """Return I in -1..1, float32 [N, 3, S, S]."""
        return self.pixels[:, 7:].float() / 127.5 - 1


@dataclass(frozen=True)
class View:
    """What of a sample is seen: a square, ``side`` as a share of the shorter side, and whether it is mirrored.

    top, left: where in the room that the square leaves, 0..1.
    """

    top: float = 0.5
    left: float = 0.5
    side: float = 1.0
    mirrored: bool = False


def draw_view(key: str, epoch: int, seed: int, config: Data) -> View:
    """Return a sample's view in an epoch: the same on every machine, rank and worker."""
    if config.crop >= 1 and not config.flip:
        return View()
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=32).digest()
    side, top, left, mirrored = (int.from_bytes(digest[i : i + 8]) / 2**64 for i in range(0, 32, 8))
    return View(top, left, config.crop + side * (1 - config.crop), config.flip and mirrored < 0.5)


def decode(key: str, members: Mapping[str, bytes], config: Data, view: View, url: str = "") -> np.ndarray:
    """Return a stored sample as uint8 [10, S, S]: F, B, m, I (``Data.foreground`` says how F is made).

    Raises OutputError on a missing or damaged member, ConfigError where the sample is smaller than ``data.size``.
    """
    wanted = (*_WANTED, "fg.png") if config.foreground == "stored" else _WANTED
    missing = [suffix for suffix in wanted if suffix not in members]
    if missing:
        raise OutputError(f"{url}: sample {key} lacks {', '.join(missing)}. {REBUILD}")
    image = _open(members, "jpg", cv2.IMREAD_COLOR_RGB, key, url)
    background = _open(members, "bg.jpg", cv2.IMREAD_COLOR_RGB, key, url)
    mask = _open(members, "mask.png", cv2.IMREAD_GRAYSCALE, key, url)
    if not image.shape[:2] == background.shape[:2] == mask.shape:
        raise OutputError(f"{url}: the layers of {key} differ in size. {REBUILD}")
    if min(mask.shape) < config.size:
        raise ConfigError(
            f"{url} holds images of {mask.shape[1]}x{mask.shape[0]} pixels, data.size is {config.size}; lower "
            "data.size, or build the shards with a larger image.size"
        )
    image, background, mask = (_see(plane, view, config.size) for plane in (image, background, mask))
    if config.foreground == "stored":
        foreground = _see(_open(members, "fg.png", cv2.IMREAD_COLOR_RGB, key, url), view, config.size)
    else:
        foreground = _foreground(image, mask, members, config)
    planes = np.empty((config.size, config.size, CHANNELS), np.uint8)
    planes[..., :3], planes[..., 3:6], planes[..., 6], planes[..., 7:] = foreground, background, mask, image
    if view.mirrored:
        planes = planes[:, ::-1]
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def pad_colours(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the image with the colours of ``inside`` (bool [H, W]) continued outwards, smoother the farther.

    Push-pull over a pyramid of weighted means (Gortler et al. 1996). image uint8 [H, W, 3]; nothing inside: black.
    """
    weights: list[np.ndarray] = [inside.astype(np.float32)]
    colours: list[np.ndarray] = [image.astype(np.float32) * weights[0][..., None]]
    while min(weights[-1].shape) > 1:
        half = (max(weights[-1].shape[1] // 2, 1), max(weights[-1].shape[0] // 2, 1))
        weights.append(cv2.resize(weights[-1], half, interpolation=cv2.INTER_AREA))
        colours.append(cv2.resize(colours[-1], half, interpolation=cv2.INTER_AREA).reshape(*half[::-1], 3))
    filled = colours[-1] / np.maximum(weights[-1], 1e-6)[..., None]
    for weight, colour in zip(reversed(weights[:-1]), reversed(colours[:-1]), strict=True):
        wider = cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(*weight.shape, 3)
        share = np.minimum(weight, 1)[..., None]
        filled = colour + (1 - share) * wider  # colour is already weighted
    return np.where(inside[..., None], image, np.rint(np.clip(filled, 0, 255)).astype(np.uint8))


def _foreground(image: np.ndarray, mask: np.ndarray, members: Mapping[str, bytes], config: Data) -> np.ndarray:
    """Cut F at the training size, so that no fill bleeds into its edge (paper, section 3: I where m > 0.1)."""
    threshold = json.loads(members["json"]).get("foreground_threshold", INSIDE) if "json" in members else INSIDE
    inside = mask > threshold * 255
    if config.foreground == "padded":
        solid = mask > SOLID * 255
        padded = pad_colours(image, solid if solid.any() else inside)
        return cv2.copyTo(image, inside.view(np.uint8), padded)
    result = np.empty_like(image)
    result[:] = config.fill
    return cv2.copyTo(image, inside.view(np.uint8), result)


def _see(plane: np.ndarray, view: View, size: int) -> np.ndarray:
    height, width = plane.shape[:2]
    side = max(round(view.side * min(height, width)), 1)
    top, left = round(view.top * (height - side)), round(view.left * (width - side))
    plane = plane[top : top + side, left : left + side]
    if side == size:
        return plane
    return cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def _open(members: Mapping[str, bytes], suffix: str, flags: int, key: str, url: str) -> np.ndarray:
    plane = cv2.imdecode(np.frombuffer(members[suffix], np.uint8), flags) if members[suffix] else None
    if plane is None:
        raise OutputError(f"{url}: {key}.{suffix} does not decode. {REBUILD}")
    return plane
