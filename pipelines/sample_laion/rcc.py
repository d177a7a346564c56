"""Reading Qt binary resource files (``.rcc``): a tree of names over a block of file contents.

Layout (Qt's ``rcc`` tool, formats 1 to 3, big-endian): header ``qres``, version, offsets of tree, data and names;
from format 3 on also flags. A tree node takes 14 bytes (format 1) or 22.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import pyarrow as pa

from l2i_builder.errors import MetadataError

_COMPRESSED, _DIRECTORY, _COMPRESSED_ZSTD = 1, 2, 4
_MAX_NODES = 100_000
_MAX_FILE = 64 * 2**20  # bytes of one unpacked file


class _Reader:
    """Bounds-checked access to the bytes of one resource file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        magic, version, self.tree, self.contents, self.names = self.unpack(">4sIIII", 0)
        if magic != b"qres" or not 1 <= version <= 3:
            raise MetadataError("not a Qt resource file of format 1 to 3; download the package again")
        self.node_size = 14 if version == 1 else 22

    def unpack(self, layout: str, offset: int) -> tuple:
        if offset + struct.calcsize(layout) > len(self.data):
            raise MetadataError(f"Qt resource file ends before offset {offset}; download the package again")
        return struct.unpack_from(layout, self.data, offset)

    def take(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.data):
            raise MetadataError(f"Qt resource file ends before offset {offset + size}; download the package again")
        return self.data[offset : offset + size]

    def name(self, offset: int) -> str:
        (length,) = self.unpack(">H", self.names + offset)
        return self.take(self.names + offset + 6, 2 * length).decode("utf-16-be", "replace")  # 6: length and hash

    def content(self, offset: int, flags: int) -> bytes:
        (size,) = self.unpack(">I", self.contents + offset)
        data = self.take(self.contents + offset + 4, size)
        if flags & _COMPRESSED:
            return _inflate(data[4:])  # 4: unpacked size
        if flags & _COMPRESSED_ZSTD:
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                return _bounded(stream.read(_MAX_FILE + 1))
        return data


def _inflate(data: bytes) -> bytes:
    try:
        return _bounded(zlib.decompressobj().decompress(data, _MAX_FILE + 1))
    except zlib.error as error:
        raise MetadataError(f"Qt resource file is damaged ({error}); download the package again") from error


def _bounded(data: bytes) -> bytes:
    if len(data) > _MAX_FILE:
        raise MetadataError(f"Qt resource file holds an entry of more than {_MAX_FILE} bytes; it was not read")
    return data


def read_rcc(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path without leading slash, content) of every file in a resource file.

    Raises MetadataError when the bytes are not a resource file, end early, loop, or hold an oversized entry.
    """
    reader = _Reader(data)
    pending, seen = [(0, "")], 0
    while pending:
        node, path = pending.pop()
        offset = reader.tree + node * reader.node_size
        _, flags = reader.unpack(">IH", offset)
        if flags & _DIRECTORY:
            count, first = reader.unpack(">II", offset + 6)
            seen += count
            if seen > _MAX_NODES:
                raise MetadataError(f"Qt resource file has more than {_MAX_NODES} entries; it was not read")
            for child in range(first, first + count):
                (name,) = reader.unpack(">I", reader.tree + child * reader.node_size)
                pending.append((child, f"{path}/{reader.name(name)}"))
        else:
            (content,) = reader.unpack(">I", offset + 10)
            yield path[1:], reader.content(content, flags)
