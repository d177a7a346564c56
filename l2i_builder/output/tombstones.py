"""What is left of a sample that was taken down: a blank ledger line, and hashed identifiers that keep it out.

``takedowns.jsonl`` in the output folder has a line {"digest", "kind"} for every identifier (key, URL, SHA-256 of
the file) of every sample taken down, sorted. Digests are one-way: the log can be published with the dataset. Its last
line, of kind "whole", is the SHA-256 of all others: a line that rots would let a sample back in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, L2IError, OutputError
from l2i_builder.output.ledger import plain
from l2i_builder.sample import Reason, Row

FILE = "takedowns.jsonl"
STAGE = "takedown"
KINDS = ("key", "sha256", "url")
_WHOLE = "whole"  # sorts behind the others
_SHAPES = {
    "key": re.compile(r"[0-9a-f]{32}"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "url": re.compile(r"\S|\S[^\r\n]*\S"),
}
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class Identifier:
    """What a sample is known by: kind "key", "url" or "sha256" (of the fetched file), and its value."""

    kind: str
    value: str

    @classmethod
    def of(cls, kind: str, value: str) -> Identifier:
        """Raises ConfigError for a value that is no identifier of that kind. Credentials in a URL are redacted."""
        from l2i_builder.fetch.guard import redact

        value = value.strip() if kind == "url" else value.strip().lower()
        if not _SHAPES[kind].fullmatch(value):
            raise ConfigError(
                f"{value[:100]!r} is no {kind}: a key has 32 hex digits, a SHA-256 has 64, a URL is on one line."
            )
        return cls(kind, redact(value) if kind == "url" else value)

    @property
    def digest(self) -> str:
        return _digest(self.kind, self.value)


class Takedowns:
    """The identifiers of what was taken down, hashed. entries: (kind, digest)."""

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        self.entries = set(entries)
        self.kinds = {kind for kind, _ in self.entries}

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, identifiers: Iterable[Identifier]) -> None:
        self.entries |= {(identifier.kind, identifier.digest) for identifier in identifiers}
        self.kinds = {kind for kind, _ in self.entries}

    def holds(self, kind: str, value: str) -> bool:
        """Whether an identifier is listed; unknown ones ("") never are. Blanks around a URL mean nothing."""
        if not value or kind not in self.kinds:
            return False
        spellings = {value, value.strip()} if kind == "url" else {value}
        return any((kind, _digest(kind, spelling)) in self.entries for spelling in spellings)

    def names(self, row: Row) -> bool:
        """Whether any identifier of a row is listed."""
        from l2i_builder.fetch.guard import redact

        if not self.entries:
            return False
        return self.holds("key", row.key) or self.holds("url", redact(row.url)) or self.holds("sha256", row.sha256)

    def named(self, ledger: pa.Table) -> list[bool]:
        """Return for each line of a ledger (columns key, url, sha256) whether it is listed."""
        columns = zip(*(ledger[kind].to_pylist() for kind in KINDS), strict=True)
        return [any(self.holds(kind, value) for kind, value in zip(KINDS, line, strict=True)) for line in columns]

    def to_jsonl(self) -> bytes:
        lines = "".join(_line(kind, digest) for kind, digest in sorted(self.entries))
        return (lines + _line(_WHOLE, hashlib.sha256(lines.encode()).hexdigest())).encode()

    @classmethod
    def from_jsonl(cls, data: bytes, name: str = FILE) -> Takedowns:
        """Raises OutputError where the log is damaged: what it keeps out must never come back for that. One without
        its last line, as earlier versions wrote it, is taken as it is."""
        entries = []
        try:
            lines = data.decode().splitlines(keepends=True)
            for number, line in enumerate(lines, start=1):
                record = json.loads(line)
                kind, digest = record["kind"], record["digest"]
                if kind == _WHOLE and number == len(lines):
                    if digest != hashlib.sha256("".join(lines[:-1]).encode()).hexdigest():
                        raise ValueError("its lines are not those that were written")
                elif kind not in KINDS or not _DIGEST.fullmatch(digest):
                    raise ValueError(f"no identifier: {line[:100]}")
                else:
                    entries.append((kind, digest))
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise OutputError(
                f"{name} is damaged: {problem}. Restore it: it keeps what was taken down out."
            ) from problem
        return cls(entries)


def read_takedowns(out: str) -> Takedowns:
    """Return what was taken down from an output folder. Raises OutputError where the log is damaged."""
    url = storage.join(out, FILE)
    return Takedowns.from_jsonl(storage.read_bytes(url), url) if storage.exists(url) else Takedowns()


def all_takedowns(config: Config) -> Takedowns:
    """Return what was taken down from the output folder, and from the runs that ``safety.takedown_logs`` names."""
    result = read_takedowns(config.out) if config.out else Takedowns()
    for url in config.safety.takedown_logs:
        try:
            log = Takedowns.from_jsonl(storage.read_bytes(url, ConfigError), url)
        except L2IError as error:
            raise ConfigError(str(error)) from error
        result = Takedowns(result.entries | log.entries)
    return result


def write_takedowns(out: str, takedowns: Takedowns) -> None:
    storage.write_bytes(storage.join(out, FILE), takedowns.to_jsonl())


def tombstone(row: Row) -> Row:
    """Return what the ledger keeps of a row: its place and its key, which is a one-way hash and tells those who
    have an older copy what to delete. URL, caption, digests, scores and sizes are gone."""
    result = Row(row.key, "", "", row.shard, row.index)
    result.refuse(Reason.TAKEN_DOWN, STAGE)
    return result


def is_tombstone(row: Row) -> bool:
    """Whether nothing but place and key is left of a row."""
    return plain(row) == plain(tombstone(row))


def bury(rows: Sequence[Row], takedowns: Takedowns) -> list[Row]:
    """Return the rows of a shard with tombstones for those that were taken down, and for all of the same key."""
    gone = {row.key for row in rows if row.reason == Reason.TAKEN_DOWN or takedowns.names(row)}
    return [tombstone(row) if row.key in gone else row for row in rows]


def _line(kind: str, digest: str) -> str:
    return json.dumps({"digest": digest, "kind": kind}) + "\n"


def _digest(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}:{value}".encode("utf-8", "surrogatepass")).hexdigest()
