"""Copying samples into a published shard, members byte for byte, and writing the sidecar that says it is finished.

The sidecar is written after its tar. In its schema it carries what the tar was made from and its digests, so that a
publication that was cut off knows by the sidecars alone which shards are done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.ledger import METADATA_KEY, SCHEMA
from l2i_builder.output.manifest import canonical, read_manifest
from l2i_builder.output.shards import read_members, write_tar
from l2i_builder.publish.layout import SIDECAR_COLUMNS, Part, Selector, Shard

FORMAT = 1  # of published shards and sidecars; another one makes all of them anew
NOT_PIXELS = ("txt", "json")
# Columns of a sidecar that ledgers lack: where the sample is, its size, and the digest of all its pictures.
_ADDED = {"split": pa.string(), "tar": pa.string(), "position": pa.int64(), "size": pa.int64(), "pixels": pa.string()}
SIDECAR = pa.schema(
    [SCHEMA.field("key"), *(pa.field(name, kind, nullable=False) for name, kind in _ADDED.items())]
    + [SCHEMA.field(name) for name in SIDECAR_COLUMNS if name not in ("key", "shard", "index")]
    + [pa.field(name, pa.int64(), nullable=False) for name in ("source_shard", "source_index")]
)


@dataclass(frozen=True)
class Done:
    """A finished published shard. files: name -> {"bytes", "sha256"}, of the tar also "md5"; members: suffixes of the
    pictures in it; copied: made just now."""

    shard: Shard
    files: dict[str, dict[str, Any]]
    members: tuple[str, ...]
    copied: bool


class HashedWriter:
    """A binary file whose SHA-256, MD5 and length are known when everything is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.length = file, 0
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.md5.update(data)
        self.length += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.length


