import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from toy_training import quiet, tiny_config, toy_shards

from l2i_builder.errors import ConfigError, WeightsError
from model.data import Loader, Place
from model.diffusion_task import DiffusionTask
from model.draw import Draw
from model.pipeline import Text2LayerPipeline
from model.train_autoencoder import train_autoencoder
from model.train_diffusion import cache_latents, text_encoder, train_diffusion, trained_autoencoder, validation
from model.training import make_accelerator


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, Path]:
    """Toy shards, and a folder with an autoencoder trained on them."""
    folder = tmp_path_factory.mktemp("toy")
    shards = toy_shards(folder)
    train_autoencoder(tiny_config(shards, folder / "run", losses={"adversarial": 0.0}), quiet())
    return shards, folder / "run" / "autoencoder"


def config_of(trained, out, **sections):
    shards, autoencoder = trained
    diffusion = {"autoencoder": str(autoencoder)} | sections.pop("diffusion", {})
    return tiny_config(shards, out, diffusion=diffusion, **sections)


def checkpoint(out: Path, step: int) -> dict:
    return torch.load(out / "checkpoints" / "diffusion" / f"{step:08d}.pt", weights_only=True)


def test_resumed_it_equals_one_that_never_stopped(trained, tmp_path):
    for out, steps in (("whole", (5,)), ("parts", (2, 5))):
        for until in steps:
            train_diffusion(config_of(trained, tmp_path / out, train_diffusion={"steps": until}), quiet())
    whole, parts = (checkpoint(tmp_path / out, 5) for out in ("whole", "parts"))
    assert [name for name, value in whole["models"]["denoiser"].items()
            if not torch.equal(value, parts["models"]["denoiser"][name])] == []  # fmt: skip
    assert all(map(torch.equal, whole["averaged"]["values"], parts["averaged"]["values"]))


@pytest.mark.parametrize(
    "sections",
    [
        {"noise": {"prediction": "epsilon", "zero_terminal_snr": False}, "diffusion": {"min_snr": 5.0}},
        {"noise": {"prediction": "flow", "zero_terminal_snr": False}},
        {"unet": {"conditional": True}},
    ],
    ids=["epsilon, min-SNR", "flow", "conditional"],
)
def test_it_leaves_a_pipeline_that_generates_layers(trained, tmp_path, sections):
    folder = train_diffusion(config_of(trained, tmp_path, **sections), quiet())
    pipeline = Text2LayerPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a plain red circle on a plain blue ground", num_inference_steps=2)
    assert made.mask.shape == (1, 1, 16, 16)
    assert (tmp_path / "logs" / "diffusion" / "samples-00000004.png").is_file()


def task_of(config) -> DiffusionTask:
    autoencoder, _ = trained_autoencoder(config)
    loader = Loader(config.data, Place(batch=4), 0)
    task = DiffusionTask(config, autoencoder, text_encoder(config, loader), validation(config), {})
    task.prepare(make_accelerator(config.train_diffusion), task.models)
    return task


def test_its_text_encoder_learns_the_words_of_the_captions(trained, tmp_path):
    task = task_of(config_of(trained, tmp_path))
    batch = next(iter(Loader(task.config.data, Place(batch=4), 0)))
    ((_, loss, _),) = task.losses(batch, Draw(0, 0, 0, Place(batch=4), "cpu"), 0)
    loss.backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in task.model.text_encoder.parameters())
    assert not any(parameter.requires_grad for parameter in task.autoencoder.parameters())


def test_captions_are_dropped_as_often_as_asked(trained, tmp_path, monkeypatch):
    task = task_of(config_of(trained, tmp_path, noise={"caption_dropout": 0.5}))
    seen: list[str] = []
    monkeypatch.setattr(task, "_loss", lambda _, __, captions, ___: seen.extend(captions) or torch.zeros(()))
    for step, batch in enumerate(islice(Loader(task.config.data, Place(batch=4), 0), 50)):
        list(task.losses(batch, Draw(0, step, 0, Place(batch=4), "cpu"), step))
    assert 70 < seen.count("") < 130
    assert len(seen) == 200


