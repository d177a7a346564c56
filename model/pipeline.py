"""Prompt to layers: ``Text2LayerPipeline``, the sampler of CaT2I-AE-SD as a pipeline of diffusers.

Load a saved folder by ``Text2LayerPipeline.from_pretrained(folder)``, with this project installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from l2i_builder.errors import ConfigError
from model.autoencoder import CaT2IAutoencoder, Layers
from model.denoiser import blank, condition_channels, conditioning
from model.export import LayeredImage
from model.rgb_autoencoder import ImageAutoencoder, SeparateAutoencoder
from model.text import PretrainedTextEncoder, WordTextEncoder

STEPS, GUIDANCE = 50, 7.5  # paper: DDIM

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class Text2LayerOutput(BaseOutput):
    """Generated layers. Tensors float [N, C, H, W] in 0..1.

    foreground, background and mask are None where the autoencoder has no layers (image-only baselines); ``image`` is
    what the auxiliary head predicts, None without one. The picture to show is ``composite``, mF + (1 - m)B.
    """

    composite: torch.Tensor
    foreground: torch.Tensor | None
    background: torch.Tensor | None
    mask: torch.Tensor | None
    image: torch.Tensor | None
    prompts: list[str]

    def layered(self) -> list[LayeredImage]:
        """Return the images as uint8 arrays; a plain picture where there are no layers."""
        if self.foreground is None or self.background is None or self.mask is None:
            pictures = _uint8(self.composite)
            return [LayeredImage(picture, prompt=text) for picture, text in zip(pictures, self.prompts, strict=True)]
        planes = zip(
            _uint8(self.background), _uint8(self.foreground), _uint8(self.mask)[..., 0], self.prompts, strict=True
        )
        return [LayeredImage(*each) for each in planes]


class Text2LayerPipeline(DiffusionPipeline):
    """Text encoder, UNet, schedule and autoencoder; called with prompts it returns ``Text2LayerOutput``."""

    model_cpu_offload_seq = "text_encoder->unet->autoencoder"

    def __init__(
        self,
        autoencoder: CaT2IAutoencoder | SeparateAutoencoder | ImageAutoencoder,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler | FlowMatchEulerDiscreteScheduler,
        text_encoder: WordTextEncoder | PretrainedTextEncoder,
    ) -> None:
        super().__init__()
        self.register_modules(autoencoder=autoencoder, unet=unet, scheduler=scheduler, text_encoder=text_encoder)

    @property
    def conditional(self) -> bool:
        """Whether the UNet takes given layers."""
        channels = self.autoencoder.latent_channels
        return self.unet.config.in_channels == channels + condition_channels(channels)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int = STEPS,
        guidance_scale: float = GUIDANCE,
        images_per_prompt: int = 1,
        generator: Generators = None,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        latents: torch.Tensor | None = None,
        foreground: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> Text2LayerOutput:
        """Generate ``images_per_prompt`` layered images for each prompt.

        ``guidance_scale`` 1 is no guidance: the UNet runs once a step. ``generator``: one, or one for each image, then
        an image does not depend on the others of its batch. ``height`` and ``width`` in pixels: None = as trained.
        ``eta``: DDIM's, 0 is deterministic. ``latents`` [N, C, h, w]: the noise to start from. ``foreground``,
        ``background`` [N or 1, 3, H, W] and ``mask`` [N or 1, 1, H, W], in 0..1: given layers, which come back
        unchanged; only for a conditional UNet.

        Raises ConfigError for sizes that do not fit, given layers where the UNet takes none, and lists that differ in
        length.
        """
        prompts = [text for text in _list(prompt) for _ in range(images_per_prompt)]
        negatives = _list(negative_prompt)
        if len(negatives) not in (1, len(prompts)):
            raise ConfigError(f"{len(negatives)} negative prompts for {len(prompts)} images; give one, or one for each")
        shape = self._latent_shape(len(prompts), height, width)
        device, kind = self._execution_device, self.unet.dtype
        guided = guidance_scale != 1
        text = self.text_encoder.encode(prompts).to(kind)
        if guided:
            empty = self.text_encoder.encode(negatives).to(kind).expand(len(prompts), -1, -1)
            text = torch.cat([empty, text])
        given = self._given(foreground, background, mask, shape)
        x = self._start(latents, shape, generator)
        options = self._step_options(generator, eta)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for step in self.progress_bar(self.scheduler.timesteps):
            inputs = x if given is None else torch.cat([x, given.channels], 1)
            prediction = self.unet(torch.cat([inputs] * 2) if guided else inputs, step, text).sample
            if guided:
                without, with_text = prediction.chunk(2)
                prediction = without + guidance_scale * (with_text - without)
            x = self.scheduler.step(prediction, step, x, **options).prev_sample
        layers = self.autoencoder.decode(self.autoencoder.denormalise(x).to(self.autoencoder.dtype))
        self.maybe_free_model_hooks()
        return self._output(layers, given, prompts)

    def _latent_shape(self, n: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        scale, side = self.autoencoder.downscale, self.unet.config.sample_size
        height, width = height or side * scale, width or side * scale
        unit = scale * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if height % unit or width % unit:
            raise ConfigError(
                f"this model makes images whose sides are multiples of {unit} pixels, not {height}x{width}"
            )
        return n, self.autoencoder.latent_channels, height // scale, width // scale

    def _start(self, latents: torch.Tensor | None, shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
        """Return the noise that sampling starts from."""
        one = generator is None or isinstance(generator, torch.Generator)
        if not one and len(generator) != shape[0]:  # type: ignore[arg-type]
            raise ConfigError(f"{len(generator)} generators for {shape[0]} images; give one, or one for each")  # type: ignore[arg-type]
        if latents is None:
            each = generator if one else list(generator)  # type: ignore[arg-type]
            latents = randn_tensor(shape, generator=each, device=self._execution_device, dtype=self.unet.dtype)
        elif tuple(latents.shape) != shape:
            raise ConfigError(f"latents of shape {tuple(latents.shape)} given, {shape} wanted")
        return latents.to(self._execution_device, self.unet.dtype) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def _step_options(self, generator: Generators, eta: float) -> dict[str, Any]:
        """Return the arguments this scheduler's ``step`` takes: flow matching knows no eta."""
        known = inspect.signature(self.scheduler.step).parameters
        if "eta" not in known or not eta:
            return {}
        each = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
        return {"eta": eta, "generator": each}

    def _given(
        self,
        foreground: torch.Tensor | None,
        background: torch.Tensor | None,
        mask: torch.Tensor | None,
        shape: tuple[int, int, int, int],
    ) -> _Given | None:
        """Encode given layers; None for an unconditional UNet. Mask given as m in 0..1, images in 0..1."""
        parts = (foreground, background, mask)
        if not self.conditional:
            if any(part is not None for part in parts):
                raise ConfigError(
                    "this model generates all layers at once and takes none as given; train one with unet.conditional"
                )
            return None
        n, scale = shape[0], self.autoencoder.downscale
        size = (shape[2] * scale, shape[3] * scale)
        planes = []
        for part, channels, name in zip(parts, (3, 3, 1), ("foreground", "background", "mask"), strict=True):
            if part is None:
                planes.append(torch.zeros(n, channels, *size))
            elif part.shape[1:] != (channels, *size) or part.shape[0] not in (1, n):
                raise ConfigError(f"given {name} of shape {tuple(part.shape)}, {(n, channels, *size)} wanted")
            else:
                planes.append(part.expand(n, -1, -1, -1).cpu().float())
        kinds = torch.tensor([[part is not None for part in parts]]).expand(n, -1)
        stacked = torch.cat([2 * planes[0] - 1, 2 * planes[1] - 1, planes[2]], 1)
        stacked = stacked.to(self._execution_device, self.autoencoder.dtype)
        kinds = kinds.to(stacked.device)
        encoded = self.autoencoder.normalise(self.autoencoder.encode(blank(stacked, kinds)).mode())
        return _Given(conditioning(encoded, kinds).to(self.unet.dtype), parts, n)

    def _output(self, layers: Layers, given: _Given | None, prompts: list[str]) -> Text2LayerOutput:
        image = None if layers.image is None else _unit(layers.image)
        if not getattr(self.autoencoder, "layered", True):
            return Text2LayerOutput(_unit(layers.composite()), None, None, None, image, prompts)
        made = [_unit(layers.foreground), _unit(layers.background), layers.mask.float().clamp(0, 1)]
        if given is not None:
            made = given.keep(made)
        foreground, background, mask = made
        composite = mask * foreground + (1 - mask) * background
        return Text2LayerOutput(composite, foreground, background, mask, image, prompts)


