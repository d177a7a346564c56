"""Inpainting: what is known stays, what is filled looks like its surroundings, and every run gives the same bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from textures import disc, texture

from l2i_builder.config import Inpaint
from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.inpaint import field
from l2i_builder.inpaint.inpainter import Inpainter, make_inpainter
from l2i_builder.inpaint.patchmatch import neighbourhood
from l2i_builder.weights.registry import file_sha256


@pytest.fixture(scope="module")
def lama_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript module with LaMa's interface that fills with the mean colour of what is known, plus a ramp."""
    import torch

    class MeanFill(torch.nn.Module):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            assert image.shape[2] % 8 == 0
            assert image.shape[3] % 8 == 0
            known = 1 - mask
            colour = (image * known).sum([2, 3], keepdim=True) / known.sum([2, 3], keepdim=True)
            ramp = torch.linspace(0, 0.2, image.shape[3], device=image.device)
            return image * known + (colour + ramp) * mask

    path = tmp_path_factory.mktemp("lama") / "big-lama.pt"
    with pytest.warns(FutureWarning):
        torch.jit.script(MeanFill()).save(str(path))
    return path


@pytest.fixture(scope="module")
def convolving_lama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript module with LaMa's interface and its kinds of layers: convolutions, and a Fourier one."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(4, 16, 3, padding=1)
            self.spectral = torch.nn.Conv2d(32, 32, 1)
            self.last = torch.nn.Conv2d(16, 3, 3, padding=1)

        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(torch.cat([image * (1 - mask), mask], 1)))
            waves = torch.fft.rfftn(x, dim=[2, 3], norm="ortho")
            both = self.spectral(torch.cat([waves.real, waves.imag], 1))
            waves = torch.complex(both[:, :16], both[:, 16:])
            x = x + torch.fft.irfftn(waves, s=[x.shape[2], x.shape[3]], dim=[2, 3], norm="ortho")
            return torch.sigmoid(4 * self.last(x))

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("convolving") / "big-lama.pt"
    with pytest.warns(FutureWarning):
        torch.jit.script(Network()).save(str(path))
    return path


@pytest.fixture(params=["patchmatch", "telea", "lama"])
def inpainter(request: pytest.FixtureRequest) -> Inpainter:
    if request.param == "lama":
        return lama(request.getfixturevalue("lama_weights"))
    return make_inpainter(Inpaint(backend=request.param))


def lama(weights: Path, **keys: Any) -> Any:
    return make_inpainter(Inpaint(backend="lama", weights=str(weights), sha256=file_sha256(weights), **keys))


class TestEveryBackend:
    def test_what_is_known_stays_and_what_is_not_is_filled(self, inpainter: Inpainter) -> None:
        image, hole = texture(0), disc()
        image[hole] = (255, 0, 255)
        (filled,) = inpainter(image[None], hole[None])
        assert filled.dtype == np.uint8
        np.testing.assert_array_equal(filled[~hole], image[~hole])
        red, green, blue = filled[hole].astype(int).T
        assert (green > np.minimum(red, blue) - 60).all()  # the magenta is gone

    def test_inputs_are_left_alone(self, inpainter: Inpainter) -> None:
        images, holes = texture(0)[None], disc()[None]
        before = images.copy(), holes.copy()
        inpainter(images, holes)
        np.testing.assert_array_equal(images, before[0])
        np.testing.assert_array_equal(holes, before[1])

    def test_a_result_depends_on_its_image_alone(self, inpainter: Inpainter) -> None:
        images, holes = (
            np.stack([texture(seed) for seed in range(4)]),
            np.stack([disc(radius=r) for r in (9, 14, 4, 11)]),
        )
        forward = inpainter(images, holes)
        np.testing.assert_array_equal(inpainter(images[::-1], holes[::-1])[::-1], forward)
        for image, hole, filled in zip(images, holes, forward, strict=True):
            np.testing.assert_array_equal(inpainter(image[None], hole[None])[0], filled)

    def test_no_hole_changes_nothing(self, inpainter: Inpainter) -> None:
        images = np.stack([texture(0), texture(1)])
        holes = np.stack([np.zeros((64, 64), bool), disc()])
        np.testing.assert_array_equal(inpainter(images, holes)[0], images[0])

    def test_all_hole_becomes_the_mean_colour(self, inpainter: Inpainter) -> None:
        image = texture(0)
        (filled,) = inpainter(image[None], np.ones((1, 64, 64), bool))
        expected = np.broadcast_to(np.rint(image.mean(axis=(0, 1))), image.shape)
        np.testing.assert_array_equal(filled, expected)

    def test_no_images_give_none(self, inpainter: Inpainter) -> None:
        assert inpainter(np.empty((0, 64, 48, 3), np.uint8), np.empty((0, 64, 48), bool)).shape == (0, 64, 48, 3)

    def test_it_names_what_made_the_pixels(self, inpainter: Inpainter) -> None:
        assert inpainter.digest


