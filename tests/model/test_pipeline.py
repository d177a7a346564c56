"""Text2LayerPipeline: prompts to layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_layers import CAPTIONS, SIDE, UNET, seeded, tiny_pipeline

from l2i_builder.errors import ConfigError
from model.denoiser_config import Noise, UNet
from model.pipeline import Text2LayerPipeline, add_layer

CONDITIONAL = UNet(**{**UNET.model_dump(), "conditional": True})
FAST = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipeline() -> Text2LayerPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def conditional() -> Text2LayerPipeline:
    return tiny_pipeline(unet=CONDITIONAL)


def test_a_prompt_gives_all_layers_and_their_composite(pipeline: Text2LayerPipeline) -> None:
    done = pipeline(CAPTIONS, generator=seeded(1, 2), **FAST)
    assert done.foreground.shape == done.background.shape == done.image.shape == (2, 3, SIDE, SIDE)
    assert done.mask.shape == (2, 1, SIDE, SIDE)
    for part in (done.composite, done.foreground, done.background, done.mask, done.image):
        assert float(part.min()) >= 0
        assert float(part.max()) <= 1
    assert torch.equal(done.composite, done.mask * done.foreground + (1 - done.mask) * done.background)
    first = done.layered()[0]
    assert first.prompt == CAPTIONS[0]
    assert first.mask.shape == (SIDE, SIDE)
    shown = np.rint(done.composite[0].permute(1, 2, 0).numpy() * 255)
    assert np.abs(first.composite - shown).max() <= 1


def test_the_defaults_are_the_papers(pipeline: Text2LayerPipeline) -> None:
    import inspect

    defaults = {name: p.default for name, p in inspect.signature(pipeline.__call__).parameters.items()}
    assert defaults["num_inference_steps"] == 50
    assert defaults["guidance_scale"] == 7.5


def test_a_seed_decides_the_image(pipeline: Text2LayerPipeline) -> None:
    once, again, other = (pipeline(CAPTIONS[0], generator=seeded(seed), **FAST).composite for seed in (7, 7, 8))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_an_image_does_not_depend_on_its_batch(pipeline: Text2LayerPipeline) -> None:
    together = pipeline(CAPTIONS, generator=seeded(1, 2), **FAST).composite
    alone = pipeline(CAPTIONS[1], generator=seeded(2), **FAST).composite
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_guidance_1_equals_no_guidance(pipeline: Text2LayerPipeline) -> None:
    """The sampler against DDIM's formula (Song et al. 2020, eq. 12) written out, without any guidance."""
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    found = pipeline(CAPTIONS[0], num_inference_steps=4, guidance_scale=1, latents=start).composite
    with torch.no_grad():
        text = pipeline.text_encoder.encode([CAPTIONS[0]])
        alphas, x = pipeline.scheduler.alphas_cumprod, start
        for step in (751, 501, 251, 1):
            noise = pipeline.unet(x, step, text).sample
            now, before = alphas[step], alphas[max(step - 250, 0)]
            clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * noise
        layers = pipeline.autoencoder.decode(pipeline.autoencoder.denormalise(x))
    f, b = ((part / 2 + 0.5).clamp(0, 1) for part in (layers.foreground, layers.background))
    assert torch.allclose(found, layers.mask * f + (1 - layers.mask) * b, atol=1e-5)


def test_guidance_leads_away_from_the_negative_prompt(pipeline: Text2LayerPipeline) -> None:
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    same = {"latents": start, "num_inference_steps": 2}
    plain = pipeline(CAPTIONS[0], guidance_scale=1, **same).composite
    # With the prompt itself as the negative one, guidance has no direction.
    assert torch.allclose(
        pipeline(CAPTIONS[0], negative_prompt=CAPTIONS[0], guidance_scale=5, **same).composite, plain, atol=1e-4
    )
    unguided = pipeline(CAPTIONS[0], guidance_scale=5, **same).composite
    negative = pipeline(CAPTIONS[0], negative_prompt=CAPTIONS[1], guidance_scale=5, **same).composite
    assert not torch.allclose(unguided, negative, atol=1e-4)


def test_eta_adds_noise_from_the_generator(pipeline: Text2LayerPipeline) -> None:
    once, again = (pipeline(CAPTIONS[0], generator=seeded(1)[0], eta=1.0, **FAST).composite for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, pipeline(CAPTIONS[0], generator=seeded(1)[0], **FAST).composite)


