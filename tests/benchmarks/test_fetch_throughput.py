"""Both sides get the same links, and what they wrote is compared before any number counts."""

import argparse
import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import clients, fetch_throughput
from benchmarks.process_tree import Memory, Spent

LINKS = 20


def jpeg(level: int, side: int = 512) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def whole() -> dict[str, bytes]:
    return {f"link {i}": jpeg(10 * i % 200) for i in range(LINKS) if i % 10 not in fetch_throughput.DEAD}


def test_pictures_of_both_sides_are_compared(whole):
    assert fetch_throughput.compare(whole, whole, LINKS) > 90
    assert fetch_throughput.compare(whole, {name: jpeg(90) for name in whole}, LINKS) < 20


def test_a_side_that_lacks_a_picture_ends_the_comparison(whole):
    less = {name: data for name, data in whole.items() if name != "link 5"}
    with pytest.raises(SystemExit, match="img2dataset has 13 pictures of 14"):
        fetch_throughput.compare(whole, less, LINKS)


def test_a_picture_of_another_size_ends_the_comparison(whole):
    with pytest.raises(SystemExit, match="not 512"):
        fetch_throughput.compare(whole, whole | {"link 3": jpeg(0, 256)}, LINKS)


def test_speed_is_that_of_the_links_between_the_two_runs():
    pair = (Spent(10.0, 6.0, Memory()), Spent(16.0, 9.0, Memory(3_000_000, 1_000_000, 2)))
    found = fetch_throughput.Measured([pair], (100, 400), {})
    assert found.per_link("wall") == pytest.approx(0.02)
    assert found.per_link("cpu") == pytest.approx(0.01)
    assert found.peak == 4.0


@pytest.mark.slow
def test_this_projects_side_brings_every_link_that_lives(tmp_path):
    args = argparse.Namespace(images=LINKS, concurrency=16)
    bodies = fetch_throughput.jpegs(600)
    with clients.refusing() as args.refused, fetch_throughput.serving(bodies, 0.0, True) as port:
        spent = fetch_throughput.run("l2i", port, LINKS, tmp_path / "run", args)
    made = fetch_throughput.read(tmp_path / "run" / "out")
    assert fetch_throughput.compare(made, made, LINKS) > 90
    assert spent.cpu > 0 < spent.peak.total