class TestPatchmatch:
    def make(self, seed: int = 0, **keys: Any) -> Inpainter:
        return make_inpainter(Inpaint(backend="patchmatch", **keys), seed=seed)

    @pytest.mark.parametrize("size", [(128, 128), (400, 416), (800, 800)], ids=["whole", "halved", "halved twice"])
    def test_a_texture_is_continued_sharply(self, size: tuple[int, int]) -> None:
        image, hole = texture(1, *size), disc(*size, radius=size[0] // 6)
        damaged = image.copy()
        damaged[hole] = 0
        (filled,) = self.make()(damaged[None], hole[None])
        error = filled[hole].astype(float) - image[hole]
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 20
        assert gradient(filled)[hole].mean() > 0.85 * gradient(image)[hole].mean()
        np.testing.assert_array_equal(filled[~hole], image[~hole])

    def test_loading_it_compiles_its_loops(self) -> None:
        self.make()
        for loop in (field._scatter, field._inherit, field._search, field._vote, field._spread):
            assert len(loop.signatures) == 1, loop  # one more would be compiled in the middle of a run

    def test_the_seed_decides(self) -> None:
        image, hole = texture(0, 128, 128)[None], disc(128, 128, 30)[None]
        first = self.make(seed=1)(image, hole)
        np.testing.assert_array_equal(self.make(seed=1)(image, hole), first)
        assert (self.make(seed=2)(image, hole) != first).any()

    def test_fine_and_smooth_texture_are_told_apart_where_their_colours_are_alike(self) -> None:
        rng = np.random.default_rng(0)
        image = np.full((128, 128, 3), 120, np.uint8)
        image[:, 64:] = np.clip(120 + rng.normal(0, 25, (128, 64, 1)), 0, 255)  # plain on the left, grain on the right
        hole = disc(128, 128, 24)
        damaged = np.where(hole[..., None], np.uint8(0), image)
        (filled,) = self.make()(damaged[None], hole[None])
        inner = cv2.erode(hole.astype(np.uint8), np.ones((9, 9))).astype(bool)
        columns = np.arange(128)
        assert filled[inner & (columns > 72)].std() > 12
        assert filled[inner & (columns < 56)].std() < 8

    def test_threads_do_not_disturb_each_other(self) -> None:
        inpainter, hole = self.make(), disc()[None]
        images = [texture(seed)[None] for seed in range(4)]
        alone = [inpainter(image, hole) for image in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(inpainter, images, [hole] * 4))
        np.testing.assert_array_equal(together, alone)

    @pytest.mark.parametrize("known", [np.s_[:8, :8], np.s_[:, :8], np.s_[200, :], np.s_[399, 399]])
    def test_almost_all_hole_is_filled_too(self, known: Any) -> None:
        image, hole = texture(0, 400, 400), np.ones((400, 400), bool)
        hole[known] = False
        (filled,) = self.make()(image[None], hole[None])
        np.testing.assert_array_equal(filled[~hole], image[~hole])


def gradient(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


class TestTheNeighbourhood:
    def make_hole(self, height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        hole = np.zeros((height, width), bool)
        hole[top:bottom, left:right] = True
        return hole

    @pytest.mark.parametrize(
        ("box", "near"),
        [
            ((200, 240, 300, 280), np.s_[136:364, 176:344]),  # an eighth of the image around a small hole
            ((100, 100, 300, 140), np.s_[0:400, 0:240]),  # half of its longer side around a long one
            ((0, 400, 8, 512), np.s_[0:72, 336:512]),  # no further than the image
            ((201, 241, 299, 279), np.s_[136:364, 176:344]),  # out to the grid
        ],
    )
    def test_is_the_holes_box_and_a_margin(self, box: tuple[int, ...], near: tuple[slice, slice]) -> None:
        assert neighbourhood(self.make_hole(512, 512, *box), grid=4) == near

    @pytest.mark.parametrize("known", [np.s_[:1, :1], np.s_[7], np.s_[:, 95:], np.s_[63:, 50]])
    def test_holds_something_known_wherever_it_is(self, known: Any) -> None:
        hole = np.ones((64, 96), bool)
        hole[known] = False
        assert not hole[neighbourhood(hole)].all()

    def test_nothing_beyond_it_changes_a_fill(self) -> None:
        inpainter = make_inpainter(Inpaint())
        image, hole = texture(1, 400, 800), self.make_hole(400, 800, 160, 160, 240, 240)
        inside = np.zeros(hole.shape, bool)
        inside[neighbourhood(hole, 4)] = True
        assert not inside[:, 400:].any()
        other = np.where(inside[..., None], image, 255 - image)
        (filled,), (again,) = inpainter(image[None], hole[None]), inpainter(other[None], hole[None])
        np.testing.assert_array_equal(filled[inside], again[inside])
        np.testing.assert_array_equal(again[~hole], other[~hole])

    def test_a_hole_in_one_corner_may_be_cut_from_an_image_of_odd_size(self) -> None:
        image, hole = texture(0, 401, 600), self.make_hole(401, 600, 390, 590, 401, 600)
        (filled,) = make_inpainter(Inpaint())(image[None], hole[None])
        np.testing.assert_array_equal(filled[~hole], image[~hole])
        assert np.abs(filled[hole].mean(axis=0) - image[hole].mean(axis=0)).max() < 60


class TestLama:
    def test_a_result_equals_the_wrappers(self, lama_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch
        from simple_lama_inpainting import SimpleLama

        monkeypatch.setenv("LAMA_MODEL", str(lama_weights))
        image, hole = texture(2, 61, 75), disc(61, 75)  # off the grid of 8: padded
        theirs = np.asarray(SimpleLama(torch.device("cpu"))(image, hole.astype(np.uint8) * 255))[:61, :75]
        (ours,) = lama(lama_weights)(image[None], hole[None])
        np.testing.assert_allclose(ours.astype(int)[hole], theirs[hole], atol=1)  # the wrapper truncates

    def test_batched_equals_one_by_one(self, lama_weights: Path) -> None:
        inpainter = lama(lama_weights)
        images, holes = np.stack([texture(seed) for seed in range(3)]), np.stack([disc(radius=r) for r in (5, 9, 14)])
        alone = inpainter(images, holes)  # the CPU goes image by image
        for inpainter.step in (2, 3):  # as a GPU does, the last batch short or full
            np.testing.assert_array_equal(inpainter(images, holes), alone)

    def test_channels_last_equals_contiguous(self, convolving_lama: Path) -> None:
        from l2i_builder.device import prepare

        inpainter, image, hole = lama(convolving_lama), texture(2)[None], disc()[None]
        plain = inpainter(image, hole)
        prepare(inpainter._model, inpainter._device, channels_last=True)
        assert plain[hole].std() > 10
        np.testing.assert_allclose(inpainter(image, hole).astype(int), plain, atol=1)

    def test_torchscript_without_a_pin_is_not_loaded(self, lama_weights: Path) -> None:
        with pytest.raises(WeightsError, match="can run code when loaded"):
            make_inpainter(Inpaint(backend="lama", weights=str(lama_weights)))

    def test_torchscript_with_another_digest_is_not_loaded(self, lama_weights: Path) -> None:
        with pytest.raises(WeightsError, match="wanted " + "0" * 64):
            make_inpainter(Inpaint(backend="lama", weights=str(lama_weights), sha256="0" * 64))

    def test_a_file_that_is_not_torchscript_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "bad.pt").write_bytes(b"not a module")
        with pytest.raises(WeightsError, match="could not be loaded as TorchScript"):
            lama(tmp_path / "bad.pt")

    def test_bfloat16_is_refused(self, lama_weights: Path) -> None:
        with pytest.raises(ConfigError, match="no bfloat16"):
            lama(lama_weights, dtype="bfloat16")

    def test_its_digest_is_the_files(self, lama_weights: Path) -> None:
        assert lama(lama_weights).digest == file_sha256(lama_weights)
