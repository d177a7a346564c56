"""Both sides start from the same photographs, and their ratios mean what they say."""

import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy import disc, toy_image

from benchmarks.naive.__main__ import table
from benchmarks.naive.quality import Quality, _psnr
from benchmarks.naive.sides import Made, Side, published
from classifiers.scenes import Scene


def made(key: str, shift: int = 0) -> Made:
    image, mask = toy_image(key), disc(key).astype(np.uint8) * 255
    return Made(image, np.roll(mask, shift, axis=1), image)


def test_both_lists_of_links_lead_to_the_same_photographs(photographs, tmp_path):
    files = sorted(photographs.iterdir())
    with published(tmp_path / "web", files) as links:
        ours, direct = (pq.read_table(path).to_pydict() for path in (links.metadata, links.direct))
        assert ours["TEXT"] == direct["TEXT"] == [path.name for path in files]
        assert [url.rpartition("/")[2] for url in ours["URL"]] == ours["TEXT"]
        assert set(links.connect_to) == {url.split("/")[2] for url in ours["URL"]}
        for url, file in zip(direct["URL"], files, strict=True):
            with urllib.request.urlopen(url) as answer:
                assert answer.read() == file.read_bytes()


def test_ratios_are_of_kept_triplets():
    ours = Side(wall=10.0, cpu=20.0, peak=5_000_000, made={"a": made("a"), "b": made("b")})
    theirs = Side(wall=40.0, cpu=30.0, peak=7_000_000, made={"a": made("a")})
    mine, other = table(ours, {"by hand": theirs})
    assert (mine["throughput_ratio"], mine["cost_ratio"]) == (1.0, 1.0)
    assert other["kept_per_hour"] == pytest.approx(90)
    assert other["throughput_ratio"] == pytest.approx((2 / 10) / (1 / 40))
    assert other["cost_ratio"] == pytest.approx(30 / 10)


def test_masks_of_what_both_kept_are_compared():
    quality = Quality()
    ours = Side(made={"a": made("a"), "b": made("b")})
    quality.compare_kept(ours, Side(made={"b": made("b", shift=4), "c": made("c")}))
    assert quality.both_kept == 1
    assert 0.5 < quality.mask_iou < 1
    quality.compare_kept(ours, ours)
    assert (quality.both_kept, quality.mask_iou) == (2, 1.0)


def test_a_background_nearer_to_the_truth_has_the_higher_psnr():
    one = made("a")
    truth = np.where(one.mask[..., None] > 0, np.uint8(60), one.image)
    scene = Scene("s", ("s",), False, True, one.image, one.mask, background=truth)
    near, far = (Made(one.image, one.mask, truth + np.uint8(step)) for step in (1, 10))
    assert _psnr(scene, near, far, near) == pytest.approx(48.13, abs=0.01)
    assert _psnr(scene, near, far, far) == pytest.approx(28.13, abs=0.01)
