"""Metadata that join an existing run: which of their rows are new, and in which further shards.

A growth leaves everything there is as it is. The rows whose keys no ledger has, each key once, go into shards with the
next numbers. Which rows these are is kept beside the plan in ``growth/00001.parquet``: one truth value for each
row of the metadata, in their order. It follows from the metadata and the keys before it alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import canonical, shard_name

FOLDER = "growth"
COLUMN = "new"
GROUP = 2**20  # rows of a row group


@dataclass(frozen=True)
class Growth:
    """Metadata that joined a run.

    input: digest of their own plan; columns, files: as in ``InputPlan``; total: rows of the metadata; rows: new ones;
    known: whose keys the run had; repeated: further rows of a new key; cuts: of each shard its first row of the
    metadata, the one behind its last, and how many new rows are between; choice: sha256 of the truth values.
    """

    input: str
    columns: dict[str, str]
    files: list[dict[str, Any]]
    total: int
    rows: int
    known: int
    repeated: int
    cuts: list[list[int]]
    choice: str

    @property
    def digest(self) -> str:
        """SHA-256 of everything but where the files are."""
        content = asdict(self) | {"files": [[file["name"], file["rows"], file["size"]] for file in self.files]}
        return hashlib.sha256(canonical(content)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"digest": self.digest}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Growth:
        """Raises KeyError, TypeError or ValueError where it is damaged."""
        growth = cls(**{item.name: raw[item.name] for item in fields(cls)})
        if raw["digest"] != growth.digest:
            raise ValueError("the digest of a growth does not match")
        return growth


def choice_name(number: int) -> str:
    """Return where the truth values of a growth are kept in the output folder; the first one has number 1."""
    return f"{FOLDER}/{shard_name(number)}.parquet"


def key_numbers(keys: Sequence[str]) -> np.ndarray:
    """Return the first half of each key (32 hex digits), uint64 [n]: eight bytes a row are held of a run.

    Of 10^9 rows against 10^9 others, two different keys agree in it with a chance of 5 %: one row is then left out.
    """
    halves = np.array([key[:16] for key in keys] or [""], dtype="S16")[: len(keys)]
    return np.frombuffer(bytes.fromhex(halves.tobytes().decode()), dtype=">u8").astype(np.uint64)


def choose(known: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return which rows are new, bool [n], how many are known, and how many repeat an earlier new key.

    known: uint64 [k], sorted; keys: uint64 [n], of the rows of the metadata in their order.
    """
    place = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
    fresh = known[place] != keys if len(known) else np.ones(len(keys), bool)
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return fresh & first, int((~fresh).sum()), int((fresh & ~first).sum())


def cut(new: np.ndarray, ends: Sequence[int], per_shard: int) -> list[list[int]]:
    """Return the cuts of a growth: shards of ``per_shard`` new rows; of 0: one for each file that has new rows.

    new: bool [n]; ends: row behind the last one of each file.
    """
    places = np.flatnonzero(new)
    if per_shard:
        groups = [places[start : start + per_shard] for start in range(0, len(places), per_shard)]
    else:
        groups = np.split(places, np.searchsorted(places, np.asarray(ends[:-1], np.int64)))
    return [[int(group[0]), int(group[-1]) + 1, len(group)] for group in groups if len(group)]


def choice_bytes(new: np.ndarray) -> bytes:
    """Return truth values (bool [n]) as parquet; the same ones give the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({COLUMN: pa.array(new)}), sink, compression="zstd", row_group_size=GROUP)
    return sink.getvalue().to_pybytes()


def read_choice(out: str, name: str, start: int, stop: int) -> np.ndarray:
    """Return truth values of some rows of the metadata, bool [stop - start]. Raises OutputError where damaged."""
    parts = [_group(out, name, group) for group in range(start // GROUP, (stop - 1) // GROUP + 1)]
    offset = start // GROUP * GROUP
    return np.concatenate(parts)[start - offset : stop - offset]


@lru_cache(maxsize=8)
def _group(out: str, name: str, group: int) -> np.ndarray:
    url = storage.join(out, name)
    with storage.open_read(url, cache="none") as file:
        try:
            return pq.ParquetFile(file).read_row_group(group, use_threads=False)[COLUMN].to_numpy()
        except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
            raise OutputError(
                f"{url} is damaged: {' '.join(str(problem).split())[:200]}. Restore it, or run `l2i build --append` "
                "with the same metadata once more."
            ) from problem


def find_choice_damage(out: str, growths: Sequence[Growth]) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong) of the truth values of growths."""
    for number, growth in enumerate(growths, 1):
        name = choice_name(number)
        if not storage.exists(storage.join(out, name)):
            yield name, "it is missing"
        elif hashlib.sha256(storage.read_bytes(storage.join(out, name))).hexdigest() != growth.choice:
            yield name, "it is not what input.json says"
