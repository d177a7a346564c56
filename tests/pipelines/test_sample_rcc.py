"""Qt resource files: every way of storing is read, and no damaged file gets further than an error."""

from __future__ import annotations

import struct
import zlib

import pyarrow as pa
import pytest

from l2i_builder.errors import MetadataError
from pipelines.sample_laion.rcc import read_rcc


def rcc(files: dict[str, tuple[int, bytes]], version: int = 3) -> bytes:
    """A resource file with all files in its root: name -> (flags, stored content)."""
    node = ">IHHHIQ" if version > 1 else ">IHHHI"
    names, contents, nodes = b"\0\0" + b"\0" * 4, b"", []
    for name, (flags, data) in files.items():
        fields = [len(names), flags, 0, 0, len(contents)] + ([0] if version > 1 else [])
        nodes.append(struct.pack(node, *fields))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        contents += struct.pack(">I", len(data)) + data
    root = struct.pack(">IHII", 0, 2, len(files), 1).ljust(struct.calcsize(node), b"\0")
    tree = root + b"".join(nodes)
    start = 24
    header = struct.pack(">4sIIIII", b"qres", version, start, start + len(tree), start + len(tree) + len(contents), 0)
    return header + tree + contents + names


@pytest.mark.parametrize("version", [1, 2, 3])
def test_rcc_gives_stored_deflated_and_zstandard_files(version: int) -> None:
    text = b"fox " * 100
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as stream:
        stream.write(text)
    files = {
        "plain.txt": (0, text),
        "deflated.txt": (1, struct.pack(">I", len(text)) + zlib.compress(text)),
        "zstandard.txt": (4, zstd.getvalue().to_pybytes()),
    }

    assert dict(read_rcc(rcc(files, version))) == dict.fromkeys(files, text)


def test_rcc_cut_anywhere_is_refused_with_advice() -> None:
    whole = rcc({"a.txt": (0, b"content"), "b.txt": (1, struct.pack(">I", 3) + zlib.compress(b"abc"))})

    for length in range(len(whole)):
        with pytest.raises(MetadataError, match="download the package again"):
            list(read_rcc(whole[:length]))


def test_rcc_that_contains_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sample_laion.rcc._MAX_NODES", 1000)
    looped = bytearray(rcc({"a.txt": (0, b"")}))
    looped[24 + 22 : 24 + 44] = struct.pack(">IHII", 6, 2, 1, 1).ljust(22, b"\0")  # a.txt is a folder holding itself

    with pytest.raises(MetadataError, match="more than 1000 entries"):
        list(read_rcc(bytes(looped)))


def test_rcc_does_not_unpack_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sample_laion.rcc._MAX_FILE", 1000)
    bomb = rcc({"bomb": (1, struct.pack(">I", 10**6) + zlib.compress(bytes(10**6)))})

    with pytest.raises(MetadataError, match="more than 1000 bytes"):
        list(read_rcc(bomb))
