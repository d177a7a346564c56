"""Generators: whatever turns prompts into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layered_shards import write_discs
from tiny_layers import CAPTIONS, SIDE, UNET, disc, tiny_pipeline

from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.layers import hole
from model.baselines import GenerateThenSegment, PipelineGenerator, StableDiffusion, load_pipeline, make_generator
from model.config import ModelConfig, load_model_config
from model.denoiser import make_scheduler, make_unet
from model.denoiser_config import Noise
from model.export import LayeredImage
from model.pipeline import Text2LayerPipeline
from model.rgb_autoencoder import ImageAutoencoder, SeparateAutoencoder


class Pictures:
    """A generator of discs without layers."""

    layered = False
    segmenter = digest = ""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]:
        return [LayeredImage(disc().composite, prompt=prompt) for prompt in prompts]


def redness(images: np.ndarray) -> np.ndarray:
    """A segmenter that finds the disc."""
    return np.where((images[..., 0] > 150) & (images[..., 1] < 80), 255, 0).astype(np.uint8)


def over_rgb(kind: type[SeparateAutoencoder] | type[ImageAutoencoder]) -> Text2LayerPipeline:
    """A pipeline of a baseline, random and small."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    rgb = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    autoencoder = kind.from_rgb(rgb)
    text = tiny_pipeline().text_encoder
    unet = make_unet(UNET, autoencoder.latent_channels, text.dim, SIDE // autoencoder.downscale).eval()
    return Text2LayerPipeline(autoencoder, unet, make_scheduler(Noise()), text)


def test_an_image_depends_on_its_own_prompt_and_seed() -> None:
    generator = PipelineGenerator(tiny_pipeline(), steps=2, guidance=2.0)
    both = generator(CAPTIONS, [5, 6])
    alone = generator(CAPTIONS[1:], [6])
    assert np.abs(both[1].composite.astype(int) - alone[0].composite).max() <= 1
    assert not np.array_equal(generator(CAPTIONS[1:], [7])[0].composite, alone[0].composite)


def test_sd_ae_unet_generates_layers_from_three_latents() -> None:
    image = PipelineGenerator(over_rgb(SeparateAutoencoder), steps=2)(CAPTIONS[:1], [1])[0]
    assert image.mask is not None
    assert image.mask.shape == (SIDE, SIDE)


def test_sd_laion_l2i_generates_pictures_without_layers(tmp_path: Path) -> None:
    pipeline = over_rgb(ImageAutoencoder)
    generator = PipelineGenerator(pipeline, steps=2)
    image = generator(CAPTIONS[:1], [1])[0]
    assert not generator.layered
    assert not image.objects
    pipeline.save_pretrained(tmp_path)
    again = PipelineGenerator(load_pipeline(str(tmp_path)), steps=2)
    assert np.array_equal(again(CAPTIONS[:1], [1])[0].composite, image.composite)


def test_generate_then_segment_cuts_the_picture() -> None:
    filled = GenerateThenSegment(
        Pictures(), redness, "digest", lambda images, holes: np.where(holes[..., None], 9, images)
    )
    image = filled(["a"], [0])[0]
    picture = disc().composite
    assert filled.segmenter == "digest"
    assert np.array_equal(image.mask, redness(picture[None])[0])
    assert image.foreground is not None
    assert np.array_equal(image.foreground[image.mask > 0], picture[image.mask > 0])
    inside = hole(image.mask, 0.1, 9)
    assert (image.background[inside] == 9).all()
    assert np.array_equal(image.background[~inside], picture[~inside])
    assert np.array_equal(image.composite[image.mask > 0], picture[image.mask > 0])


def test_without_an_inpainter_the_picture_stays_as_background() -> None:
    assert np.array_equal(GenerateThenSegment(Pictures(), redness, "d")(["a"], [0])[0].background, disc().composite)


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline, random and small, as diffusers saves it."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("sd")
    letters = {f"{letter}</w>": i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    vocabulary = letters | {letter: 26 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    tokenizer = CLIPTokenizer(
        vocab={**vocabulary, "<|startoftext|>": 52, "<|endoftext|>": 53}, merges=[], model_max_length=16
    )
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=54,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=52,
            eos_token_id=53,
        )
    )
    rgb = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    StableDiffusionPipeline(
        rgb,
        text,
        tokenizer,
        make_unet(UNET, 4, 16, 8),
        make_scheduler(Noise()),
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def test_stable_diffusion_as_it_is_gives_pictures(stable_diffusion: Path) -> None:
    generator = make_generator(f"sd:{stable_diffusion}", steps=2, guidance=2.0)
    assert isinstance(generator, StableDiffusion)
    first, second = generator(CAPTIONS, [1, 2])
    assert first.composite.shape == (16, 16, 3)
    assert not first.objects
    assert np.array_equal(generator(CAPTIONS, [1, 2])[1].composite, second.composite)


def test_a_row_is_made_from_its_source(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    generator = make_generator(str(tmp_path), 3, 1.5)
    assert isinstance(generator, PipelineGenerator)
    assert (generator.steps, generator.guidance) == (3, 1.5)


def test_a_digest_follows_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tiny_pipeline(seed).save_pretrained(tmp_path / name)
    a, b, c = (make_generator(str(tmp_path / name)).digest for name in "abc")
    assert a == b != c


def test_a_row_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no Text2LayerPipeline"):
        make_generator(str(tmp_path))
    with pytest.raises(WeightsError, match="holds no Stable Diffusion"):
        make_generator(f"sd:{tmp_path}")
    tiny_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no segmenter is called 'icon'"):
        make_generator(f"segment-icon:{tmp_path}")


@pytest.mark.parametrize(
    ("preset", "kind", "init", "steps"),
    [
        ("sd-laion-l2i", "image", "scratch", 75_000),
        ("sd-ae-unet", "separate", "scratch", 75_000),
        ("sd-ae-unet-ft", "separate", "sd", 25_000),
        ("paper", "layers", "scratch", 75_000),
    ],
)
def test_each_trained_baseline_is_a_preset(preset: str, kind: str, init: str, steps: int) -> None:
    config = load_model_config(preset)
    assert (config.autoencoder.kind, config.unet.init, config.train_diffusion.steps) == (kind, init, steps)
    assert config.noise.prediction == "epsilon"
    assert config.text.encoder == "clip-vit-l-14"


def test_no_sup_differs_from_the_paper_by_its_image_head_alone() -> None:
    paper, ablated = load_model_config("paper").model_dump(), load_model_config("paper-no-sup").model_dump()
    assert paper["autoencoder"].pop("image_head")
    assert not ablated["autoencoder"].pop("image_head")
    assert ablated == paper


@pytest.mark.slow
def test_both_baselines_train_on_shards_at_toy_size(tmp_path: Path) -> None:
    """The RGB autoencoder is trained through F, B and m, then serves SD-AE-UNet and, by its folder, SD-LAION-L2I."""
    from rich.console import Console

    from model.train_autoencoder import train_autoencoder
    from model.train_diffusion import train_diffusion

    quiet = Console(quiet=True)
    shards = write_discs(tmp_path / "shards" / "00000.tar", 4, side=SIDE)
    steps = {"steps": 2, "batch": 2, "warmup": 0, "validate_samples": 2, "trackers": [], "ema": 0}
    small: dict[str, Any] = {
        "data": {"shards": str(shards), "validation": str(shards), "size": SIDE, "workers": 0, "holdout": 0},
        "losses": {"perceptual": "none", "adversarial": 0},
        "train_autoencoder": steps,
        "train_diffusion": steps,
        "unet": UNET.model_dump(),
        "text": {"encoder": "words", "length": 8, "width": 16, "layers": 1, "heads": 2},
    }
    rgb = {"kind": "separate", "channels": [8, 16], "layers_per_block": 1, "norm_groups": 4}
    separate = ModelConfig.model_validate({**small, "out": f"{tmp_path}/separate", "autoencoder": rgb})
    folder = train_autoencoder(separate, quiet)
    layered = PipelineGenerator(load_pipeline(train_diffusion(separate, quiet)), steps=2)
    assert layered.layered
    assert layered(["a red disc"], [0])[0].mask is not None
    image = {"kind": "image", "source": folder}
    plain = ModelConfig.model_validate({**small, "out": f"{tmp_path}/image", "autoencoder": image})
    pictures = PipelineGenerator(load_pipeline(train_diffusion(plain, quiet)), steps=2)
    assert not pictures(["a red disc"], [0])[0].objects
