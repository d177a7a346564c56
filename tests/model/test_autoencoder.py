import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from model.autoencoder import CaT2IAutoencoder

TINY = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "mid_attention": False}


def layers(n: int = 2, size: int = 32) -> torch.Tensor:
    """F, B in -1..1 and m in 0..1."""
    x = torch.rand(n, 7, size, size, generator=torch.Generator().manual_seed(0))
    return torch.cat([2 * x[:, :6] - 1, x[:, 6:]], 1)


@pytest.fixture
def source() -> AutoencoderKL:
    """An RGB autoencoder as Stable Diffusion's, tiny, with random weights everywhere."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        layers_per_block=1,
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return vae.eval()


@pytest.mark.parametrize(("patch", "downscale"), [(1, 2), (2, 4)])
def test_layers_become_latents_and_layers_again(patch, downscale):
    model = CaT2IAutoencoder(**TINY, latent_channels=5, patch_size=patch)
    latents = model.encode(layers()).sample(torch.Generator().manual_seed(0))
    assert model.downscale == downscale
    assert latents.shape == (2, 5, 32 // downscale, 32 // downscale)
    made = model.decode(latents)
    assert made.foreground.shape == made.background.shape == made.image.shape == (2, 3, 32, 32)
    assert made.mask.shape == (2, 1, 32, 32)
    assert 0 <= made.mask.min() <= made.mask.max() <= 1


def test_reconstruct_is_encode_noise_decode():
    model = CaT2IAutoencoder(**TINY).eval()
    noise = torch.randn(2, 4, 16, 16)
    made = model(layers(), "reconstruct", noise)
    posterior = model.encode(layers())
    expected = model.decode(posterior.mean + posterior.std * noise)
    assert all(torch.equal(a, b) for a, b in zip(made.layers, expected, strict=True))
    assert torch.equal(made.posterior.mean, posterior.mean)
    assert torch.equal(model(layers(), "reconstruct").layers.mask, model.decode(posterior.mode()).mask)


def test_the_papers_heads_are_conv_bn_relu_conv():
    model = CaT2IAutoencoder(**TINY)
    assert list(model.heads) == ["foreground", "background", "mask", "image"]
    for name, head in model.heads.items():
        assert [type(part) for part in head.deep] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
        assert head.direct is None
        assert head.deep[3].out_channels == (1 if name == "mask" else 3)
    assert model.encoder.conv_in.in_channels == 7


def test_no_sup_has_no_image_head():
    model = CaT2IAutoencoder(**TINY, image_head=False)
    assert model.decode(torch.zeros(1, 4, 8, 8)).image is None
    assert "image" not in model.last_weights()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("channels", [4, 6])
def test_inflated_it_equals_its_source(source, norm, channels):
    image = layers()[:, :3]
    model = CaT2IAutoencoder.from_rgb(source, latent_channels=channels, head_norm=norm).eval()
    with torch.no_grad():
        latents = model.encode(torch.cat([image, image, layers()[:, 6:]], 1)).mode()
        expected = source.encode(image).latent_dist.mode()
        decoded, made = source.decode(expected).sample, model.decode(latents)
    torch.testing.assert_close(latents[:, :4], expected, rtol=0, atol=1e-5)
    for each in (made.foreground, made.background, made.image):
        torch.testing.assert_close(each, decoded, rtol=0, atol=5e-5)
    assert (made.mask == 0.5).all()
    assert decoded.std() > 0.1  # the source does something


def test_inflated_its_latents_are_scaled_as_the_source_scales_them(source):
    model = CaT2IAutoencoder.from_rgb(source)
    z = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(model.normalise(z), z * source.config.scaling_factor)


def test_an_autoencoder_that_cannot_be_inflated_is_refused(source):
    with pytest.raises(ValueError, match="4 latent channels cannot be inflated to 2"):
        CaT2IAutoencoder.from_rgb(source, latent_channels=2)


def test_normalised_latents_come_back():
    model = CaT2IAutoencoder(**TINY)
    model.set_statistics([1.0, 2.0, 3.0, 4.0], [0.5, 1.0, 2.0, 4.0])
    z = torch.randn(1, 4, 8, 8)
    assert torch.equal(model.normalise(z)[:, 3], (z[:, 3] - 4) / 4)
    torch.testing.assert_close(model.denormalise(model.normalise(z)), z)


def test_saved_and_loaded_it_decodes_the_same(tmp_path):
    model = CaT2IAutoencoder(**TINY, patch_size=2, head_norm="group", head_type="residual").eval()
    model.set_statistics([0.1] * 4, [2.0] * 4)
    model.save_pretrained(tmp_path)
    loaded, report = CaT2IAutoencoder.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    assert list(loaded.config.latents_std) == [2.0] * 4
    with torch.no_grad():
        before, after = (each(layers(), "reconstruct").layers for each in (model, loaded.eval()))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        model = CaT2IAutoencoder(**TINY, head_norm="group")
        if on:
            model.enable_gradient_checkpointing()
            assert model.encoder.gradient_checkpointing
        model(layers(), "reconstruct").layers.composite().square().mean().backward()
        gradients.append(model.encoder.conv_in.weight.grad)
    torch.testing.assert_close(*gradients)
