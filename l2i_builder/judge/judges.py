"""The two quality filters (paper, section 3): is the mask good, is the inpainting good?

A judge is a frozen backbone, a family of features (``judge_features``) and a trained head. The paper's is an
EfficientNet-b0 with one trained neuron; heads of that form (``*-plain``) and richer ones load the same way. A head
is two files, ``name.safetensors`` and its card ``name.json``, and is bound to the digest of the backbone's weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from l2i_builder.config import Judge
from l2i_builder.device import at_once, autocast, compiled, uploads
from l2i_builder.errors import WeightsError
from l2i_builder.judge.backbone import Backbone, make_backbone
from l2i_builder.judge.features import FAMILIES, Maps, Sample
from l2i_builder.weights.registry import file_sha256

if TYPE_CHECKING:
    import torch

HEADS = Path(__file__).parent / "heads"
SHIPPED = {"mask": "mask-v1", "inpainting": "inpainting-v2"}
_CARD_KEYS = ("name", "task", "features", "dim", "threshold", "backbone", "sha256")


@dataclass(frozen=True)
class Head:
    """A trained head: z-score, at most one hidden layer (ReLU), one neuron, temperature, sigmoid.

    ``tensors``: centre, scale [D]; w1 [K, D], b1 [K]; w2 [K], b2 []; temperature []. A logistic layer has no w1
    and b1, and w2 [D]. All float32. ``card`` is the JSON card; ``digest`` covers everything that decides a score
    or a verdict: tensors, features, backbone, threshold.
    """

    card: dict[str, Any]
    tensors: dict[str, np.ndarray]
    digest: str

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return P(good), float32 [N] in 0..1, of features float32 [N, D]. Rows do not depend on each other."""
        if features.ndim != 2 or features.shape[1] != self.card["dim"]:
            raise ValueError(f"head {self.card['name']} wants features [N, {self.card['dim']}], got {features.shape}")
        t = self.tensors
        scores = np.empty(len(features), np.float32)
        for i, row in enumerate(features):  # one by one: a batched product rounds by batch size
            hidden = np.clip((row - t["centre"]) / t["scale"], -CLIP, CLIP)
            if "w1" in t:
                hidden = np.maximum(t["w1"] @ hidden + t["b1"], 0)
            logit = float(t["w2"] @ hidden + t["b2"]) / float(t["temperature"])
            scores[i] = 1 / (1 + np.exp(-np.clip(logit, -15, 15)))
        return scores


CLIP = 4.0  # z-scores beyond it say "unlike anything seen", not "more"


def load_head(name: str, task: str) -> Head:
    """Load a head by shipped name, or by the path of its card or tensors; ``name`` "" is the one shipped for a task.

    Raises WeightsError when it is missing, damaged, made for another task, or wants features this version lacks.
    """
    path = card_path(name or SHIPPED[task])
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _CARD_KEYS if key not in card]
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"the head's card {path} could not be read: {error}") from error
    if missing:
        raise WeightsError(f"the head's card {path} lacks {', '.join(missing)}; train the head again")
    if card["task"] != task:
        raise WeightsError(f"{path} judges {card['task']}, not {task}: give judge.{task}.head another head")
    if card["features"] not in FAMILIES:
        raise WeightsError(f"{path} wants the features {card['features']!r}, known are {', '.join(FAMILIES)}")
    tensors = _load_tensors(path.with_suffix(".safetensors"), card)
    decisive = [card["sha256"], card["features"], card["backbone"]["sha256"], repr(float(card["threshold"]))]
    return Head(card, tensors, hashlib.sha256("\n".join(decisive).encode()).hexdigest())


def feature_kind(head: Head) -> dict[str, Any]:
    """Return what a head's features are made with, and its name: the ``kinds`` of ``output/features.py``."""
    card = head.card
    backbone = {"backbone": card["backbone"]["name"], "backbone_sha256": card["backbone"]["sha256"]}
    return {"head": card["name"], "features": card["features"], "dim": card["dim"], **backbone}


def card_path(name: str) -> Path:
    """Return the path of a head's card, of a shipped name or a path. Raises WeightsError where there is none."""
    shipped = HEADS / f"{name}.json"
    if "/" not in name and shipped.is_file():
        return shipped
    path = Path(name).expanduser().with_suffix(".json")
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in HEADS.glob("*.json")))
        raise WeightsError(f"there is no head {name!r}: give the path of a trained head, or one of {names}")
    return path


def _load_tensors(path: Path, card: dict[str, Any]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if file_sha256(path) != card["sha256"]:
            raise WeightsError(f"{path} is not the file its card describes (SHA-256 differs); train the head again")
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"the head's tensors {path} could not be read: {error}") from error
    dim = card["dim"]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    hidden = shapes["w1"][0] if "w1" in shapes else 0
    wanted = {"centre": (dim,), "scale": (dim,), "w2": (hidden or dim,), "b2": (), "temperature": ()}
    if hidden:
        wanted |= {"w1": (hidden, dim), "b1": (hidden,)}
    if shapes != wanted:
        raise WeightsError(f"{path} does not fit its card: has {shapes}, wants {wanted}")
    return tensors


