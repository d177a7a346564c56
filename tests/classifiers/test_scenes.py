"""Scenes: exact layers, and a split that no source picture crosses."""

from __future__ import annotations

import itertools
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_scene import ground

from classifiers import sources
from classifiers.scenes import SIDE, composites, iou, object_free, paste, photographs
from classifiers.sources import Picture, is_test
from l2i_builder import layers


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cutout(name: str, colour: tuple[int, int, int] = (230, 30, 30)) -> Picture:
    pixels = np.zeros((150, 180, 4), np.uint8)
    cv2.ellipse(pixels, (90, 75), (70, 55), 0, 0, 360, (*colour, 255), -1)
    return Picture(name, pixels)


PHOTOS = [Picture(f"photo-{i}", ground(i)[:380]) for i in range(12)]
CUTOUTS = [cutout(f"cutout-{i}") for i in range(12)]


def nothing(image: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:2], np.uint8)


def test_composites_are_made_of_their_layers() -> None:
    for scene in itertools.islice(composites(PHOTOS, nothing, CUTOUTS, rng()), 6):
        assert scene.image.shape == (SIDE, SIDE, 3)
        outside = cv2.dilate(scene.alpha, np.ones((17, 17), np.uint8)) == 0  # a JPEG block away from the object
        assert np.abs(scene.image[outside].astype(int) - scene.background[outside]).mean() < 1.5  # type: ignore[index]
        assert scene.alpha.max() > 200
        composed = layers.composite(scene.image, scene.background, scene.alpha)  # type: ignore[arg-type]
        assert np.abs(composed.astype(int) - scene.image).mean() < 4


def test_composites_repeat_and_go_on_for_ever() -> None:
    one, two = (list(itertools.islice(composites(PHOTOS, nothing, CUTOUTS, rng(4)), 14)) for _ in range(2))
    assert [a.name for a in one] == [b.name for b in two]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, two, strict=True))
    assert len({scene.name for scene in one}) == 14


def test_no_source_picture_serves_both_sides() -> None:
    sides = {scene.test for scene in itertools.islice(composites(PHOTOS, nothing, CUTOUTS, rng()), 24)}
    assert sides == {True, False}
    for scene in itertools.islice(composites(PHOTOS, nothing, CUTOUTS, rng()), 24):
        assert {is_test(name) for name in scene.sources} == {scene.test}


def test_mirrored_twins_stay_together() -> None:
    assert all(is_test(f"ship-{i}.png") == is_test(f"ship-{i}_mirror.png") for i in range(50))


def test_windows_avoid_the_photographs_own_object() -> None:
    saliency = np.zeros((380, 512), np.uint8)
    saliency[:, 300:] = 255
    marked = ground()[:380].copy()
    marked[:, 300:] = 0
    for seed in range(5):
        background, own = object_free(Picture("p", marked), saliency, rng(seed))
        dark = background.sum(axis=2) < 20
        assert dark.mean() < 0.2
        assert iou(own, np.where(dark, 255, 0).astype(np.uint8)) > 0.9


def test_plain_windows_have_less_detail() -> None:
    busy = np.full((400, 800, 3), 128, np.uint8)
    busy[:, :400] = np.random.default_rng(0).integers(0, 256, (400, 400, 3))
    nothing_there = np.zeros((400, 800), np.uint8)

    def noisy(plain: bool) -> float:
        return float(
            np.mean([object_free(Picture("p", busy), nothing_there, rng(s), plain)[0].std() for s in range(6)])
        )

    assert noisy(plain=True) < 0.3 * noisy(plain=False)


def test_pasting_selects_what_it_changes() -> None:
    image = ground().astype(np.float32)
    for seed in range(8):
        out, alpha = paste(image, np.zeros((SIDE, SIDE), np.float32), cutout("c"), rng(seed))
        changed = np.abs(out - image).max(axis=2) > 8
        assert 0 <= alpha.min() <= alpha.max() <= 1
        assert (alpha[changed] > 0).all()
        assert iou((alpha * 255).astype(np.uint8), np.where(changed, 255, 0).astype(np.uint8)) > 0.6


