"""The UNet, its widening, its schedule, and what tells it about given layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from l2i_builder.errors import ConfigError, WeightsError
from model.denoiser import blank, condition_channels, conditioning, draw_given, make_scheduler, make_unet, widen
from model.denoiser_config import Noise, UNet

SMALL = UNet(channels=[16, 32], layers_per_level=1, heads=2, norm_groups=8)


def inputs(channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, channels, 8, 8, generator=generator),
        torch.tensor([3, 700]),
        torch.randn(2, 5, 16, generator=generator),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like Stable Diffusion's: its UNet, random and small, lies in ``unet``."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("sd")
    make_unet(SMALL, 4, 16, 8).save_pretrained(folder / "unet")
    return folder


def started(source: Path, **changes: object) -> UNet:
    return SMALL.model_copy(update={"init": "sd", "source": str(source), **changes})


def test_the_papers_unet_is_stable_diffusions() -> None:
    with torch.device("meta"):
        unet = make_unet(UNet(), 4)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert unet.config.down_block_types == ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)


def test_a_prediction_has_the_shape_of_the_latents() -> None:
    unet = make_unet(SMALL, 8, 16, 8)
    assert unet(*inputs(8)).sample.shape == (2, 8, 8, 8)


def test_widened_convolutions_give_the_sources_output_for_the_old_channels(source: Path) -> None:
    old = make_unet(started(source), 4, 16, 8).eval()
    wide = make_unet(started(source), 12, 16, 8).eval()
    assert wide.config.in_channels == wide.config.out_channels == 12
    x, step, text = inputs(12)
    with torch.no_grad():
        expected, found = old(x[:, :4], step, text).sample, wide(x, step, text).sample
    assert torch.allclose(found[:, :4], expected, atol=1e-6)
    assert not found[:, 4:].any()


def test_a_widened_unet_learns_from_its_new_channels(source: Path) -> None:
    wide = make_unet(started(source), 12, 16, 8)
    wide(*inputs(12)).sample.square().sum().backward()
    assert wide.conv_in.weight.grad[:, 4:].abs().sum() > 0
    assert wide.conv_out.weight.grad[:4].abs().sum() > 0


def test_a_conditional_unet_starts_as_the_unconditional_one(source: Path) -> None:
    plain = make_unet(started(source), 4, 16, 8).eval()
    conditional = make_unet(started(source, conditional=True), 4, 16, 8).eval()
    x, step, text = inputs(4)
    extra = torch.randn(2, condition_channels(4), 8, 8)
    with torch.no_grad():
        assert torch.allclose(
            conditional(torch.cat([x, extra], 1), step, text).sample, plain(x, step, text).sample, atol=1e-6
        )


def test_the_512_model_starts_from_the_256_one(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trained = make_unet(SMALL, 4, 16, sample_size=32).eval()
    trained.save_pretrained(tmp_path / "unet")
    larger = make_unet(started(tmp_path, init="resume"), 4, 16, sample_size=64).eval()
    assert larger.config.sample_size == 64
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), larger.parameters(), strict=True))


def test_a_unet_survives_its_folder(tmp_path: Path, source: Path) -> None:
    wide = make_unet(started(source), 12, 16, 8).eval()
    wide.save_pretrained(tmp_path / "unet")
    again = make_unet(started(tmp_path, init="resume"), 12, 16, 8).eval()
    with torch.no_grad():
        assert torch.equal(again(*inputs(12)).sample, wide(*inputs(12)).sample)


def test_channels_are_never_taken_away(source: Path) -> None:
    with pytest.raises(ConfigError, match="added, not taken away"):
        widen(make_unet(started(source), 4, 16, 8), 4, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMALL.model_copy(update={"attention_levels": [True]}), "attention_levels has 1 entries"),
        (SMALL.model_copy(update={"channels": [16, 30]}), "cannot be divided"),
        (SMALL.model_copy(update={"init": "resume"}), "needs unet.source"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(config: UNet, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_unet(config, 4, 16, 8)


def test_a_source_for_other_text_is_refused(source: Path) -> None:
    with pytest.raises(ConfigError, match="attends to text of 16 dimensions"):
        make_unet(started(source), 4, 384, 8)


def test_a_folder_without_a_unet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no UNet"):
        make_unet(started(tmp_path), 4, 16, 8)


def test_the_papers_schedule_is_stable_diffusions() -> None:
    scheduler = make_scheduler(Noise())
    assert scheduler.config.prediction_type == "epsilon"
    assert float(scheduler.alphas_cumprod[0]) == pytest.approx(1 - 0.00085)
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.00466, abs=1e-5)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[:2].tolist() == [981, 961]
    assert int(scheduler.timesteps[-1]) == 1


def test_zero_terminal_snr_starts_from_pure_noise_at_the_last_step() -> None:
    scheduler = make_scheduler(Noise(prediction="v", zero_terminal_snr=True))
    scheduler.set_timesteps(10)
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-7)
    assert int(scheduler.timesteps[0]) == 999
    with pytest.raises(ConfigError, match="prediction=v"):
        make_scheduler(Noise(zero_terminal_snr=True))


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_a_perfect_prediction_leads_back_to_the_latents(prediction: str) -> None:
    scheduler = make_scheduler(Noise(prediction=prediction))
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
    scheduler.set_timesteps(20)
    start = scheduler.timesteps[:1]
    x = noise if prediction == "flow" else scheduler.add_noise(clean, noise, start.long())
    for step in scheduler.timesteps:
        if prediction == "flow":
            answer = noise - clean
        elif prediction == "v":
            answer = scheduler.get_velocity(clean, noise, step[None])
        else:
            answer = noise
        x = scheduler.step(answer, step, x).prev_sample
    # Stable Diffusion's schedule ends one step before the clean image: a little noise stays.
    assert torch.allclose(x, clean, atol=0.15 if prediction != "flow" else 1e-4)


def test_nothing_given_is_the_unconditional_model() -> None:
    channels = conditioning(torch.randn(2, 4, 8, 8), torch.zeros(2, 3, dtype=torch.bool))
    assert channels.shape == (2, condition_channels(4), 8, 8)
    assert not channels.any()


def test_given_layers_are_told_by_their_latents_and_a_flag_each() -> None:
    latents = torch.randn(1, 4, 8, 8)
    channels = conditioning(latents, torch.tensor([[True, False, True]]))
    assert torch.equal(channels[:, :4], latents)
    assert channels[0, 4:, 0, 0].tolist() == [1, 0, 1]


def test_layers_not_given_are_blanked_to_the_middle_of_their_range() -> None:
    layers = torch.rand(2, 7, 4, 4)
    done = blank(layers, torch.tensor([[True, False, False], [False, True, True]]))
    assert torch.equal(done[0, :3], layers[0, :3])
    assert not done[0, 3:6].any()
    assert (done[0, 6] == 0.5).all()
    assert torch.equal(done[1, 3:], layers[1, 3:])
    assert not done[1, :3].any()


def test_training_asks_each_question_and_often_none() -> None:
    given = draw_given(3000, torch.Generator().manual_seed(0))
    assert 0.45 < float((~given.any(1)).float().mean()) < 0.55
    asked = {tuple(row) for row in given.tolist()}
    assert asked == {(False,) * 3, (False, True, False), (True, False, True), (False, False, True)}
