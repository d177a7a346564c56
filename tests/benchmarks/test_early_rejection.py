"""Stopping at the first refusal keeps the same samples and does less."""

import pytest

pytestmark = pytest.mark.slow


def test_later_stages_see_fewer_images_and_the_same_samples_are_kept(benchmark):
    options = ["--images", "24", "--light", "0.5", "--set", "ingest.rows_per_shard=12"]
    found, _ = benchmark("early_rejection", *options)  # fails where they differ
    early, everything = found["early"]["images"], found["all"]["images"]
    assert 0 < found["early"]["kept"] == found["all"]["kept"] < 24
    assert everything["inpaint"] == everything["segment"] == early["segment"] == 24
    assert found["early"]["kept"] <= early["inpaint"] < 24