class Extractor:
    """Makes feature vectors of one family: the views of a sample through a frozen backbone, then the vector.

    On the CPU views go through one at a time, so that a vector does not depend on its batch; on a GPU ``batch`` of
    them together, in bfloat16 where it has it.
    """

    def __init__(
        self, backbone: Backbone, family: str, device: str = "cpu", batch: int = 16, compile: bool = False
    ) -> None:
        import torch

        self.backbone, self.family, self.device = backbone, FAMILIES[family], torch.device(device)
        self.step = batch if self.device.type == "cuda" else 1  # views a forward pass
        self._forward = compiled(self._network, compile)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Return float32 [N, D] of arrays [N, ...] (``judge.features`` says which)."""
        samples: list[Sample] = list(zip(*arrays, strict=True))
        views = [self.family.views(sample) for sample in samples]
        maps = self.maps([view for sample in views for view in sample])
        vectors = [
            self.family.vector(sample, [next(maps) for _ in own]) for sample, own in zip(samples, views, strict=True)
        ]
        return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

    def maps(self, views: Sequence[np.ndarray]) -> Iterator[Maps]:
        import torch

        chunks = (
            (np.stack([self._scaled(view) for view in views[i : i + self.step]]),)
            for i in range(0, len(views), self.step)
        )
        for (pixels,) in uploads(chunks, self.device):
            with torch.inference_mode(), autocast("auto", self.device):
                pooled, stages = self._forward(self._input(pixels))
            levels = [stage.float().cpu().numpy() for stage in stages]
            for i, vector in enumerate(pooled.float().cpu().numpy()):
                yield Maps(vector, tuple(level[i] for level in levels))

    def _network(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """x float32 [N, 3, side, side] -> pooled features [N, C] and those of every stage, fine to coarse."""
        final, stages = self.backbone.module.forward_intermediates(x)  # type: ignore[operator]
        return self.backbone.module.forward_head(final), stages  # type: ignore[operator]

    def _scaled(self, view: np.ndarray) -> np.ndarray:
        """Return a view at the backbone's size: the whole of it, no centre crop, since objects reach borders."""
        side = self.backbone.side
        growing = min(view.shape[:2]) < side
        return cv2.resize(view, (side, side), interpolation=cv2.INTER_CUBIC if growing else cv2.INTER_AREA)

    def _input(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels [N, side, side, 3] in 0..255 as the backbone wants them, float32 [N, 3, side, side].

        Channels last in memory, as they come: the layout of the backbone's weights.
        """
        x = pixels.permute(0, 3, 1, 2).float()
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.backbone.mean, self.backbone.std))
        return (x / 255 - mean) / std


class _Scorer:
    """What both judges share. ``version`` names the head in the ledger; ``threshold``: keep at or above it."""

    task: str

    def __init__(self, config: Judge, device: str = "cpu", threads: int = 1) -> None:
        self.head = load_head(config.head, self.task)
        card = self.head.card
        wanted = card["backbone"]
        backbone = make_backbone(wanted["name"], device, wanted.get("weights", ""), wanted["sha256"], threads)
        if backbone.digest != wanted["sha256"]:
            raise WeightsError(
                f"head {card['name']} was trained on {wanted['name']} {wanted['sha256'][:12]}…, the weights at hand "
                f"are {backbone.digest[:12]}…: scores would mean nothing. Pull those weights, or train the head again"
            )
        cv2.setNumThreads(threads)
        self._extract = Extractor(backbone, card["features"], device, config.batch, config.compile)
        self.at_once = at_once(config.batch, self._extract.device)
        self.version: str = card["name"]
        self.digest = self.head.digest
        self.threshold = config.threshold if config.threshold >= 0 else float(card["threshold"])

    @property
    def kind(self) -> dict[str, Any]:
        """What made the features, stored beside them: heads of another kind cannot score them."""
        return feature_kind(self.head)

    def score_features(self, features: np.ndarray) -> np.ndarray:
        """Return P(good), float32 [N] in 0..1, of features float32 [N, D] as ``features`` gives them."""
        return self.head.predict(features)

    def _features(self, *arrays: np.ndarray) -> np.ndarray:
        features = self._extract(*arrays)
        return features if len(features) else np.zeros((0, self.head.card["dim"]), np.float32)


class MaskJudge(_Scorer):
    """Good: the object is whole, the mask holds no background, the selection is not too small."""

    task = "mask"

    def features(self, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Return float32 [N, D] of images uint8 [N, H, W, 3] and soft masks uint8 [N, H, W]."""
        return self._features(images, masks)

    def score(self, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Return P(mask is good), float32 [N] in 0..1. Arrays as in ``features``."""
        return self.score_features(self.features(images, masks))


class InpaintingJudge(_Scorer):
    """Good: no object or artefact in the inpainted region, and it coheres with the rest."""

    task = "inpainting"

    def features(self, images: np.ndarray, masks: np.ndarray, backgrounds: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """Return float32 [N, D] of I and B uint8 [N, H, W, 3], m uint8 [N, H, W] and holes bool [N, H, W]."""
        return self._features(images, masks, backgrounds, holes)

    def score(self, images: np.ndarray, masks: np.ndarray, backgrounds: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """Return P(inpainting is good), float32 [N] in 0..1. Arrays as in ``features``."""
        return self.score_features(self.features(images, masks, backgrounds, holes))


def make_mask_judge(config: Judge, device: str = "cpu", threads: int = 1) -> MaskJudge:
    """Load the mask filter onto ``device`` ("cpu", "cuda", "cuda:1"), for ``threads`` CPU threads.

    Raises WeightsError when the head or its backbone is missing, damaged, or they do not fit each other.
    """
    return MaskJudge(config, device, threads)


def make_inpainting_judge(config: Judge, device: str = "cpu", threads: int = 1) -> InpaintingJudge:
    """Load the inpainting filter; see ``make_mask_judge``."""
    return InpaintingJudge(config, device, threads)
