"""Stopping at the first refusal keeps the same samples and does less."""

from functools import partial

import pytest

from benchmarks.driving import light_parts
from benchmarks.early_rejection import measure

pytestmark = pytest.mark.slow


def test_later_stages_see_fewer_images_and_the_same_samples_are_kept(photographs):
    settings = ["image.size=64", "ingest.rows_per_shard=12"]
    found = measure(24, photographs, settings, partial(light_parts, threshold=0.5))  # raises where they differ
    early, everything = found["early"]["images"], found["all"]["images"]
    assert 0 < found["early"]["kept"] == found["all"]["kept"] < 24
    assert everything["inpaint"] == everything["segment"] == early["segment"] == 24
    assert found["early"]["kept"] <= early["inpaint"] < 24
