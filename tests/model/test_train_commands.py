import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState
from toy_training import tiny_config, toy_shards
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.errors import ConfigError


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.slow
def test_autoencoder_cache_diffusion_one_after_another(tmp_path):
    shards, file = toy_shards(tmp_path), tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_config(shards, "").model_dump(mode="json", exclude={"out"})))
    shared = ["-c", str(file), "--shards", shards, "--out", str(tmp_path / "run")]
    for command in (
        ["train-autoencoder", *shared],
        ["cache-latents", str(tmp_path / "latents"), *shared],
        ["train-diffusion", *shared, "--set", f"data.latents={tmp_path}/latents"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert f"model  {tmp_path}/run/pipeline" in result.output
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()


def test_a_typo_is_an_error_that_names_the_key():
    result = CliRunner().invoke(app, ["train-autoencoder", "-c", "paper", "-s", "losses.weigthing=area"])
    assert isinstance(result.exception, ConfigError)
    assert "losses.weighting" in str(result.exception)