@dataclass
class _Given:
    """Layers that are given: what the UNet sees of them, and the layers themselves, [N or 1, C, H, W] in 0..1."""

    channels: torch.Tensor
    parts: tuple[torch.Tensor | None, ...]
    n: int

    def keep(self, made: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the generated layers with the given ones in their places."""
        return [
            new if old is None else old.expand(self.n, -1, -1, -1).to(new)
            for new, old in zip(made, self.parts, strict=True)
        ]


def add_layer(pipeline: Text2LayerPipeline, image: LayeredImage, prompt: str, **options: Any) -> LayeredImage:
    """Put a new object over a layered image: what is there is the given background of a conditional model.

    Repeated, this gives any number of layers. ``options`` as the pipeline's. Returns a new image with one more object.
    """
    flat = torch.from_numpy(image.composite.transpose(2, 0, 1).copy())[None] / 255
    done = pipeline(prompt, background=flat, **options).layered()[0]
    if not image.objects:
        return LayeredImage(image.background, done.foreground, done.mask, prompt)
    text = f"{image.prompt} + {prompt}"
    return LayeredImage(image.background, image.foreground, image.mask, text, (*image.over, done.objects[0]))


def _list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """From about -1..1 to 0..1."""
    return (x.float() / 2 + 0.5).clamp(0, 1)


def _uint8(x: torch.Tensor) -> np.ndarray:
    """float [N, C, H, W] in 0..1 -> uint8 [N, H, W, C]."""
    return np.ascontiguousarray((x.cpu().float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
