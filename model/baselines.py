"""Whatever turns prompts into pictures, and the paper's baselines among them.

| row of Table I or II | how |
|---|---|
| SD-LAION-L2I | preset ``sd-laion-l2i``: ``rgb_autoencoder.ImageAutoencoder`` |
| SD-AE-UNet | preset ``sd-ae-unet``: ``rgb_autoencoder.SeparateAutoencoder`` |
| SD-AE-UNet (ft) | preset ``sd-ae-unet-ft``: the same, UNet from SD-v1-4 |
| CaT2I-AE-SD (no-sup) | preset ``paper-no-sup`` |
| SD-v1-4 | ``StableDiffusion``, not trained |
| generate-then-segment | ``GenerateThenSegment`` over any generator |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch

from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.layers import foreground, hole
from l2i_builder.weights.registry import file_sha256
from model.export import LayeredImage
from model.messages import said
from model.pipeline import GUIDANCE, STEPS, Text2LayerPipeline
from model.rgb_autoencoder import SD


class Generator(Protocol):
    """Prompts and a seed for each -> layered images, or plain pictures (``LayeredImage`` without objects)."""

    layered: bool
    digest: str  # of all weights; "" where it has none
    segmenter: str  # digest of the segmenter that made its masks; "" where the model itself did

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]: ...


class PipelineGenerator:
    """A ``Text2LayerPipeline`` at fixed settings; an image depends on its own prompt and seed."""

    segmenter = ""

    def __init__(
        self, pipeline: Text2LayerPipeline, steps: int = STEPS, guidance: float = GUIDANCE, digest: str = ""
    ) -> None:
        self.pipeline, self.steps, self.guidance, self.digest = pipeline, steps, guidance, digest
        self.layered = bool(getattr(pipeline.autoencoder, "layered", True))
        pipeline.set_progress_bar_config(disable=True)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]:
        done = self.pipeline(
            prompts, num_inference_steps=self.steps, guidance_scale=self.guidance, generator=_generators(seeds)
        )
        return done.layered()


class StableDiffusion:
    """SD-v1-4 as it is, or any pipeline of diffusers that turns prompts into pictures."""

    layered = False
    segmenter = ""

    def __init__(
        self,
        source: str = SD[0],
        revision: str = "",
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        device: str = "cpu",
    ) -> None:
        """Load it from a folder or the hub. Raises WeightsError when it cannot be loaded."""
        from diffusers import StableDiffusionPipeline

        revision = revision or (SD[1] if source == SD[0] else "")
        try:
            self.pipeline = StableDiffusionPipeline.from_pretrained(
                source,
                revision=revision or None,
                use_safetensors=True,
                safety_checker=None,
                requires_safety_checker=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"{source} holds no Stable Diffusion pipeline: {said(error)}. It needs the "
                "network once, or a folder that holds it"
            ) from error
        self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.digest = weights_digest(source) if Path(source).is_dir() else f"{source}@{revision}"
        self.steps, self.guidance = steps, guidance

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]:
        pictures = self.pipeline(
            list(prompts),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=_generators(seeds),
            output_type="np",
        ).images
        pixels = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)
        return [LayeredImage(picture, prompt=prompt) for picture, prompt in zip(pixels, prompts, strict=True)]


class GenerateThenSegment:
    """The alternative to generating layers: generate a picture, segment it, fill the hole.

    Its mask *is* the segmenter's, so that judged by the same segmenter it scores 1 by construction.
    """

    layered = True

    def __init__(
        self,
        generator: Generator,
        segmenter: Callable[[np.ndarray], np.ndarray],
        digest: str,
        inpainter: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        threshold: float = 0.1,
        dilate: int = 9,
    ) -> None:
        """segmenter: uint8 [N, H, W, 3] -> masks uint8 [N, H, W]; inpainter: images and holes bool [N, H, W] ->
        backgrounds, without one the picture itself stays as background; ``threshold``, ``dilate``: as for shards."""
        self.generator, self.segment, self.segmenter, self.inpaint = generator, segmenter, digest, inpainter
        self.threshold, self.dilate = threshold, dilate
        self.digest = f"{generator.digest} {digest}"

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]:
        pictures = np.stack([image.composite for image in self.generator(prompts, seeds)])
        masks = self.segment(pictures)
        backgrounds = pictures
        if self.inpaint is not None:
            holes = np.stack([hole(mask, self.threshold, self.dilate) for mask in masks])
            backgrounds = self.inpaint(pictures, holes)
        return [
            LayeredImage(background, foreground(picture, mask, self.threshold, (0, 0, 0)), mask, prompt)
            for background, picture, mask, prompt in zip(backgrounds, pictures, masks, prompts, strict=True)
        ]


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def make_generator(source: str, steps: int = STEPS, guidance: float = GUIDANCE, device: str = "cpu") -> Generator:
    """Return the generator that a row of the tables names.

    A folder that ``Text2LayerPipeline.save_pretrained`` wrote; "sd-v1-4" or "sd:<folder or hub id>" for Stable
    Diffusion as it is; "segment:<any of these>" for generate-then-segment with U2-Net and PatchMatch, the embedded
    defaults, or "segment-<backend>:..." for another segmenter. Raises WeightsError, ConfigError.
    """
    kind, _, rest = source.partition(":")
    if kind == "segment" or kind.startswith("segment-"):
        backend = kind.removeprefix("segment").removeprefix("-")
        return _then_segment(make_generator(rest, steps, guidance, device), backend, device)
    if source == "sd-v1-4":
        return StableDiffusion(steps=steps, guidance=guidance, device=device)
    if kind == "sd" and rest:
        return StableDiffusion(rest, steps=steps, guidance=guidance, device=device)
    return PipelineGenerator(load_pipeline(source).to(device), steps, guidance, weights_digest(source))


def load_pipeline(folder: str) -> Text2LayerPipeline:
    """Load a saved pipeline. Raises WeightsError where the folder holds none."""
    from diffusers.utils import logging

    if not (Path(folder).expanduser() / "model_index.json").is_file():
        raise WeightsError(f"{folder!r} holds no Text2LayerPipeline. Give the folder that the diffusion trainer wrote")
    logging.disable_progress_bar()  # of loading: seconds
    try:
        return Text2LayerPipeline.from_pretrained(Path(folder).expanduser(), local_files_only=True)
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{folder!r} holds no Text2LayerPipeline: {said(error)}. Give the folder that the diffusion trainer wrote"
        ) from error


def weights_digest(folder: str) -> str:
    """Return a SHA-256 over the names and contents of all safetensors in a folder: other weights, another digest."""
    whole = hashlib.sha256()
    base = Path(folder).expanduser()
    for path in sorted(base.rglob("*.safetensors")):
        whole.update(f"{path.relative_to(base)} {file_sha256(path)}\n".encode())
    return whole.hexdigest()


def _then_segment(generator: Generator, backend: str, device: str) -> GenerateThenSegment:
    from l2i_builder.config import Config, Segment
    from l2i_builder.inpaint.inpainter import make_inpainter
    from l2i_builder.segment.segmenter import make_segmenter

    defaults = Config()
    known = get_args(Segment.model_fields["backend"].annotation)
    if backend and backend not in known:
        raise ConfigError(f"no segmenter is called {backend!r}; choose one of {', '.join(known)}")
    segment = defaults.segment.model_copy(update={"backend": backend} if backend else {})
    segmenter = make_segmenter(segment, device)
    rule = defaults.layers
    inpainter = make_inpainter(defaults.inpaint, device)
    return GenerateThenSegment(
        generator, segmenter, segmenter.digest, inpainter, rule.foreground_threshold, rule.dilate
    )
