"""What the peers decode for the comparison is what the shards hold."""

import json

import numpy as np
import pytest
from PIL import Image
from toy_training import toy_shards

from benchmarks import loader
from l2i_builder.output.shards import decode_triplet, read_members
from model.shard_set import find_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return toy_shards(tmp_path_factory.mktemp("loader"))


def test_both_peers_stack_the_same_pixels(shards):
    url = find_shards(shards)[0].url
    key, members = next(iter(read_members(url)))
    triplet = decode_triplet(key, members, url)
    arrays = dict(zip(loader.DECODED, (triplet.image, triplet.background, triplet.mask[..., None]), strict=True))
    pictures = {name: Image.fromarray(array.squeeze()) for name, array in arrays.items()}
    stacked = loader._stacked(arrays)
    assert stacked.shape == (*triplet.mask.shape, 7)
    assert np.array_equal(loader._collated([pictures, pictures]), np.stack([stacked, stacked]))


@pytest.mark.slow
def test_all_three_are_timed_on_the_same_shards(shards, tmp_path):
    report = tmp_path / "found.json"
    loader.main(shards, size=16, workers=0, buffer=4, quick=True, json_file=report)
    found = json.loads(report.read_text())
    assert found["samples_per_second"].keys() == {"loader", "webdataset", "datasets"}
    assert all(speed > 0 for speeds in found["samples_per_second"].values() for speed in speeds)
    assert found["ratios"].keys() == {"webdataset", "datasets"}
