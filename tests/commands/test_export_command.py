"""``l2i export`` as a user runs it: stored samples as layered files, read back by other programs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from layered_toy import layered_run
from PIL import Image
from psd_tools import PSDImage
from samples import finished_run
from typer.testing import CliRunner

from l2i_builder import layers
from l2i_builder.cli import app
from l2i_builder.errors import ConfigError
from l2i_builder.output.layered import open_layers
from l2i_builder.sample import LayeredSample


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layered")
    layered_run(folder, folder / "out", rows=20)
    return folder / "out"


def sample_with(out: Path, objects: int) -> LayeredSample:
    return next(s for s in open_layers(f"{out}/shards/00000.tar") if len(s.layers) == objects)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)], catch_exceptions=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def opened(path: Path) -> PSDImage:
    return PSDImage.open(io.BytesIO(path.read_bytes()))


def check(psd: PSDImage, sample: LayeredSample) -> None:
    """The layers of the PSD, from the bottom up, are the sample's background and objects from back to front."""
    assert np.array_equal(np.rint(psd[0].numpy("color") * 255), sample.background)
    for layer, expected in zip(list(psd)[1:], reversed(sample.layers), strict=True):
        assert np.array_equal(np.rint(layer.numpy("color") * 255), expected[..., :3])
        assert np.array_equal(np.asarray(layer.mask.topil()), expected[..., 3])
    made = layers.flatten(sample.layers, sample.background)
    assert np.array_equal(np.asarray(psd.topil().convert("RGB")), made)
    drawn = np.asarray(psd.composite(force=True).convert("RGB")).astype(int)
    assert np.abs(drawn - made).max() <= len(sample.layers)  # psd-tools rounds once for each layer


def test_a_sample_with_further_objects_becomes_a_psd_of_all_its_layers(out: Path, tmp_path: Path) -> None:
    sample = sample_with(out, 3)
    assert str(tmp_path / "x.psd") in run(out, "--key", sample.key, "-o", tmp_path / "x.psd")
    psd = opened(tmp_path / "x.psd")
    names = [layer.name.partition(":")[0] for layer in psd]
    assert names == ["background", "foreground 3", "foreground 2", "foreground"]
    check(psd, sample)


def test_a_sample_of_a_two_layer_run_becomes_one_of_two(tmp_path: Path) -> None:
    config = finished_run(tmp_path / "metadata", tmp_path / "out", rows=10)
    sample = next(open_layers(f"{config.out}/shards/00000.tar"))
    run(config.out, "-k", sample.key, "-o", tmp_path / "x.psd")
    psd = opened(tmp_path / "x.psd")
    assert [layer.name for layer in psd] == ["background", f"foreground: {sample.caption}"]
    check(psd, sample)


def test_a_tar_will_do_and_several_samples_are_numbered(out: Path, tmp_path: Path) -> None:
    keys = [sample_with(out, objects).key for objects in (1, 2)]
    run(f"{out}/shards/00000.tar", "-k", keys[0], "-k", keys[1], "-o", tmp_path / "x.png")
    assert len(list(tmp_path.glob("x-000.*.png"))) == 5
    assert len(list(tmp_path.glob("x-001.*.png"))) == 8
    composite = np.asarray(Image.open(tmp_path / "x-001.composite.png"))
    sample = sample_with(out, 2)
    assert np.array_equal(composite, layers.flatten(sample.layers, sample.background))


def test_padding_is_asked_for(out: Path, tmp_path: Path) -> None:
    sample = sample_with(out, 2)
    run(out, "-k", sample.key, "-o", tmp_path / "x.psd", "--pad")
    colours = np.rint(opened(tmp_path / "x.psd")[2].numpy("color") * 255)
    assert (colours[sample.layers[0][..., 3] == 0] > 0).any()  # the fill was black


def test_what_cannot_be_is_said_before_anything_is_read(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.psd, \.ora or \.png"):
        run(tmp_path / "nowhere", "-k", "x", "-o", tmp_path / "x.jpg")
    with pytest.raises(ConfigError, match="stores no sample"):
        run(out, "-k", "f" * 32, "-o", tmp_path / "x.psd")
    assert list(tmp_path.iterdir()) == []
