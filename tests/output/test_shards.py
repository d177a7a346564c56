"""Shards: layers that stay exact as stored, tars whose bytes are reproducible, and readers that take them."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from samples import fill_of, members_of, noise, photos, row_of, scene, soft_mask

from l2i_builder import layers
from l2i_builder.config import Config
from l2i_builder.errors import OutputError
from l2i_builder.output.shards import (
    MEMBERS,
    decode_triplet,
    encode_members,
    index_tar,
    info_types,
    open_triplets,
    read_members,
    write_tar,
)
from l2i_builder.sample import Reason, Triplet


def with_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def with_opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def stored(image: np.ndarray, mask: np.ndarray, config: Config) -> dict[str, bytes]:
    return encode_members(row_of(), image, mask, fill_of(image, mask, config), config)


PICTURES = {
    **{f"noise-{seed}": (noise(seed), soft_mask(seed)) for seed in range(4)},
    **{f"scene-{seed}": (scene(seed, 128), soft_mask(seed, 128)) for seed in range(4)},
    "sparse mask": (noise(9), np.where(noise(10)[..., 0] > 250, 255, 0).astype(np.uint8)),
    "empty mask": (noise(11), np.zeros((64, 64), np.uint8)),
    "full mask": (noise(12), np.full((64, 64), 255, np.uint8)),
    "mask at the threshold": (noise(13), noise(14)[..., 0] % 4 + 24),
    "wide": (noise(15)[:32], soft_mask(15)[:32]),
}


# the layers


@pytest.mark.parametrize("quality", [100, 95, 60, 5])
@pytest.mark.parametrize("name", PICTURES)
def test_layers_are_exact_as_read_back(name: str, quality: int) -> None:
    image, mask = PICTURES[name]
    config = Config(shards={"jpeg_quality": quality})
    check_layers(stored(image, mask, config), mask, config)


@pytest.mark.parametrize(("threshold", "dilate"), [(0.1, 9), (0.5, 0), (0.0, 40)])
def test_layers_are_exact_at_any_threshold_and_radius(threshold: float, dilate: int) -> None:
    config = Config(layers={"foreground_threshold": threshold, "dilate": dilate, "foreground_fill": (9, 200, 77)})
    check_layers(stored(noise(1, 128), soft_mask(1, 128), config), soft_mask(1, 128), config)


def test_layers_of_photos_are_exact_as_read_back() -> None:
    config = Config()
    for image, mask in photos(12, 512):
        check_layers(stored(image, mask, config), mask, config)


def check_layers(members: dict[str, bytes], mask: np.ndarray, config: Config) -> None:
    rule = config.layers
    assert np.array_equal(with_pillow(members["mask.png"]), mask)
    assert Image.open(io.BytesIO(members["mask.png"])).mode == "L"
    image, foreground = with_pillow(members["jpg"]), with_pillow(members["fg.png"])
    selected = mask > rule.foreground_threshold * 255
    assert np.array_equal(foreground[selected], image[selected])
    assert (foreground[~selected] == rule.foreground_fill).all()
    hole = layers.hole(mask, rule.foreground_threshold, rule.dilate)
    for decode in (with_pillow, with_opencv):
        assert np.array_equal(decode(members["bg.jpg"])[~hole], decode(members["jpg"])[~hole])


def test_the_hole_holds_the_background_that_was_given() -> None:
    image, mask, config = scene(3, 128), soft_mask(3, 128), Config()
    background = fill_of(image, mask, config)
    hole = layers.hole(mask, 0.1, 9)
    read = with_pillow(stored(image, mask, config)["bg.jpg"])
    assert np.abs(read[hole].astype(int) - background[hole]).mean() < 8
    assert np.abs(read[hole].astype(int) - image[hole]).mean() > 20


def test_a_background_that_strays_outside_the_hole_is_put_right() -> None:
    image, mask, config = scene(3, 128), soft_mask(3, 128), Config()
    members = encode_members(row_of(), image, mask, noise(1, 128), config)
    check_layers(members, mask, config)


def test_jpegs_keep_full_colour_resolution_and_are_rgb() -> None:
    red_blue = np.zeros((64, 64, 3), np.uint8)
    red_blue[:, ::2, 0], red_blue[:, 1::2, 2] = 255, 255
    members = stored(red_blue, soft_mask(1), Config())
    assert np.abs(with_pillow(members["jpg"]).astype(int) - red_blue).max() < 30
    for suffix in ("jpg", "bg.jpg"):
        picture = Image.open(io.BytesIO(members[suffix]))
        assert (picture.mode, [layer[1:3] for layer in picture.layer]) == ("RGB", [(1, 1)] * 3)


def test_quality_is_the_configured_one() -> None:
    sizes = [len(stored(scene(1), soft_mask(1), Config(shards={"jpeg_quality": q}))["jpg"]) for q in (50, 95)]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(
    ("image", "mask", "background"),
    [
        (noise(1), soft_mask(1, 32), noise(1)),
        (noise(1), soft_mask(1), noise(1, 32)),
        (noise(1).astype(np.float32), soft_mask(1), noise(1).astype(np.float32)),
        (noise(1), soft_mask(1).astype(np.float32) / 255, noise(1)),
        (noise(1)[..., 0], soft_mask(1), noise(1)[..., 0]),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(image: Any, mask: Any, background: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8|fit"):
        encode_members(row_of(), image, mask, background, Config())


# the facts


def test_members_are_in_the_order_of_the_format() -> None:
    assert tuple(members_of(row_of(), Config())) == MEMBERS == ("jpg", "fg.png", "bg.jpg", "mask.png", "txt", "json")


def test_every_sample_s_json_has_the_same_keys_and_types_and_no_nulls() -> None:
    bare = row_of(0)
    full = row_of(1, width=640, height=480, aesthetic=6, similarity=1, mask_score=1, inpainting_score=0, audit=True)
    full.opt_out, full.sha256, full.mask_components, full.mask_head = "x-robots-tag: noai", "0" * 64, 3, "mask-v1"
    odd = row_of(2, aesthetic=math.nan, similarity=math.inf, mask_area=np.float32(0.5), mask_components=np.int64(2))
    refused = row_of(3, audit=True)
    refused.refuse(Reason.MASK_REJECTED, "judge_mask")
    infos = [json.loads(members_of(row, Config())["json"]) for row in (bare, full, odd, refused)]
    for info in infos:
        assert {name: type(value) for name, value in info.items()} == info_types()
    assert infos[0]["aesthetic"] == infos[2]["aesthetic"] == -1.0
    assert infos[1]["aesthetic"] == 6.0
    assert (infos[3]["verdict"], infos[3]["reason"]) == ("rejected", "mask_rejected")


def test_the_json_says_how_the_layers_were_cut() -> None:
    config = Config(layers={"foreground_threshold": 0.2, "dilate": 5}, segment={"backend": "u2netp"})
    info = json.loads(members_of(row_of(), config)["json"])
    assert (info["foreground_threshold"], info["dilate"], info["segmenter"]) == (0.2, 5, "u2netp")
    assert (info["width"], info["height"]) == (512, 512)


def test_credentials_in_a_url_never_reach_a_shard() -> None:
    row = row_of()
    row.url = "https://user:secret@a.test/x.jpg"
    members = members_of(row, Config())
    assert b"secret" not in b"".join(members.values())
    assert json.loads(members["json"])["url"].endswith("a.test/x.jpg")


@pytest.mark.parametrize("caption", ["", "a\0b", "<script>alert(1)</script>", "=cmd()", "‮rtl", "\ud800", "🙂", "a\nb"])
def test_any_caption_is_stored_as_text_that_everyone_can_read(caption: str) -> None:
    row = row_of()
    row.caption = caption
    members = members_of(row, Config())
    assert members["txt"].decode() == caption.encode("utf-8", "replace").decode()
    assert json.loads(members["json"])["caption"] == members["txt"].decode()


# the tar


def samples(count: int) -> list[tuple[str, dict[str, bytes]]]:
    return [(row_of(i).key, {"jpg": bytes([i]) * (300 * i + 1), "json": b"{}"}) for i in range(count)]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert write_tar(iter(samples(9)), str(tmp_path / f"{name}.tar")) == 9
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        entries = tar.getmembers()
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode) for entry in entries} == {
        (0, 0, 0, "", "", 0o644)
    }


def test_members_are_adjacent_and_in_the_given_order(tmp_path: Path) -> None:
    write_tar(samples(9), str(tmp_path / "a.tar"))
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    assert names == [f"{key}.{suffix}" for key, members in samples(9) for suffix in members]


def test_a_tar_reads_back_as_written(tmp_path: Path) -> None:
    write_tar(samples(9), str(tmp_path / "a.tar"))
    assert list(read_members(str(tmp_path / "a.tar"))) == samples(9)


@pytest.mark.parametrize("key", ["", "a.b", "../../x", "a/b", "a b", "ключ", "a\n", "x" * 101])
def test_a_key_that_loaders_could_not_split_is_not_written(key: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        write_tar([(key, {"jpg": b""})], io.BytesIO())


def test_a_key_given_twice_is_not_written() -> None:
    with pytest.raises(ValueError, match="twice"):
        write_tar([("a", {"jpg": b""}), ("b", {"jpg": b""}), ("a", {"jpg": b""})], io.BytesIO())


def tar_of(path: Path, *entries: tarfile.TarInfo | str) -> str:
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            info.size = 3 if info.isreg() else 0
            tar.addfile(info, io.BytesIO(b"abc") if info.isreg() else None)
    return str(path)


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a/b.jpg", "x", ".jpg", "a.jpg/b", "a b.jpg", "a.\t"])
def test_names_that_are_no_samples_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="no sample"):
        list(read_members(tar_of(tmp_path / "a.tar", name)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("a.jpg")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with pytest.raises(OutputError, match="no file of a sample"):
        list(read_members(tar_of(tmp_path / "a.tar", entry)))


SPARSE = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(2**28), "GNU.sparse.map": "0,3"}


@pytest.mark.parametrize("headers", [SPARSE, {"size": "-5"}], ids=["3 bytes that read as 2^28", "a negative size"])
@pytest.mark.parametrize(
    "read", [lambda file: list(read_members("a.tar", file)), lambda file: index_tar("a.tar", file)]
)
def test_members_whose_content_is_not_as_it_lies_are_refused(
    tmp_path: Path, headers: dict[str, str], read: Any
) -> None:
    entry = tarfile.TarInfo("a.jpg")
    entry.pax_headers = headers
    content = Path(tar_of(tmp_path / "a.tar", entry)).read_bytes()
    with pytest.raises(OutputError, match="no file of a sample"):
        read(io.BytesIO(content))


def test_samples_whose_members_are_apart_or_repeated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not adjacent"):
        list(read_members(tar_of(tmp_path / "a.tar", "a.jpg", "b.jpg", "a.txt")))
    with pytest.raises(OutputError, match="twice"):
        list(read_members(tar_of(tmp_path / "b.tar", "a.jpg", "a.jpg")))


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_a_tar_is_byte_for_byte_what_the_standard_library_writes(count: int) -> None:
    sizes = {"jpg": 700, "txt": 0, "json": 512}
    samples = [(f"key{i}", {name: bytes([i]) * (size + i * 97) for name, size in sizes.items()}) for i in range(count)]
    ours, reference = io.BytesIO(), io.BytesIO()
    assert write_tar(samples, ours) == count
    with tarfile.open(fileobj=reference, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    assert ours.getvalue() == reference.getvalue()


def test_a_tar_cut_off_anywhere_is_an_error_after_the_samples_that_are_whole(tmp_path: Path) -> None:
    write_tar(samples(4), str(tmp_path / "whole.tar"))
    whole = (tmp_path / "whole.tar").read_bytes()
    end = len(whole.rstrip(b"\0")) + 512
    between_members = list(range(512, end, 512))
    for size in [*range(0, end, 100), *between_members]:
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        read: list[tuple[str, dict[str, bytes]]] = []
        with pytest.raises(OutputError, match=r"cut\.tar"):
            read.extend(read_members(str(tmp_path / "cut.tar")))
        assert read == samples(4)[: len(read)]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"no tar at all" * 100, b"\x1f\x8b" + b"x" * 1000])
def test_what_is_no_tar_is_an_output_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(OutputError, match=r"a\.tar"):
        list(read_members(str(tmp_path / "a.tar")))


# the project's own reader


def test_triplets_come_back_as_stored(tmp_path: Path) -> None:
    config = Config(image={"size": 64})
    rows = [row_of(i) for i in range(3)]
    write_tar([(row.key, members_of(row, config, i)) for i, row in enumerate(rows)], str(tmp_path / "a.tar"))
    triplets = list(open_triplets([str(tmp_path / "a.tar")]))
    assert [triplet.key for triplet in triplets] == [row.key for row in rows]
    for index, triplet in enumerate(triplets):
        assert np.array_equal(triplet.mask, soft_mask(index))
        assert np.abs(triplet.image.astype(int) - scene(index)).mean() < 4
        assert triplet.caption == triplet.info["caption"] == f"caption 0/{index}"
        assert_layers(triplet)


def assert_layers(triplet: Triplet) -> None:
    expected = layers.foreground(triplet.image, triplet.mask, 0.1, (0, 0, 0))
    assert np.array_equal(triplet.foreground, expected)
    outside = ~layers.hole(triplet.mask, 0.1, 9)
    assert np.array_equal(triplet.background[outside], triplet.image[outside])


@pytest.mark.parametrize("suffix", MEMBERS)
def test_a_sample_that_lacks_a_member_is_named(suffix: str) -> None:
    members = members_of(row_of(), Config(image={"size": 64}))
    del members[suffix]
    with pytest.raises(OutputError, match=rf"lacks {suffix}"):
        decode_triplet("k", members, "a.tar")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"[1]", b"\xff" * 50])
@pytest.mark.parametrize("suffix", [suffix for suffix in MEMBERS if suffix != "txt"])
def test_a_member_that_does_not_decode_is_named(suffix: str, content: bytes) -> None:
    members = members_of(row_of(), Config(image={"size": 64})) | {suffix: content}
    with pytest.raises(OutputError, match=rf"k\.{suffix} does not decode"):
        decode_triplet("k", members, "a.tar")


def test_layers_of_different_sizes_are_refused() -> None:
    members = members_of(row_of(), Config(image={"size": 64}))
    members["bg.jpg"] = members_of(row_of(), Config(image={"size": 128}))["bg.jpg"]
    with pytest.raises(OutputError, match="differ in size"):
        decode_triplet("k", members, "a.tar")
