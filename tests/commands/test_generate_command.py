"""``l2i generate`` and ``l2i evaluate`` as a user runs them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from layered_shards import write_discs
from PIL import Image
from psd_tools import PSDImage
from tiny_layers import SIDE, UNET, tiny_pipeline
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.errors import ConfigError, WeightsError
from model.denoiser_config import UNet

FAST = ["--steps", "2", "--guidance", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return folder


def run(*arguments: object) -> str:
    """Run ``l2i`` and return what it printed; its errors are raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_prompt_becomes_a_layered_psd(folder: Path, tmp_path: Path) -> None:
    shown = run("generate", "a red circle", "-o", tmp_path / "dog.psd", "-m", folder, *FAST)
    assert f"{tmp_path}/dog.psd" in shown
    psd = PSDImage.open(io.BytesIO((tmp_path / "dog.psd").read_bytes()))
    assert psd.size == (SIDE, SIDE)
    assert [layer.name for layer in psd] == ["background", "foreground: a red circle"]
    assert psd[1].mask is not None


def test_a_seed_gives_the_same_file_alone_or_among_others(folder: Path, tmp_path: Path) -> None:
    run("generate", "a", "-o", tmp_path / "x.ora", "-m", folder, "-n", 2, "--seed", 7, *FAST)
    run("generate", "a", "-o", tmp_path / "y.ora", "-m", folder, "--seed", 8, *FAST)
    assert (tmp_path / "x-001.ora").read_bytes() == (tmp_path / "y.ora").read_bytes()
    assert (tmp_path / "x-000.ora").read_bytes() != (tmp_path / "y.ora").read_bytes()


def test_pngs_and_a_contact_sheet(folder: Path, tmp_path: Path) -> None:
    run("generate", "a", "-o", tmp_path / "x.png", "-m", folder, "--sheet", tmp_path / "all.png", "-n", 2, *FAST)
    assert len(list(tmp_path.glob("x-00?.*.png"))) == 10
    assert Image.open(tmp_path / "all.png").size[1] > 2 * 192


def test_a_background_can_be_given(tmp_path: Path) -> None:
    conditional = UNet(**{**UNET.model_dump(), "conditional": True})
    tiny_pipeline(unet=conditional).save_pretrained(tmp_path / "model")
    scene = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(scene).save(tmp_path / "scene.png")
    options = ["--background", tmp_path / "scene.png", *FAST]
    run("generate", "a", "-o", tmp_path / "x.png", "-m", tmp_path / "model", *options)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.background.png")), scene)


def test_what_cannot_be_done_is_said_first(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.psd, \.ora or \.png"):
        run("generate", "a", "-o", tmp_path / "dog.jpg", "-m", tmp_path / "nowhere", *FAST)
    with pytest.raises(WeightsError, match="holds no Text2LayerPipeline"):
        run("generate", "a", "-o", tmp_path / "dog.psd", "-m", tmp_path / "nowhere", *FAST)
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        run("evaluate", "-m", "x", "-r", "LL2I-E=x", "-o", tmp_path)


def test_models_are_measured_from_shards(folder: Path, tmp_path: Path) -> None:
    shards = write_discs(tmp_path / "test" / "00000.tar", 3, side=32)
    nobody = ["--extractor", "none", "--clip", "none", "--segmenter", "none", "--perceptual", "none"]
    arguments = ["-m", f"ours={folder}", "-r", f"LL2I-E={shards}", "-o", tmp_path / "out", "--samples", 2]
    shown = run("evaluate", *arguments, *nobody, *FAST)
    assert "results.html" in shown
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    (table,) = content["tables"]
    assert table["rows"][0]["cells"]["mask IoU"]["samples"] == 2
    assert len(list((tmp_path / "out" / "ours" / "composites").glob("*.png"))) == 2
