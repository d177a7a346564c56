"""The baselines' autoencoders: the interface of CaT2I-AE over one of RGB images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from tiny_layers import tiny_autoencoder

from l2i_builder.errors import WeightsError
from model.autoencoder import CaT2IAutoencoder
from model.config import Autoencoder
from model.rgb_autoencoder import (
    ImageAutoencoder,
    RgbAutoencoder,
    SeparateAutoencoder,
    load_autoencoder,
    rgb_autoencoder,
    scratch_autoencoder,
)


@pytest.fixture(scope="module")
def rgb() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).eval()


@pytest.fixture
def layers() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.cat(
        [torch.rand(2, 6, 16, 16, generator=generator) * 2 - 1, torch.rand(2, 1, 16, 16, generator=generator)], 1
    )


def test_separate_puts_each_layer_through_the_rgb_autoencoder(rgb: AutoencoderKL, layers: torch.Tensor) -> None:
    model = SeparateAutoencoder.from_rgb(rgb)
    assert (model.latent_channels, model.downscale) == (12, 2)
    with torch.no_grad():
        found = model.encode(layers).mode()
        grey = (2 * layers[:, 6:] - 1).expand(-1, 3, -1, -1)
        for place, part in enumerate((layers[:, :3], layers[:, 3:6], grey)):
            expected = rgb.encode(part).latent_dist
            assert torch.allclose(found[:, 4 * place : 4 * place + 4], expected.mode(), atol=1e-6)
        assert found.shape == (2, 12, 8, 8)
        made = model.decode(found)
        assert torch.allclose(made.background, rgb.decode(found[:, 4:8]).sample, atol=1e-6)
        m = (rgb.decode(found[:, 8:]).sample.mean(1, keepdim=True) / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(made.mask, m, atol=1e-6)


def test_separate_samples_every_part_of_its_posterior(rgb: AutoencoderKL, layers: torch.Tensor) -> None:
    with torch.no_grad():
        posterior = SeparateAutoencoder.from_rgb(rgb).encode(layers)
        parts = [rgb.encode(part).latent_dist for part in (layers[:, :3], layers[:, 3:6])]
    assert torch.allclose(posterior.std[:, :8], torch.cat([part.std for part in parts], 1), atol=1e-6)


def test_image_sees_only_the_composite(rgb: AutoencoderKL, layers: torch.Tensor) -> None:
    model = ImageAutoencoder.from_rgb(rgb)
    assert (model.latent_channels, model.layered) == (4, False)
    m = layers[:, 6:]
    composite = m * layers[:, :3] + (1 - m) * layers[:, 3:6]
    with torch.no_grad():
        found = model.encode(layers).mode()
        assert torch.allclose(found, rgb.encode(composite).latent_dist.mode(), atol=1e-6)
        made = model.decode(found)
    assert torch.equal(made.composite(), made.image)


def test_latents_are_scaled_as_the_source_says(rgb: AutoencoderKL) -> None:
    model, raw = SeparateAutoencoder.from_rgb(rgb), torch.randn(1, 12, 4, 4)
    assert torch.allclose(model.normalise(raw), raw * 0.5)
    assert torch.allclose(model.denormalise(model.normalise(raw)), raw, atol=1e-6)


def test_it_is_frozen(rgb: AutoencoderKL) -> None:
    assert not any(p.requires_grad for p in ImageAutoencoder.from_rgb(rgb).parameters())


@pytest.mark.parametrize("kind", [SeparateAutoencoder, ImageAutoencoder])
def test_it_comes_back_from_its_folder_by_its_kind(
    rgb: AutoencoderKL, layers: torch.Tensor, tmp_path: Path, kind: type[RgbAutoencoder]
) -> None:
    model = kind.from_rgb(rgb)
    model.save_pretrained(tmp_path)
    again = load_autoencoder(tmp_path)
    assert type(again) is kind
    with torch.no_grad():
        assert torch.equal(again.encode(layers).mode(), model.encode(layers).mode())


def test_a_layered_autoencoder_loads_the_same_way(tmp_path: Path) -> None:
    tiny_autoencoder().save_pretrained(tmp_path)
    assert type(load_autoencoder(tmp_path)) is CaT2IAutoencoder


def test_it_is_made_from_a_stable_diffusion_folder(rgb: AutoencoderKL, tmp_path: Path) -> None:
    rgb.save_pretrained(tmp_path / "vae")
    made = rgb_autoencoder("separate", str(tmp_path))
    assert isinstance(made, SeparateAutoencoder)
    assert all(torch.equal(a, b) for a, b in zip(made.rgb.parameters(), rgb.parameters(), strict=True))


def test_the_autoencoders_own_folder_will_do(rgb: AutoencoderKL, tmp_path: Path) -> None:
    rgb.save_pretrained(tmp_path)
    made = rgb_autoencoder("image", str(tmp_path))
    assert torch.equal(made.rgb.encoder.conv_in.weight, rgb.encoder.conv_in.weight)


def test_separate_can_be_trained_where_no_source_fits(layers: torch.Tensor) -> None:
    config = Autoencoder(channels=[8, 16], layers_per_block=1, norm_groups=4, latent_channels=4)
    model = scratch_autoencoder(config)
    made = model(layers, "reconstruct", torch.zeros(2, 12, 8, 8))
    made.layers.stacked().square().sum().backward()
    assert all(weight.grad is not None for weight in model.last_weights().values())
    assert set(model.last_weights()) == {"foreground", "background", "mask"}
    assert torch.equal(made.moments, model(layers, "encode"))


def test_the_rgb_autoencoder_of_a_trained_one_serves_both_baselines(
    rgb: AutoencoderKL, layers: torch.Tensor, tmp_path: Path
) -> None:
    trained = SeparateAutoencoder.from_rgb(rgb)
    trained.set_statistics([float(i) for i in range(12)], [2.0] * 12)
    trained.save_pretrained(tmp_path)
    again = rgb_autoencoder("separate", str(tmp_path))
    image = rgb_autoencoder("image", str(tmp_path))
    assert isinstance(image, ImageAutoencoder)
    raw = torch.randn(1, 12, 4, 4)
    assert torch.equal(again.normalise(raw), trained.normalise(raw))
    assert torch.allclose(image.normalise(raw[:, 4:8]), trained.normalise(raw)[:, 4:8])
    assert torch.allclose(trained.denormalise(trained.normalise(raw)), raw, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(again.encode(layers).mode(), trained.encode(layers).mode())


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no autoencoder in"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "CaT2IAutoencoder"}')
    with pytest.raises(WeightsError, match="holds no autoencoder of layers"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="holds no AutoencoderKL"):
        rgb_autoencoder("image", str(tmp_path))