def test_photographs_are_certain_where_segmenters_agree_also_on_the_mirror_image() -> None:
    def left(image: np.ndarray) -> np.ndarray:
        return np.where(np.arange(SIDE)[None] < 200, 255, 0).repeat(SIDE, axis=0).astype(np.uint8)

    def middle(image: np.ndarray) -> np.ndarray:
        return np.where(np.abs(np.arange(SIDE)[None] - 255.5) < 100, 255, 0).repeat(SIDE, axis=0).astype(np.uint8)

    def corner(image: np.ndarray) -> np.ndarray:
        return left(image) & left(image).T

    agreed = list(photographs(PHOTOS, [middle, middle], rng()))
    assert len(agreed) == len(PHOTOS)
    assert all(scene.certain and scene.background is None for scene in agreed)
    assert np.array_equal(agreed[0].alpha, middle(agreed[0].image))
    differing = list(photographs(PHOTOS, [middle, corner], rng()))
    assert differing
    assert not any(scene.certain for scene in differing)
    assert list(photographs(PHOTOS, [nothing, nothing], rng())) == []


class TestSources:
    def test_cut_outs_are_read_from_a_debian_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A package in miniature, unpacked by the real tool; drawings without a body are left out."""
        good = cv2.imencode(".png", cutout("x").pixels)[1].tobytes()
        opaque = cv2.imencode(".png", np.full((150, 150, 4), 255, np.uint8))[1].tobytes()
        members = {
            "animals/hen.png": good,
            "symbols/a.png": good,
            "animals/tiny.png": cv2.imencode(".png", cutout("x").pixels[60:80, 60:80])[1].tobytes(),
            "town/wall.png": opaque,
            "animals/hen.txt": b"hen",
        }
        monkeypatch.setattr(sources.sample_photos, "apt_download", lambda package, folder: archive)
        monkeypatch.setattr(sources, "MORE_PHOTOS", ())
        monkeypatch.setattr(sources, "LANDSCAPES", {})
        monkeypatch.setattr(sources.sample_photos, "gather", lambda folder: ([], []))
        archive = debian(tmp_path / "stamps.deb", {f"usr/share/tuxpaint/stamps/{k}": v for k, v in members.items()})
        with pytest.raises(sources.MetadataError, match="photographs and cut-outs"):
            sources.gather(tmp_path / "out")
        kept = sorted(path.name for path in (tmp_path / "out" / "cutouts").iterdir())
        assert kept == ["animals-hen.png", "animals-tiny.png", "complete", "town-wall.png"]

    def test_landscapes_are_taken_where_the_archive_has_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = cv2.imencode(".jpg", np.full((900, 3200, 3), 90, np.uint8))[1].tobytes()
        files = {"usr/share/backgrounds/Hill.jpg": large, "usr/share/backgrounds/logo.png": large}
        archive = debian(tmp_path / "hills.deb", files)

        def download(package: str, folder: Path) -> Path:
            if package == "hills":
                return archive
            raise sources.MetadataError("no such package")

        monkeypatch.setattr(sources.sample_photos, "apt_download", download)
        monkeypatch.setattr(sources, "LANDSCAPES", {"hills": "/backgrounds/", "valleys": "/backgrounds/"})
        with pytest.warns(UserWarning, match="valleys"):
            found = sources._landscapes(tmp_path / "out")
        assert [name for name, _ in found] == ["landscape-Hill.png"]
        assert sources.decode(found[0][1]).shape == (450, 1600, 3)  # type: ignore[union-attr]

    def test_bytes_that_are_no_colour_picture(self) -> None:
        assert sources.decode(b"no picture") is None
        assert sources.decode(cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()) is None


def debian(path: Path, files: dict[str, bytes]) -> Path:
    """Write a Debian package: an ar archive of a version and two tars."""
    import io

    def packed(entries: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, data in entries.items():
                entry = tarfile.TarInfo(f"./{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    blob = b"!<arch>\n"
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": packed({"control": b""}), "data.tar.gz": packed(files)}
    for name, data in parts.items():
        blob += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(blob)
    return path
