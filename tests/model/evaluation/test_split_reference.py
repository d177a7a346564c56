"""What generated images are compared with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from layered_shards import write_discs

from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import open_triplets, write_tar
from model.evaluation.reference import Reference


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("split") / "00000.tar", 5)


def test_the_first_samples_in_order(tar: Path) -> None:
    reference = Reference("LL2I-E", str(tar.parent), 4)
    assert reference.captions() == [
        ("k000", "a red disc"),
        ("k001", "a green disc"),
        ("k002", "a blue disc"),
        ("k003", "a red disc"),
    ]
    assert len(list(reference.images())) == 4
    assert len(list(Reference("LL2I-E", str(tar), 100).images())) == 5


def test_images_are_as_stored(tar: Path) -> None:
    found = list(Reference("LL2I-E", str(tar), 5).images())
    for image, triplet in zip(found, open_triplets(str(tar)), strict=True):
        assert np.abs(image.astype(int) - triplet.image).max() <= 2  # two decoders of one JPEG


def test_layers_are_as_the_trainers_see_them(tar: Path) -> None:
    planes = next(Reference("LL2I-E", str(tar), 1).layers(32))
    assert planes.shape == (10, 32, 32)
    f, m, i = planes[:3], planes[6], planes[7:]
    assert np.array_equal(f[:, m > 26], i[:, m > 26])
    assert not f[:, m <= 25].any()


def test_images_without_layers_serve_as_la(tmp_path: Path) -> None:
    picture = np.full((20, 24, 3), 90, np.uint8)
    data = cv2.imencode(".png", picture)[1].tobytes()
    write_tar([("a", {"png": data, "txt": b"x"}), ("b", {"png": data})], str(tmp_path / "la.tar"))
    images = list(Reference("LA", str(tmp_path / "la.tar"), 10).images())
    assert len(images) == 2
    assert np.array_equal(images[0], picture)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    write_tar([("a", {"jpg": b"nothing"})], str(tmp_path / "bad.tar"))
    with pytest.raises(OutputError, match="image of a is missing or does not decode"):
        list(Reference("LA", str(tmp_path / "bad.tar"), 10).images())
    with pytest.raises(ConfigError, match="no samples"):
        Reference("LA", str(tmp_path / "empty"), 10).captions()
