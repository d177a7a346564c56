import pytest
import torch

from l2i_builder.errors import ConfigError
from model.autoencoder import CaT2IAutoencoder
from model.config import ModelConfig
from model.denoiser import make_scheduler
from model.denoiser_config import Noise
from model.diffusion_task import Denoiser, DiffusionTask, diffuse, latent_side
from model.text import WordTextEncoder

LATENTS, NOISE = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
UNIFORM = torch.tensor([0.0, 0.3, 0.7, 0.999999])


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_prediction_and_noisy_latents_give_back_the_latents(prediction):
    scheduler = make_scheduler(Noise(prediction=prediction))
    noisy, steps, target, weight = diffuse(scheduler, LATENTS, NOISE, UNIFORM)
    if prediction == "flow":
        sigma = (steps / 1000).view(-1, 1, 1, 1)
        recovered = noisy - sigma * target
    else:
        alpha = scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        recovered = a * noisy - s * target if prediction == "v" else (noisy - s * target) / a
    torch.testing.assert_close(recovered, LATENTS, rtol=1e-3, atol=1e-3)
    assert weight.tolist() == [1, 1, 1, 1]


def test_a_zero_terminal_schedule_ends_in_pure_noise():
    scheduler = make_scheduler(Noise(prediction="v", zero_terminal_snr=True))
    noisy, steps, _, _ = diffuse(scheduler, LATENTS, NOISE, UNIFORM)
    assert steps.tolist() == [0, 300, 700, 999]
    torch.testing.assert_close(noisy[3], NOISE[3])


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_min_snr_weights_the_error_of_the_latents_by_min_of_snr_and_gamma(prediction):
    scheduler = make_scheduler(Noise(prediction=prediction))
    _, steps, _, weight = diffuse(scheduler, LATENTS, NOISE, UNIFORM, min_snr=5.0)
    alpha = scheduler.alphas_cumprod[steps]
    snr = alpha / (1 - alpha)
    # what an error of the latents counts: |e_noise|^2 = snr |e_x|^2, |e_v|^2 = (snr + 1) |e_x|^2
    of_latents = weight * (snr if prediction == "epsilon" else snr + 1)
    torch.testing.assert_close(of_latents, snr.clamp(max=5.0))


def test_min_snr_wants_a_signal_at_every_step():
    sections = {"diffusion": {"min_snr": 5}, "noise": {"prediction": "flow"}, "data": {"size": 64}}
    config = ModelConfig.model_validate(sections)
    tiny = CaT2IAutoencoder(block_out_channels=(4,), layers_per_block=1, norm_num_groups=4, mid_attention=False)
    with pytest.raises(ConfigError, match=r"diffusion.min_snr needs noise with a signal"):
        DiffusionTask(config, tiny, WordTextEncoder(["a"], 4, 8, 1, 2), [], {})


def test_a_frozen_text_encoder_stays_as_it_is():
    encoder = WordTextEncoder(["a"], 4, 8, 1, 2).requires_grad_(False)
    model = Denoiser(torch.nn.Linear(1, 1), encoder).train()
    assert model.unet.training
    assert not model.text_encoder.training
    assert Denoiser(torch.nn.Linear(1, 1), WordTextEncoder(["a"], 4, 8, 1, 2)).train().text_encoder.training


def test_the_papers_latents_are_32_at_256_pixels():
    with torch.device("meta"):
        model = CaT2IAutoencoder()
    assert latent_side(ModelConfig(), model) == 32
