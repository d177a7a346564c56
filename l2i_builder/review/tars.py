"""Members of tars, read by range: a tar is walked once to learn where its members are, and never extracted."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from l2i_builder import storage
from l2i_builder.config import MAX_LAYERS
from l2i_builder.errors import L2IError, OutputError
from l2i_builder.output.shards import KEY, REBUILD, is_plain, member_names

Place = tuple[int, int]  # offset of a member's content in the tar, and its size, in bytes
Places = dict[str, dict[str, Place]]  # key -> suffix -> place

SUFFIXES = frozenset({*member_names(MAX_LAYERS), "webp"})
MAX_MEMBER = 64 * 2**20  # bytes; a larger member is nothing to look at
HEADER = 512  # bytes of a member's header, right before its content
TARS = 256  # whose places are remembered; a tar of a thousand samples takes about a megabyte


class GoneError(OutputError):
    """A tar does not hold a member any more: its sample was taken down, or its shard written anew."""


def scan(url: str) -> Places:
    """Walk a tar's headers and return where the members of each sample are; contents are skipped.

    Raises OutputError where the tar is missing, damaged or cut off, or holds anything but samples.
    """
    places: Places = {}
    with storage.open_read(url) as file:
        try:
            end = file.seek(0, os.SEEK_END)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, _, suffix = member.name.partition(".")
                    if not is_plain(member, MAX_MEMBER) or not KEY.fullmatch(key) or suffix not in SUFFIXES:
                        raise OutputError(f"{url}: member {member.name[:200]!r} is no file of a sample. {REBUILD}")
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError("it ends inside a member")
                    places.setdefault(key, {}).setdefault(suffix, (member.offset_data, member.size))
        except L2IError:
            raise
        except (tarfile.TarError, OSError, EOFError, ValueError) as problem:
            raise OutputError(f"{url} is damaged or cut off: {problem}. {REBUILD}") from problem
    return places


class Tars:
    """Reads members of tars. Places of the ``TARS`` tars used last are in memory; those of tars in object stores are
    also kept in ``folder``, by the digest of the tar. Threads may share it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._places: OrderedDict[str, tuple[str, Places]] = OrderedDict()  # url -> (digest, places)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def places(self, url: str, digest: str = "", anew: bool = False) -> Places:
        """Return where a tar's members are; ``digest``: its SHA-256 by the manifest. Raises OutputError.

        ``anew``: the tar turned out to be another than the one that was walked.
        """
        with self._lock:
            lock = self._locks.setdefault(url, threading.Lock())
        with lock:
            with self._lock:
                known = self._places.get(url)
                if known and known[0] == digest and not anew:
                    self._places.move_to_end(url)
                    return known[1]
            places = None if anew else self._stored(url, digest)
            if places is None:
                places = scan(url)
                self._store(url, "" if anew else digest, places)  # what was found is not what the digest names
            with self._lock:
                self._places[url] = (digest, places)
                self._places.move_to_end(url)
                while len(self._places) > TARS:
                    self._places.popitem(last=False)
            return places

    def read(self, url: str, key: str, suffix: str, digest: str = "") -> bytes:
        """Return a member's content: one ranged read, with the header before it, which has to name the member.

        Where it names another, the tar was written anew since: it is walked again, once. Raises GoneError where
        the member is not there any more, OutputError where the tar cannot be read.
        """
        for anew in (False, True):
            place = self.places(url, digest, anew).get(key, {}).get(suffix)
            if place is None:
                continue
            offset, size = place
            data = _range(url, offset - HEADER, offset + size)
            if _names(data[:HEADER], f"{key}.{suffix}", size) and len(data) == HEADER + size:
                return data[HEADER:]
        raise GoneError(f"{url} holds no {key}.{suffix} any more. Go on with another sample.")

    def read_sample(self, url: str, key: str, digest: str = "") -> dict[str, bytes]:
        """Return all members of a sample, suffix -> content, from one ranged read. Checks and raises as ``read``."""
        for anew in (False, True):
            places = self.places(url, digest, anew).get(key)
            if not places:
                continue
            start = min(offset for offset, _ in places.values()) - HEADER
            data = _range(url, start, max(offset + size for offset, size in places.values()))
            members = {
                suffix: data[offset - start - HEADER : offset - start + size]
                for suffix, (offset, size) in places.items()
            }
            if all(
                len(part) == HEADER + places[suffix][1] and _names(part[:HEADER], f"{key}.{suffix}", places[suffix][1])
                for suffix, part in members.items()
            ):
                return {suffix: part[HEADER:] for suffix, part in members.items()}
        raise GoneError(f"{url} does not hold {key} any more. Open the dataset again.")

    def _file(self, url: str, digest: str) -> Path | None:
        if self.folder is None or not digest.isalnum() or storage.is_local(url) or url.startswith("memory://"):
            return None
        return self.folder / f"{digest}.json"

    def _stored(self, url: str, digest: str) -> Places | None:
        file = self._file(url, digest)
        with suppress(OSError, ValueError, TypeError, AttributeError):
            if file is not None:
                raw = json.loads(file.read_bytes())
                return {
                    key: {suffix: (int(start), int(size)) for suffix, (start, size) in members.items()}
                    for key, members in raw.items()
                }
        return None

    def _store(self, url: str, digest: str, places: Places) -> None:
        file = self._file(url, digest)
        with suppress(L2IError):  # a cache that cannot be written costs time, nothing else
            if file is not None:
                storage.write_bytes(str(file), json.dumps(places, separators=(",", ":")).encode())


def _range(url: str, start: int, end: int) -> bytes:
    with storage.explained("read", url, OutputError):
        fs, path = storage.filesystem(url)
        data: bytes = fs.cat_file(path, start=start, end=end)
        return data


def _names(header: bytes, name: str, size: int) -> bool:
    """Whether a tar header is that of a file of this name and size."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return member.name == name and member.size == size