class HashedReader:
    """A binary file read from front to end, whose SHA-256 is known there."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.sha256.update(data)
        return data


class Copier:
    """Makes published shards under ``to``. Threads may share it."""

    def __init__(self, selector: Selector, to: str) -> None:
        self.selector, self.out, self.to = selector, selector.run.out, to

    def __call__(self, shard: Shard) -> Done:
        """Make a shard, unless it is there, made from the same. Raises OutputError where its source is damaged."""
        lines = [(part, self._rows(part)) for part in shard.parts]
        recipe = self._recipe(shard, lines)
        done = self._finished(shard, recipe)
        if done is not None:
            return done
        facts: list[tuple[int, str]] = []
        suffixes: set[str] = set()
        with storage.create(storage.join(self.to, shard.tar)) as file:
            hashed = HashedWriter(file)
            write_tar(self._samples(lines, facts, suffixes), hashed)  # type: ignore[arg-type]
        tar = {"bytes": hashed.length, "sha256": hashed.sha256.hexdigest(), "md5": hashed.md5.hexdigest()}
        note = {"recipe": recipe, "tar": tar, "members": sorted(suffixes)}
        data = self._sidecar(shard, [rows for _, rows in lines], facts, note)
        storage.write_bytes(storage.join(self.to, shard.sidecar), data)
        return Done(shard, {shard.tar: tar, shard.sidecar: _entry(data)}, tuple(sorted(suffixes)), True)

    def _rows(self, part: Part) -> pa.Table:
        manifest = read_manifest(self.out, part.source)
        name = f"ledger/{manifest.name}.parquet"
        data = storage.read_bytes(storage.join(self.out, name))
        if hashlib.sha256(data).hexdigest() != manifest.files[name]["sha256"]:
            raise _damaged(self.out, f"{name} is not what its manifest says")
        return self.selector.rows(part, manifest)

    def _recipe(self, shard: Shard, lines: Sequence[tuple[Part, pa.Table]]) -> str:
        """Return the digest of everything that decides a shard's bytes."""
        sources = []
        for part, rows in lines:
            manifest = read_manifest(self.out, part.source)
            files = [f"{part.folder}/{manifest.name}.tar", f"ledger/{manifest.name}.parquet"]
            keys = hashlib.sha256("".join(rows["key"].to_pylist()).encode()).hexdigest()
            sources.append([*(manifest.files[name]["sha256"] for name in files), keys])
        return hashlib.sha256(canonical([FORMAT, shard.name, sources, SIDECAR.names])).hexdigest()

    def _finished(self, shard: Shard, recipe: str) -> Done | None:
        url = storage.join(self.to, shard.sidecar)
        if not storage.exists(url):
            return None
        data = storage.read_bytes(url)
        note = read_note(data)
        tar = note.get("tar", {})
        if note.get("recipe") != recipe or tar.get("bytes") != _size(storage.join(self.to, shard.tar)):
            return None
        return Done(shard, {shard.tar: tar, shard.sidecar: _entry(data)}, tuple(note["members"]), False)

    def _samples(
        self, lines: Sequence[tuple[Part, pa.Table]], facts: list[tuple[int, str]], suffixes: set[str]
    ) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        """Yield the samples of the parts; append size and digest of the pictures of each to ``facts``, and their
        suffixes to ``suffixes``."""
        for part, rows in lines:
            wanted = iter(rows["key"].to_pylist())
            key = next(wanted, None)
            for found, members in self._members(part):
                if found != key:
                    continue
                suffixes.update(members.keys() - set(NOT_PIXELS))
                facts.append((sum(map(len, members.values())), pixels_digest(members)))
                yield found, members
                key = next(wanted, None)
            if key is not None:
                raise _damaged(self.out, f"the tar of shard {part.source} lacks {key} in its place")

    def _members(self, part: Part) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield all samples of a tar of the run, and raise OutputError at its end unless its digest is right."""
        manifest = read_manifest(self.out, part.source)
        name = f"{part.folder}/{manifest.name}.tar"
        with storage.open_read(storage.join(self.out, name)) as file:
            hashed = HashedReader(file)
            yield from read_members(storage.join(self.out, name), hashed)  # type: ignore[arg-type]
            if hashed.sha256.hexdigest() != manifest.files[name]["sha256"]:
                raise _damaged(self.out, f"{name} is not what its manifest says")

    def _sidecar(
        self, shard: Shard, tables: Sequence[pa.Table], facts: Sequence[tuple[int, str]], note: Mapping[str, Any]
    ) -> bytes:
        table = pa.concat_tables(tables)
        own = {
            "split": [shard.split] * len(table),
            "tar": [shard.tar] * len(table),
            "position": list(range(len(table))),
            "size": [size for size, _ in facts],
            "pixels": [digest for _, digest in facts],
        }
        columns = {name: table[name] for name in table.column_names if name not in ("shard", "index", "split")}
        columns |= {name: pa.array(values, _ADDED[name]) for name, values in own.items()}
        columns |= {"source_shard": table["shard"], "source_index": table["index"]}
        schema = SIDECAR.with_metadata({METADATA_KEY: canonical(dict(note))})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table([columns[name] for name in schema.names], schema=schema), sink, compression="zstd")
        return sink.getvalue().to_pybytes()


def read_note(data: bytes) -> dict[str, Any]:
    """Return what a sidecar says of its tar: "recipe", "tar" ("bytes", "sha256", "md5"), "members"; {} of none."""
    try:
        note = json.loads((pq.read_schema(pa.BufferReader(data)).metadata or {}).get(METADATA_KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and isinstance(note.get("tar"), dict) else {}


def pixels_digest(members: Mapping[str, bytes]) -> str:
    """Return a SHA-256 over all members of a sample that are pictures: suffix, length and content of each."""
    digest = hashlib.sha256()
    for suffix, data in members.items():
        if suffix not in NOT_PIXELS:
            digest.update(f"{suffix} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()


def _entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _size(url: str) -> int:
    folder, _, name = url.rpartition("/")
    return storage.list_sizes(folder).get(name, -1)


def _damaged(out: str, what: str) -> OutputError:
    return OutputError(f"{what}. Nothing damaged is published: run `l2i verify {out}`, which says what to do.")
