"""Graphs made for ncnn: the same answers, made once, checked on each use."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_onnx import saliency_model

from classifiers.scenes import iou
from l2i_builder.config import Segment
from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.segment import conversion
from l2i_builder.segment.networks import GRAPH, VALUES, NcnnNetwork, OnnxruntimeNetwork
from l2i_builder.segment.onnx import load_network
from l2i_builder.segment.segmenter import make_segmenter
from l2i_builder.weights.registry import cached, file_sha256

SHARED = Path(os.environ.get("L2I_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILES = {GRAPH, VALUES, "sha256.json"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("L2I_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def path(tmp_path: Path, cache: Path) -> Path:
    (tmp_path / "bright.onnx").write_bytes(saliency_model(32))
    return tmp_path / "bright.onnx"


def converted(path: Path) -> Path:
    return conversion.converted(path, file_sha256(path), 32)


def load(path: Path, side: int = 32, device: str = "cpu", **keys: Any) -> Any:
    return load_network(path, file_sha256(path), Segment(**{"backend": "u2net", **keys}), side, device, 1)


def test_the_converted_graph_gives_the_same_saliency(path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    expected = OnnxruntimeNetwork(path, "cpu", 1)(image)
    found = NcnnNetwork(converted(path), 1)(image)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected) > 0.1


def test_it_is_made_once_whoever_asks(path: Path, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(converted, [path] * 4))
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert before.keys() == FILES
    assert converted(path) == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert not list(cache.glob(".*"))


def test_what_was_damaged_is_made_again(path: Path) -> None:
    folder = converted(path)
    whole = (folder / VALUES).read_bytes()
    (folder / VALUES).write_bytes(whole[:-1] + b"?")
    assert converted(path) == folder
    assert (folder / VALUES).read_bytes() == whole


def test_automatically_ncnn_serves_cpus_and_onnxruntime_the_rest(path: Path) -> None:
    assert isinstance(load(path), NcnnNetwork)
    assert isinstance(load(path, backend="isnet"), OnnxruntimeNetwork)
    assert isinstance(load(path, device="cuda:0"), OnnxruntimeNetwork)
    assert isinstance(load(path, device="cuda:0", runtime="ncnn"), OnnxruntimeNetwork)


def test_a_graph_that_answers_otherwise_is_not_used(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conversion, "_TOLERANCE", -1.0)
    with pytest.raises(WeightsError, match=r"answers otherwise in ncnn.*set segment.runtime=onnxruntime"):
        load(path, runtime="ncnn")
    with caplog.at_level(logging.WARNING):
        assert isinstance(load(path), OnnxruntimeNetwork)
    assert "it runs in onnxruntime" in caplog.text
    assert {file.suffix for file in cache.iterdir()} == {".lock"}


def test_what_is_no_graph_and_a_side_it_lacks_are_told(path: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="could not be loaded as an ONNX model"):
        load(tmp_path / "bad.onnx")
    with pytest.raises(ConfigError, match="sees 32 pixels"):
        load(path, side=64)


def test_a_cache_that_cannot_be_written_is_told(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("L2I_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="set L2I_CACHE"):
        converted(path)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["u2net", "u2netp"])
def test_published_weights_give_the_same_masks(backend: str) -> None:
    images = sorted((SHARED / "ecssd-300" / "images").glob("*"))[::30]
    if not images:
        pytest.skip("ecssd-300 is not there; runs where L2I_SHARED_DATA names a folder with it")
    if not cached(backend):
        pytest.skip(f"{backend} is not in the weights cache; runs after `l2i weights pull {backend}`")
    on = {runtime: make_segmenter(Segment(backend=backend, runtime=runtime)) for runtime in ("ncnn", "onnxruntime")}
    for file in images:
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)[None]
        masks = [segmenter(image)[0] for segmenter in on.values()]
        assert iou(*masks) > 0.999
