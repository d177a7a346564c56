"""Soft masks: preprocessing, per-image stretching, batches, and the published weights on real photographs."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_onnx import saliency_model

from l2i_builder.config import Segment
from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.segment.segmenter import make_segmenter, stretch, to_mask
from l2i_builder.weights.registry import cached, file_sha256

SHARED = Path(os.environ.get("L2I_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def photo(seed: int = 0, side: int = 64) -> np.ndarray:
    """A bright disc, off centre, on a dark, noisy ground: uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    centre = tuple(int(value) for value in rng.integers(side // 3, 2 * side // 3, 2))
    cv2.circle(image, centre, side // 5, (250, 240, 230), -1)
    return image


class TestStretching:
    def test_a_map_is_stretched_to_its_own_extremes(self) -> None:
        stretched = stretch(np.array([[0.2, 0.6], [0.4, 0.5]], np.float32))
        np.testing.assert_allclose(stretched, [[0, 1], [0.5, 0.75]], atol=1e-6)

    def test_a_map_that_found_nothing_is_not_stretched_into_noise(self) -> None:
        noise = np.random.default_rng(0).uniform(0, 0.06, (32, 32)).astype(np.float32)
        np.testing.assert_array_equal(stretch(noise), noise)
        assert to_mask(noise, (64, 64)).max() < 0.1 * 255

    def test_not_a_number_becomes_nothing(self) -> None:
        assert to_mask(np.full((8, 8), np.nan, np.float32), (16, 16)).max() == 0

    def test_a_mask_is_resized_bilinearly_and_rounded(self) -> None:
        mask = to_mask(np.array([[0, 1], [0, 1]], np.float32), (2, 4))
        np.testing.assert_array_equal(mask, [[0, 64, 191, 255]] * 2)


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
class TestOnnx:
    @pytest.fixture(autouse=True)
    def chosen(self, runtime: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runtime = runtime
        monkeypatch.setenv("L2I_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        (tmp_path / "bright.onnx").write_bytes(saliency_model(32))
        return str(tmp_path / "bright.onnx")

    def config(self, path: str, **keys: Any) -> Segment:
        return Segment(**{"backend": "u2net", "weights": path, "resolution": 32, "runtime": self.runtime, **keys})

    def test_the_bright_object_is_found_at_the_images_size(self, path: str) -> None:
        image = photo()
        (mask,) = make_segmenter(self.config(path))(image[None])
        assert mask.dtype == np.uint8
        assert mask.shape == image.shape[:2]
        disc = image.mean(axis=2) > 200
        assert mask[disc].mean() > 230
        assert mask[~disc].mean() < 60

    def test_several_images_equal_one_by_one(self, path: str) -> None:
        segmenter = make_segmenter(self.config(path))
        images = np.stack([photo(seed) for seed in range(5)])
        together = segmenter(images)
        np.testing.assert_array_equal(together, np.concatenate([segmenter(image[None]) for image in images]))
        assert len({mask.tobytes() for mask in together}) == 5

    def test_no_images_give_no_masks(self, path: str) -> None:
        assert make_segmenter(self.config(path))(np.empty((0, 64, 48, 3), np.uint8)).shape == (0, 64, 48)

    def test_u2net_sees_an_image_over_its_own_peak(self, path: str) -> None:
        segmenter = make_segmenter(self.config(path))
        bright, dim = photo()[None], photo()[None] // 2
        np.testing.assert_allclose(segmenter(bright).astype(int), segmenter(dim), atol=4)

    def test_each_backend_prepares_in_its_own_way(self, path: str) -> None:
        image = np.full((1, 32, 32, 3), 100, np.uint8)
        image[0, :16] = 200
        seen = {name: make_segmenter(self.config(path, backend=name))._prepare(image[0]) for name in ("u2net", "isnet")}
        u2net = (np.array([1.0, 0.5])[:, None] - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        np.testing.assert_allclose(seen["u2net"][0, :, 0, 0], u2net[0], rtol=1e-5)
        np.testing.assert_allclose(seen["u2net"][0, :, -1, 0], u2net[1], rtol=1e-5)
        np.testing.assert_allclose(seen["isnet"][0, :, 0, 0], (200 - 128) / 256, rtol=1e-5)

    def test_its_digest_is_the_files(self, path: str) -> None:
        assert make_segmenter(self.config(path)).digest == file_sha256(Path(path))

    def test_a_wrong_digest_stops(self, path: str) -> None:
        with pytest.raises(WeightsError, match="SHA-256"):
            make_segmenter(self.config(path, sha256="0" * 64))

    def test_a_file_that_is_not_onnx_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "bad.onnx").write_bytes(b"not a model")
        with pytest.raises(WeightsError, match="could not be loaded as an ONNX model"):
            make_segmenter(self.config(str(tmp_path / "bad.onnx")))

    def test_a_resolution_the_graph_lacks_is_told(self, path: str) -> None:
        with pytest.raises(ConfigError, match="sees 32 pixels"):
            make_segmenter(self.config(path, resolution=64))

    def test_without_a_cuda_provider_the_cpu_serves_and_says_so(
        self, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has a CUDA provider; runs where it has none")
        with caplog.at_level(logging.WARNING):
            segmenter = make_segmenter(self.config(path), device="cuda:0")
        assert "install onnxruntime-gpu" in caplog.text
        assert segmenter(photo()[None]).any()


def published(name: str, **keys: Any) -> Any:
    if not cached(name):
        pytest.skip(f"{name} is not in the weights cache; runs after `l2i weights pull {name}`")
    return make_segmenter(Segment(backend=name, **keys))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "least"), [("u2net", 0.86), ("u2netp", 0.82)])
def test_published_weights_reach_their_iou_on_photographs(backend: str, least: float) -> None:
    """Mean IoU at 0.5 on 20 ECSSD photographs, spread evenly over 300; larger shares give 0.91 and 0.88."""
    images = sorted((SHARED / "ecssd-300" / "images").glob("*"))[::15]
    if not images:
        pytest.skip("ecssd-300 is not there; runs where L2I_SHARED_DATA names a folder with it")
    segmenter = published(backend)
    scores = []
    for path in images:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        (truth_path,) = (SHARED / "ecssd-300" / "masks").glob(f"{path.stem}.*")
        truth = cv2.imread(str(truth_path), cv2.IMREAD_GRAYSCALE) > 127
        found = segmenter(image[None])[0] > 127
        scores.append((found & truth).sum() / (found | truth).sum())
    assert np.mean(scores) > least


@pytest.mark.slow
def test_published_weights_find_nothing_where_nothing_is() -> None:
    images = np.empty((4, 320, 320, 3), np.uint8)
    images[:3] = np.array([0, 128, 255])[:, None, None, None]
    images[3] = np.linspace(0, 255, 320)[:, None]
    masks = published("u2netp")(images)
    assert (masks > 0.1 * 255).mean(axis=(1, 2)).max() < 0.001


@pytest.mark.slow
class TestInspyrenet:
    SIDE = 96

    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A random checkpoint in the published format, its batch norms fitted to noise so that it sees the image."""
        import torch

        from l2i_builder.segment.inspyrenet import _network

        torch.manual_seed(0)
        network = _network(self.SIDE)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        with torch.no_grad():
            network.train().forward_inspyre(torch.randn(2, 3, self.SIDE, self.SIDE))
        path = tmp_path_factory.mktemp("inspyrenet") / "ckpt_base.pth"
        torch.save(network.state_dict(), path)
        return path

    def config(self, checkpoint: Path, **keys: Any) -> Segment:
        return Segment(**{"backend": "inspyrenet", "weights": str(checkpoint), "resolution": self.SIDE, **keys})

    @pytest.fixture(scope="class")
    def segmenter(self, checkpoint: Path) -> Any:
        return make_segmenter(self.config(checkpoint))

    @pytest.fixture(scope="class")
    def images(self) -> np.ndarray:
        return np.stack([photo(seed, 128) for seed in range(3)])

    def test_batched_equals_one_by_one(self, segmenter: Any, images: np.ndarray, checkpoint: Path) -> None:
        alone = segmenter(images)  # the CPU goes image by image
        assert alone.std(axis=(1, 2)).min() > 10
        batching = make_segmenter(self.config(checkpoint))
        for batching.step in (2, 3):  # as a GPU does, the last batch short or full
            np.testing.assert_allclose(batching(images).astype(int), alone, atol=1)

    def test_a_mask_equals_the_wrappers(
        self, segmenter: Any, images: np.ndarray, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import yaml
        from PIL import Image
        from transparent_background import Remover

        monkeypatch.setenv("TRANSPARENT_BACKGROUND_FILE_PATH", str(tmp_path))
        folder = tmp_path / ".transparent-background"
        folder.mkdir()
        mode = {"url": "", "md5": None, "ckpt_name": "", "http_proxy": None, "base_size": [self.SIDE, self.SIDE]}
        (folder / "config.yaml").write_text(yaml.safe_dump({"base": mode}))
        remover = Remover(mode="base", device="cpu", ckpt=str(checkpoint))
        for image, mask in zip(images, segmenter(images), strict=True):
            theirs = np.asarray(remover.process(Image.fromarray(image), type="map"))[..., 0].astype(int)
            difference = np.abs(theirs - mask)  # Pillow rounds the resized image to bytes
            assert difference.mean() < 1.5

    def test_nothing_is_printed_or_written_into_the_home_folder(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        make_segmenter(self.config(checkpoint))
        assert capfd.readouterr() == ("", "")
        assert not list(tmp_path.iterdir())

    def test_bfloat16_stays_close(self, checkpoint: Path, segmenter: Any, images: np.ndarray) -> None:
        coarse = make_segmenter(self.config(checkpoint, dtype="bfloat16"))
        assert np.abs(coarse(images[:1]).astype(int) - segmenter(images[:1])).mean() < 25

    def test_its_digest_is_the_files(self, segmenter: Any, checkpoint: Path) -> None:
        assert segmenter.digest == file_sha256(checkpoint)

    def test_another_networks_checkpoint_is_told(self, tmp_path: Path) -> None:
        import torch

        torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match="not an InSPyReNet"):
            make_segmenter(self.config(tmp_path / "other.pth"))

    def test_a_checkpoint_with_code_in_it_is_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
        with pytest.raises(WeightsError, match="not a plain checkpoint"):
            make_segmenter(self.config(tmp_path / "evil.pth"))
        assert not (tmp_path / "ran").exists()

    def test_a_resolution_off_the_grid_is_told(self, checkpoint: Path) -> None:
        with pytest.raises(ConfigError, match="multiple of 32"):
            make_segmenter(self.config(checkpoint, resolution=100))

    def test_a_device_that_is_not_there_is_told(self, checkpoint: Path) -> None:
        with pytest.raises(ConfigError, match="torch sees no device"):
            make_segmenter(self.config(checkpoint), device="cuda:63")
