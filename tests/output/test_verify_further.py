"""Verify finds every damage to further layers, also where manifest and index were made to agree with it afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from damage import about, change_ledger, change_tar, findings
from layered_toy import layered_run

from l2i_builder.config import Config
from l2i_builder.output.layered import decode_further
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.shards import decode_triplet, encode_members
from l2i_builder.sample import Row

Samples = list[tuple[str, dict[str, bytes]]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layered")
    layered_run(folder, folder / "out", strict=True)
    assert findings(folder / "out") == []
    return folder / "out"


@pytest.fixture
def out(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "out"))


def facts(members: dict[str, bytes]) -> dict[str, Any]:
    return json.loads(members["json"])


def with_layers(samples: Samples, *numbers: int) -> dict[str, bytes]:
    """The members of the first sample with one of so many layers."""
    return next(members for _, members in samples if facts(members)["layers"] in numbers)


def pixels(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def touch_foreground(samples: Samples) -> None:
    members = with_layers(samples, 3, 4)
    image, mask = pixels(members["fg2.png"]), pixels(members["mask2.png"])
    y, x = np.argwhere(mask > 26)[0]
    image[y, x, 1] ^= 1
    members["fg2.png"] = png(image)


def touch_background(samples: Samples) -> None:
    members = with_layers(samples, 3, 4)
    image = pixels(members["bg2.jpg"])
    image[0:8, 56:64] = 255 - image[0:8, 56:64]
    members["bg2.jpg"] = bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def repaint_hole(samples: Samples) -> None:
    """The sample encoded anew with another picture where the second object was: every layer fits the one before."""
    members = with_layers(samples, 3)
    triplet = decode_triplet("k", members, "")
    _, mask, behind = decode_further("k", members, "")[0]
    behind = behind.copy()
    behind[32:56, 32:56] = (255, 0, 0)
    config = Config(image={"size": 64}, layers={"count": 4})
    row = Row("k", "", triplet.caption, 0, 0)
    anew = encode_members(row, triplet.image, triplet.mask, triplet.background, config, [(mask, behind)])
    members.update(anew | {"json": members["json"]})


def grow_mask(samples: Samples) -> None:
    members = with_layers(samples, 3, 4)
    members["mask2.png"] = png(cv2.dilate(pixels(members["mask2.png"]), np.ones((5, 5), np.uint8)))


def invent(samples: Samples) -> None:
    """An object in a layer that is said to be empty."""
    members = with_layers(samples, 2)
    mask, image = np.zeros((64, 64), np.uint8), pixels(members["bg.jpg"])
    mask[40:48, 40:48] = 255
    members["mask2.png"], members["fg2.png"] = png(mask), png(np.where(mask[..., None] > 0, image, 0).astype(np.uint8))


def forget(samples: Samples) -> None:
    """Empties the last layer of a sample that has it."""
    members = with_layers(samples, 3)
    empty = with_layers(samples, 2)
    members["mask2.png"], members["fg2.png"] = empty["mask2.png"], empty["fg2.png"]
    members["bg2.jpg"] = members["bg3.jpg"] = members["bg.jpg"]


def tell(**changes: Any) -> Callable[[Samples], None]:
    def edit(samples: Samples) -> None:
        members = with_layers(samples, 3, 4)
        members["json"] = json.dumps(facts(members) | changes).encode()

    return edit


def drop(suffix: str) -> Callable[[Samples], Any]:
    return lambda samples: samples[1][1].pop(suffix)


TARS: list[tuple[str, Callable[[Samples], Any], str]] = [
    ("F is not what was left at one pixel where m > 0.1", touch_foreground, "foreground 2 is not the background"),
    ("B is not what was left in one block outside the hole", touch_background, "background 2 is not the background"),
    ("another picture in the hole", repaint_hole, "away from the image"),
    ("a mask that grew", grow_mask, "foreground 2 is not the background"),
    ("an object nobody found", invent, "there is an object 2, but the sample has 2 layers"),
    ("an object that is gone", forget, "mask 2 is not the one that was measured"),
    ("a member removed", drop("fg2.png"), "it has the members"),
    ("a background removed", drop("bg3.jpg"), "it has the members"),
    ("a member cut off", lambda s: s[1][1].update({"mask2.png": s[1][1]["mask2.png"][:40]}), "does not decode"),
    ("another composite error", tell(composite_error=99.0), "of 255 away from the image, not 99.00"),
    ("a score edited in the JSON", tell(mask_score_2=0.99), "JSON and the ledger differ in mask_score_2"),
    ("another number of layers", tell(layers=2), "JSON and the ledger differ in layers"),
    ("a fact of another type", tell(layers="3"), "other keys or types"),
]


@pytest.mark.parametrize(("change", "words"), [d[1:] for d in TARS], ids=[d[0] for d in TARS])
def test_tars(out: Path, change: Callable[[Samples], Any], words: str) -> None:
    change_tar(out, change)
    assert words in about(findings(out))["shards/00001.tar"]


def edit(number: int, /, **changes: Any) -> Callable[[list[dict[str, Any]]], Any]:
    """Change the first kept line with so many layers."""
    return lambda lines: next(x for x in lines if not x["reason"] and x["layers"] == number).update(changes)


def refused(lines: list[dict[str, Any]]) -> None:
    line = next(line for line in lines if line["peel_end"] == "mask_rejected" and line["layers"] == 2)
    line.update(mask_score_2=0.9)


LEDGERS: list[tuple[str, Callable[[list[dict[str, Any]]], Any], str]] = [
    ("a kept row without layers", edit(2, layers=-1), "kept without layers"),
    ("more layers than there can be", edit(4, layers=5), "5 layers, of at most 4"),
    ("an end that is none", edit(2, peel_end="tired"), "ended for no known cause: 'tired'"),
    ("a kept row that never ended", edit(2, peel_end=""), "ended for no known cause"),
    ("enough too early", edit(3, peel_end="enough"), "'enough' with 3 of 4 layers"),
    ("not enough at the end", edit(4, peel_end="mask_empty"), "'mask_empty' with 4 of 4 layers"),
    ("an object that was never looked for", edit(2, mask_score_3=0.9), "object 3, which was never looked for"),
    ("an object that was never measured", edit(3, mask_area_2=-1.0), "object 2 was taken but never measured"),
    ("an object under the threshold", edit(3, mask_score_2=0.2), "object 2 was taken with a mask score of 0.200"),
    ("a refusal over the threshold", refused, "ended the peeling as mask_rejected with a score of 0.900"),
    ("another size of an object", edit(3, mask_area_2=0.25), ""),
]


@pytest.mark.parametrize(("change", "words"), [d[1:] for d in LEDGERS], ids=[d[0] for d in LEDGERS])
def test_ledgers(out: Path, change: Callable[[list[dict[str, Any]]], Any], words: str) -> None:
    change_ledger(out, change, layers=4)
    found = about(findings(out))
    assert found, "not found"
    if words:
        assert words in found["ledger/00001.parquet"]


def test_a_ledger_without_its_columns_is_found(out: Path) -> None:
    lines = read_ledger(f"{out}/ledger/00001.parquet").to_pylist()
    assert {line["layers"] for line in lines} == {-1, 2, 3, 4}
    change_ledger(out, lambda lines: None, layers=2)
    assert "its columns are not those" in about(findings(out))["ledger/00001.parquet"]
