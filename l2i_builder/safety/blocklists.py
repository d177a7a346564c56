"""Blocklists: digests of files (SHA-256, MD5) and perceptual hashes (PDQ) of pictures that must never come in.

A list is a text file with a hash a line (what follows a comma or blank is ignored, as are lines that begin with #),
or a parquet file with a column of the kind's name or ``hash``; local or URL. What a run was built against is part of
its identity, by a digest over the sorted hashes: neither order nor spelling nor place of a list matters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.config import Safety
from l2i_builder.errors import ConfigError, L2IError
from l2i_builder.safety.pdq import BITS

BYTES = {"sha256": 32, "md5": 16, "pdq": BITS // 8}  # kind -> bytes of a hash


class Blocklists:
    """The lists of a configuration, in memory: 32 or 16 bytes a hash. Raises ConfigError for a list that is none."""

    def __init__(self, config: Safety) -> None:
        self.radius = config.pdq_radius
        lists = {"sha256": config.sha256_lists, "md5": config.md5_lists, "pdq": config.pdq_lists}
        self._hashes = {kind: read_hashes(urls, kind) for kind, urls in lists.items() if urls}
        # A picture is near a listed one in few bits: all are compared, 1 ms for 100,000.
        self._pdq = self._hashes["pdq"].view(np.uint64).reshape(-1, BITS // 64) if "pdq" in self._hashes else None

    @property
    def wants_pdq(self) -> bool:
        return self._pdq is not None and bool(len(self._pdq))

    def digests(self) -> dict[str, str]:
        """Return for the identity of a run: "blocklist <kind>" -> SHA-256 over its sorted hashes."""
        return {
            f"blocklist {kind}": hashlib.sha256(hashes.tobytes()).hexdigest() for kind, hashes in self._hashes.items()
        }

    def body(self, data: bytes, sha256: str) -> str:
        """Return on which list a fetched file is, "" if on none. sha256: of ``data``, hex."""
        if "sha256" in self._hashes and self._lists("sha256", bytes.fromhex(sha256)):
            return "sha256"
        if "md5" in self._hashes and self._lists("md5", hashlib.md5(data, usedforsecurity=False).digest()):
            return "md5"
        return ""

    def picture(self, pdq: str) -> str:
        """Return how near a picture is to one on the PDQ list, "" if further than the radius. pdq: hex, or ""."""
        if self._pdq is None or not len(self._pdq) or not pdq:
            return ""
        own = np.frombuffer(bytes.fromhex(pdq), np.uint64)
        nearest = int(np.bitwise_count(self._pdq ^ own).sum(axis=1).min())
        return f"pdq, {nearest} bits off" if nearest <= self.radius else ""

    def _lists(self, kind: str, digest: bytes) -> bool:
        hashes = self._hashes[kind]
        place = int(np.searchsorted(hashes, np.bytes_(digest)))
        return place < len(hashes) and hashes[place].ljust(BYTES[kind], b"\0") == digest


def read_hashes(urls: Sequence[str], kind: str) -> np.ndarray:
    """Return the hashes of some lists, sorted and without repetition: bytes [N], each as long as the kind's.

    Raises ConfigError for a file that cannot be read and for a line that is no hash of the kind.
    """
    found: set[bytes] = set()
    for url in urls:
        values = _from_parquet(url, kind) if url.endswith((".parquet", ".parq")) else _from_text(url)
        found.update(_parsed(values, kind, url))
    return np.sort(np.array(list(found), dtype=f"S{BYTES[kind]}"))


def _from_text(url: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, first word) of the lines that say something."""
    try:
        text = storage.read_bytes(url, ConfigError).decode()
    except UnicodeDecodeError as problem:
        raise ConfigError(f"the blocklist {url} is no text file: {problem}. Give one with a hash a line.") from problem
    for number, line in enumerate(text.splitlines(), start=1):
        word = re.split(r"[,\s]", line.strip(), maxsplit=1)[0]
        if word and not word.startswith("#"):
            yield number, word


def _from_parquet(url: str, kind: str) -> Iterator[tuple[int, str]]:
    with storage.open_read(url, ConfigError, cache="none") as file:
        try:
            parquet = pq.ParquetFile(file)
            name = next((name for name in (kind, "hash") if name in parquet.schema_arrow.names), None)
            if name is None:
                raise ConfigError(f"the blocklist {url} has no column {kind} or hash. Rename its column.")
            number = 0
            for batch in parquet.iter_batches(columns=[name]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield number, str(value)
        except L2IError:
            raise
        except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
            raise ConfigError(f"the blocklist {url} cannot be read as parquet: {problem}. Fetch it again.") from problem


def _parsed(values: Iterable[tuple[int, str]], kind: str, url: str) -> Iterator[bytes]:
    digits = 2 * BYTES[kind]
    for number, value in values:
        if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value):
            raise ConfigError(
                f"the blocklist {url} has no {kind} hash in line {number}: {value[:80]!r}. Mend the list."
            )
        yield bytes.fromhex(value)