@pytest.mark.parametrize("noise", [Noise(prediction="v", zero_terminal_snr=True), Noise(prediction="flow")])
def test_other_predictions_sample_too(noise: Noise) -> None:
    done = tiny_pipeline(noise=noise)(CAPTIONS[0], generator=seeded(1), **FAST)
    assert torch.isfinite(done.composite).all()
    assert float(done.composite.std()) > 0.01


def test_save_then_load_gives_the_same_images(pipeline: Text2LayerPipeline, tmp_path: Path) -> None:
    expected = pipeline(CAPTIONS, generator=seeded(1, 2), **FAST)
    pipeline.save_pretrained(tmp_path)
    again = Text2LayerPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    found = again(CAPTIONS, generator=seeded(1, 2), **FAST)
    for name in ("composite", "foreground", "background", "mask", "image"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.slow
def test_another_program_loads_the_folder_and_makes_the_same_image(
    pipeline: Text2LayerPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    expected = pipeline(CAPTIONS[0], generator=seeded(5), **FAST).composite
    program = (
        "import sys, torch\n"
        "from model.pipeline import Text2LayerPipeline\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "pipeline = Text2LayerPipeline.from_pretrained(sys.argv[1])\n"
        "done = pipeline(sys.argv[4], num_inference_steps=2, guidance_scale=2.0,\n"
        "                generator=[torch.Generator().manual_seed(5)])\n"
        "torch.save(done.composite, sys.argv[2])\n"
    )
    made = tmp_path / "image.pt"
    arguments = [str(tmp_path / "model"), str(made), str(torch.get_num_threads()), CAPTIONS[0]]
    subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert torch.equal(torch.load(made, weights_only=True), expected)


def test_given_layers_come_back_unchanged(conditional: Text2LayerPipeline) -> None:
    foreground, mask = torch.rand(1, 3, SIDE, SIDE), torch.rand(1, 1, SIDE, SIDE)
    done = conditional(CAPTIONS, foreground=foreground, mask=mask, generator=seeded(1, 2), **FAST)
    assert torch.equal(done.foreground, foreground.expand(2, -1, -1, -1))
    assert torch.equal(done.mask, mask.expand(2, -1, -1, -1))
    assert torch.equal(done.composite, done.mask * foreground + (1 - done.mask) * done.background)


def test_a_given_layer_changes_what_is_generated(conditional: Text2LayerPipeline) -> None:
    dark, light = (torch.full((1, 3, SIDE, SIDE), value) for value in (0.0, 1.0))
    free = conditional(CAPTIONS[0], generator=seeded(1), **FAST).foreground
    first = conditional(CAPTIONS[0], background=dark, generator=seeded(1), **FAST).foreground
    second = conditional(CAPTIONS[0], background=light, generator=seeded(1), **FAST).foreground
    assert not torch.equal(first, second)
    assert not torch.equal(first, free)


def test_objects_can_be_added_one_by_one(conditional: Text2LayerPipeline) -> None:
    image = conditional(CAPTIONS[0], generator=seeded(1), **FAST).layered()[0]
    two = add_layer(conditional, image, "a green square", generator=seeded(2), **FAST)
    three = add_layer(conditional, two, "a dog", generator=seeded(3), **FAST)
    assert [len(each.objects) for each in (image, two, three)] == [1, 2, 3]
    assert np.array_equal(three.background, image.background)
    assert np.array_equal(three.objects[1][0], two.objects[1][0])
    top, mask = three.objects[2]
    m = mask[..., None] / 255
    assert np.abs(three.composite - (m * top + (1 - m) * two.composite)).max() <= 0.51


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 36}, "multiples of 8 pixels"),
        ({"background": torch.zeros(1, 3, SIDE, SIDE)}, "takes none as given"),
        ({"generator": seeded(1, 2, 3)}, "3 generators for 1 images"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, "latents of shape"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline: Text2LayerPipeline, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(CAPTIONS[0], **FAST, **options)


def test_sizes_other_than_the_trained_one_are_possible(pipeline: Text2LayerPipeline) -> None:
    assert pipeline(CAPTIONS[0], height=48, width=40, **FAST).composite.shape == (1, 3, 48, 40)
