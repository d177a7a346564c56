import re

import pytest

from l2i_builder.configfile import changed_keys
from l2i_builder.errors import ConfigError
from model.config import ModelConfig, load_model_config, presets


def test_the_paper_preset_is_the_default():
    assert dict(changed_keys(load_model_config("paper"))) == {}


def test_the_papers_numbers():
    config = load_model_config("paper")
    losses = config.losses
    assert (losses.mask, losses.composition, losses.laplacian) == (1, 2, 3)
    assert (losses.weighting, losses.perceptual, config.autoencoder.head_norm) == ("uniform", "lpips", "batch")
    assert (config.train_autoencoder.steps, config.train_diffusion.steps, config.data.size) == (250_000, 75_000, 256)
    assert (config.noise.prediction, config.diffusion.min_snr) == ("epsilon", 0)
    assert (config.diffusion.sample_steps, config.diffusion.guidance) == (50, 7.5)


@pytest.mark.parametrize("name", presets())
def test_every_preset_holds(name):
    assert isinstance(load_model_config(name), ModelConfig)


@pytest.mark.parametrize("name", presets())
def test_a_preset_that_starts_from_a_hub_names_the_commit(name):
    config = load_model_config(name)
    for section in (config.autoencoder, config.unet):
        assert not section.source or re.fullmatch(r"[0-9a-f]{40}", section.revision), section.source


def test_what_goes_beyond_the_paper_has_another_name():
    paper = load_model_config("paper")
    for name in set(presets()) - {"paper"}:
        assert load_model_config(name) != paper, name
    assert not load_model_config("paper-no-sup").autoencoder.image_head


def test_overrides_win_over_the_preset():
    config = load_model_config("modern", ["noise.prediction=v", "train_autoencoder.steps=7"], out="runs/x")
    assert (config.noise.prediction, config.train_autoencoder.steps, config.out) == ("v", 7, "runs/x")
    assert config.autoencoder.patch == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("losses.weigthing=area", "Did you mean losses.weighting"),
        ("autoencoder.init=random", "'scratch'"),
        ("data.crop=0", "greater than 0"),
        ("train_diffusion.precision=fp8", "'bf16'"),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(ConfigError, match=words):
        load_model_config("paper", [override])


def test_choices_that_look_like_booleans_are_written_as_they_are_documented():
    config = load_model_config("modern", ["train_autoencoder.precision=no", "losses.composition_layers=true"])
    assert (config.train_autoencoder.precision, config.losses.composition_layers) == ("no", "true")


def test_an_unknown_preset_is_a_sentence():
    with pytest.raises(ConfigError, match="papper"):
        load_model_config("papper")


def test_every_key_says_what_it_means():
    def undocumented(model, prefix=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert list(undocumented(ModelConfig)) == []