def test_cached_latents_are_those_of_the_pixels(trained, tmp_path):
    config = config_of(trained, tmp_path / "run")
    cache = str(tmp_path / "latents")
    assert cache_latents(config, cache, quiet()) == sum(
        shard.samples for shard in Loader(config.data, Place(batch=4), 0).shards
    )
    cached = config_of(trained, tmp_path / "run", data={"latents": cache})
    task = task_of(config)
    pairs = zip(*(islice(Loader(each.data, Place(batch=4), 0), 10) for each in (config, cached)), strict=True)
    for step, (pixels, latents) in enumerate(pairs):
        assert pixels.keys == latents.keys
        draws = (Draw(0, step, 0, Place(batch=4), "cpu") for _ in range(2))
        a, b = (task.encode(batch, draw)[0] for batch, draw in zip((pixels, latents), draws, strict=True))
        torch.testing.assert_close(a, b, rtol=0, atol=5e-3)  # half precision, mirrored ones too
    train_diffusion(cached, quiet())
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()


def test_caching_goes_on_where_it_stopped(trained, tmp_path):
    config, cache = config_of(trained, tmp_path / "run"), tmp_path / "latents"
    cache_latents(config, str(cache), quiet())
    before = {tar.name: tar.read_bytes() for tar in cache.glob("*.tar")}
    (cache / "00001.tar").unlink()
    (cache / "00000.tar").touch()
    cache_latents(config, str(cache), quiet())
    assert {tar.name: tar.read_bytes() for tar in cache.glob("*.tar")} == before


def test_latents_of_another_autoencoder_are_refused(trained, tmp_path):
    config = config_of(trained, tmp_path / "run")
    cache_latents(config, str(tmp_path / "latents"), quiet())
    again = config_of(trained, tmp_path / "other")
    train_autoencoder(again.model_copy(update={"seed": 1}), quiet())
    other = config_of((trained[0], tmp_path / "other" / "autoencoder"), tmp_path / "x",
                      data={"latents": str(tmp_path / "latents")})  # fmt: skip
    with pytest.raises(ConfigError, match="were made with autoencoder"):
        train_diffusion(other, quiet())
    larger = config_of(trained, tmp_path / "x", data={"latents": str(tmp_path / "latents"), "foreground": "padded"})
    with pytest.raises(ConfigError, match=r"made with foreground 'cut' \(wanted 'padded'\)"):
        train_diffusion(larger, quiet())


def test_what_cannot_be_cached_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"set data.crop=1"):
        cache_latents(config_of(trained, tmp_path, data={"crop": 0.5}), str(tmp_path), quiet())
    conditional = config_of(trained, tmp_path, data={"latents": str(tmp_path)}, unet={"conditional": True})
    with pytest.raises(ConfigError, match="cannot train from cached latents"):
        train_diffusion(conditional, quiet())


def test_without_an_autoencoder_it_says_what_to_do(trained, tmp_path):
    with pytest.raises(WeightsError, match=r"no autoencoder in .*l2i train-autoencoder`, or .* diffusion\.autoencoder"):
        train_diffusion(tiny_config(trained[0], tmp_path), quiet())


def test_the_autoencoder_is_found_in_the_output_folder(trained, tmp_path):
    shutil.copytree(trained[1], tmp_path / "autoencoder")
    train_diffusion(tiny_config(trained[0], tmp_path, train_diffusion={"steps": 1}), quiet())
    assert (tmp_path / "pipeline").is_dir()


def test_sizes_that_do_not_fit_are_refused(trained, tmp_path):
    unet = {"channels": [16, 16, 16, 16]}
    with pytest.raises(ConfigError, match=r"data.size 16 must be a multiple of 32"):
        train_diffusion(config_of(trained, tmp_path, unet=unet), quiet())
