"""The search for near hashes finds what comparing all with all finds."""

from __future__ import annotations

import numpy as np
import pytest
from samples import photos

from l2i_builder.neardup import _ODD_COLUMNS, NearIndex
from l2i_builder.safety.pdq import distance, pdq


@pytest.mark.parametrize("radius", [0, 12, 31, 40])
def test_every_pair_within_the_radius_is_found_and_no_other(radius: int) -> None:
    random = np.random.default_rng(radius)
    hashes = random.integers(0, 256, (400, 32)).astype(np.uint8)
    turned = np.zeros((600, 256), bool)
    for line in turned:  # copies in which 0 to 60 bits are turned, all over or all in one place
        spots = random.permutation(256) if random.random() < 0.5 else np.arange(256)
        line[spots[: random.integers(0, 61)]] = True
    queries = hashes[random.integers(0, 400, 600)] ^ np.packbits(turned, axis=1)
    expected = {
        (i, j, bits)
        for i, query in enumerate(queries)
        for j, bits in enumerate(np.bitwise_count(hashes ^ query).sum(1).tolist())
        if bits <= radius
    }
    found = set(zip(*(part.tolist() for part in NearIndex(hashes, radius).pairs(queries)), strict=True))
    assert found == expected
    assert len(expected) >= (100 if radius else 5)


def test_pairs_come_by_query_nearest_first() -> None:
    query = np.zeros((1, 32), np.uint8)
    hashes = np.zeros((3, 32), np.uint8)
    hashes[0, 0], hashes[2, 0] = 0b111, 0b1
    _, place, bits = NearIndex(hashes, 31).pairs(query)
    assert place.tolist() == [1, 2, 0]
    assert bits.tolist() == [0, 1, 3]


def test_the_hash_of_a_mirrored_photograph_is_nearly_the_hash_with_odd_columns_turned() -> None:
    near = 0
    for image, _ in photos(12, 256):
        plain, mirrored = pdq(image)[0], pdq(np.ascontiguousarray(image[:, ::-1]))[0]
        turned = (np.frombuffer(bytes.fromhex(plain), np.uint8) ^ _ODD_COLUMNS).tobytes().hex()
        assert distance(turned, mirrored) < 45 < distance(plain, mirrored)
        near += distance(turned, mirrored) <= 31
    assert near >= 10
