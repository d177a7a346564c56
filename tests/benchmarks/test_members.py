"""Formats are compared on the same pixels, and what is stored today keeps what shards promise."""

import json

import pytest
from toy_training import toy_shards

from benchmarks import members


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    out, report = toy_shards(folder), folder / "found.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["members", "--out", out, "--quick", "--json", str(report)])
        members.main()
    return json.loads(report.read_text())


def line(found, member, name):
    return next(one for one in found["members"] if (one["member"], one["format"]) == (member, name))


def test_every_format_is_measured_on_the_same_triplets(found):
    assert found["triplets"] == 3
    assert len(found["members"]) == sum(map(len, members.FORMATS.values()))
    assert all(one["psnr"] > 20 and one["encode_ms"] >= 0 for one in found["members"])


def test_what_loses_nothing_says_so(found):
    assert line(found, "mask", "PNG")["exact"] == line(found, "mask", "WebP lossless")["exact"] == 0
    for name in ("PNG", "WebP lossless", "derived"):
        assert line(found, "foreground", name)["exact"] == 0
    same = [line(found, "foreground", name)["psnr"] for name in ("PNG", "WebP lossless", "derived")]
    assert same[0] == same[1] == same[2]


def test_a_derived_foreground_takes_no_bytes(found):
    assert line(found, "foreground", "derived")["bytes"] == 0
    saved = found["wholes"]["as stored"]["bytes"] - found["wholes"]["F derived"]["bytes"]
    assert saved == pytest.approx(line(found, "foreground", "PNG")["bytes"])


def test_a_whole_is_the_sum_of_its_members(found):
    parts = [line(found, member, forms[0].name)["bytes"] for member, forms in members.FORMATS.items()]
    assert found["wholes"]["as stored"]["bytes"] == pytest.approx(sum(parts) + 5 * members.BLOCK)
