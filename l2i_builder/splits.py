"""Splits: train, LL2I-E ("test") and LA ("la"), drawn by a hash of the key, with no picture in two of them.

``la`` is drawn from the audit slice whatever the verdicts, ``test`` from what was kept, the rest that was kept is
``train``. A sample whose picture another split already has is ``withheld``, with the reason. Once given, a key's
split never changes: the table of before is read first, and only new keys are drawn.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.manifest import pretty
from l2i_builder.sample import key_fraction

FILE, SUMMARY = "splits.parquet", "splits.json"
NAMES = ("train", "test", "la", "withheld")
TRAIN, TEST, LA, WITHHELD = range(4)
GONE = "a sample that is gone"
NONE = 255  # code of a key without split
LARGEST = 0.1  # share of the kept samples that a count of test samples may take
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("key", "split", "why")])

Told = Callable[[str, int, int], None]  # what is done, how many, of how many


class Splits(BaseModel):
    """How large the splits are, and what counts as the same picture.

    A size under 1 is a share, and grows with the dataset; from 1 on it is a count: filled with the lowest draws,
    then closed. A count of test samples takes at most a tenth of what was kept, so that toy runs keep samples to train.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    test: Annotated[float, Field(ge=0)] = 20_000  # of the kept samples (paper: 20 K of 57 M)
    la: Annotated[float, Field(ge=0)] = 20_000  # of the audit slice (paper: 20 K)
    seed: int = 0
    radius: Annotated[int, Field(ge=0, le=47)] = 31  # bits of 256 in which hashes of one picture may differ


@dataclass(frozen=True)
class SplitTable:
    """key -> split. keys: bytes [n], sorted; codes: uint8 [n], places in ``NAMES``; why: of the withheld, else ""."""

    keys: np.ndarray
    codes: np.ndarray
    why: dict[bytes, str]

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, keys: Iterable[str]) -> list[str]:
        """Return the split of each key, "" of those in none: never kept, or not there when splits were drawn."""
        return [NAMES[code] if code != NONE else "" for code in self.find(as_bytes(keys))]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the code of each key, uint8 [m], ``NONE`` of those in no split. keys: bytes [m]."""
        if not len(self.keys):
            return np.full(len(keys), NONE, np.uint8)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.codes[place], NONE).astype(np.uint8)

    def counts(self) -> dict[str, int]:
        """Return split -> samples, of all four."""
        found = np.bincount(self.codes, minlength=len(NAMES))
        return {name: int(count) for name, count in zip(NAMES, found, strict=True)}

    @property
    def digest(self) -> str:
        """SHA-256 of keys and splits, in the order of the keys."""
        found = hashlib.sha256()
        for key, code in zip(self.keys.tolist(), self.codes.tolist(), strict=True):
            found.update(b"%s %s\n" % (key, NAMES[code].encode()))
        return found.hexdigest()

    def to_parquet(self) -> bytes:
        """Columns key, split, why; the same table gives the same bytes."""
        columns = {
            "key": pa.array(self.keys.astype(str), pa.string()),
            "split": pa.array(np.array(NAMES)[self.codes], pa.string()),
            "why": pa.array([self.why.get(key, "") for key in self.keys.tolist()], pa.string()),
        }
        sink = io.BytesIO()
        pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, name: str = FILE) -> SplitTable:
        """Raises OutputError where it is no table of splits."""
        try:
            table = pq.read_table(pa.BufferReader(data), columns=SCHEMA.names)
            keys = as_bytes(table["key"].to_pylist())
            codes = np.array([NAMES.index(split) for split in table["split"].to_pylist()], np.uint8)
            reasons = table["why"].to_pylist()
        except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
            raise OutputError(
                f"{name} is no table of splits: {problem}. Restore it; other splits would leak."
            ) from problem
        order = np.argsort(keys, kind="stable")
        if len(keys) != len(np.unique(keys)):
            raise OutputError(f"{name} holds a key twice. Restore it from a copy.")
        return cls(keys[order], codes[order], {keys[i]: why for i, why in enumerate(reasons) if why})


def as_bytes(keys: Iterable[str]) -> np.ndarray:
    """Return keys as an array of bytes, which sorts and compares fast."""
    return np.array([key.encode() for key in keys] or [], dtype=np.bytes_)


def read_splits(out: str) -> SplitTable | None:
    """Return the splits of an output folder, None where none were drawn. Raises OutputError where damaged."""
    url = storage.join(out, FILE)
    return SplitTable.from_parquet(storage.read_bytes(url), url) if storage.exists(url) else None


@dataclass(frozen=True)
class Candidates:
    """The samples whose image is stored. keys: bytes [n], sorted, each once.

    kept: bool [n]; audit: bool [n], of the audit slice. content: uint64 [n, 2], 64 bits each of the digests of the
    fetched file and of the stored image, 0 = unknown. pdq: uint8 [n, 32]; flat: bool [n], too little to see for it.
    """

    keys: np.ndarray
    kept: np.ndarray
    audit: np.ndarray
    content: np.ndarray
    pdq: np.ndarray
    flat: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> Candidates:
        """Return some of them; rows: bool [n] or places."""
        return Candidates(*(getattr(self, field.name)[rows] for field in fields(self)))


def assign(
    samples: Candidates, splits: Splits, before: SplitTable | None = None, told: Told = lambda what, done, total: None
) -> SplitTable:
    """Return the split of every sample that has one. before: the table of an earlier time, whose keys stay.

    In order of precedence: what was assigned before, LA, test, train. A later sample is withheld where its file,
    image or perceptual hash (also mirrored) is that of an earlier one in another split. Samples that were not kept
    are in LA or in no split.
    """
    from l2i_builder.neardup import Twins

    codes = before.find(samples.keys) if before else np.full(len(samples), NONE, np.uint8)
    gone = ((codes == TRAIN) | (codes == TEST)) & ~samples.kept  # refused since: never drawn into LA either
    samples, codes = samples.take(~gone), codes[~gone]
    why = dict(before.why) if before else {}
    la, test = _draw(samples, splits, codes)
    twins = Twins(samples, splits.radius)

    def withhold(row: int, other: int, how: str) -> None:
        codes[row] = WITHHELD
        why[samples.keys[row]] = f"{how} {samples.keys[other].decode()} in {NAMES[codes[other]]}"

    drawn = np.concatenate([la, test])
    wanted = np.full(len(samples), NONE, np.uint8)
    wanted[la], wanted[test] = LA, TEST
    settled = np.flatnonzero((codes != NONE) & (codes != WITHHELD))
    taken: dict[int, tuple[int, str]] = {}  # drawn row -> an earlier sample of another split
    for row, other, how in twins.pairs(settled, drawn, lambda a, b: told("old against new", a, b)):
        if codes[row] != wanted[other]:
            taken.setdefault(other, (row, how))
    rivals: dict[int, list[tuple[int, str]]] = {}
    for row, other, how in twins.pairs(drawn, drawn):
        if wanted[row] != wanted[other]:
            rivals.setdefault(row, []).append((other, how))
    for row in drawn.tolist():
        if row in taken:
            withhold(row, *taken[row])
            continue
        codes[row] = wanted[row]
        for other, how in rivals.get(row, ()):
            if codes[other] in (TEST, LA) and codes[other] != wanted[row]:
                withhold(row, other, how)
                break
    rest = np.flatnonzero(samples.kept & (codes == NONE))
    codes[rest] = TRAIN
    evaluation = np.flatnonzero((codes == TEST) | (codes == LA))
    for row, other, how in twins.pairs(rest, evaluation, lambda a, b: told("train against test", a, b)):
        if codes[row] == TRAIN:
            withhold(row, other, how)
    has = codes != NONE
    keys = samples.keys[has]
    known = set(keys.tolist())
    return SplitTable(keys, codes[has], {key: _current(why[key], known) for key in why if key in known})


def _current(why: str, known: set[bytes]) -> str:
    """Return a reason without the key of a sample that is gone."""
    name = why.split(" ")[-3]  # "… <key> in <split>"
    return why if name.encode() in known or GONE in why else why.replace(name, GONE)


def _draw(samples: Candidates, splits: Splits, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows newly drawn for LA and for test, int64, each in the order of the draw."""
    fresh = codes == NONE
    la = _lowest(samples, fresh & samples.audit, splits.la, int((codes == LA).sum()), f"split la {splits.seed}")
    fresh[la] = False
    most = int(LARGEST * samples.kept.sum()) if splits.test >= 1 else len(samples)
    filled = int((codes == TEST).sum())
    test = _lowest(samples, fresh & samples.kept, splits.test, filled, f"split test {splits.seed}", most)
    return la, test


def _lowest(
    samples: Candidates, pool: np.ndarray, size: float, filled: int, salt: str, most: int | None = None
) -> np.ndarray:
    """Return the rows of the pool with the lowest draws: under the share, or as many as the count still wants."""
    rows = np.flatnonzero(pool)
    draws = np.array([key_fraction(key.decode(), salt) for key in samples.keys[rows].tolist()])
    order = np.argsort(draws, kind="stable")
    if size < 1:
        return rows[order[: int((draws < size).sum())]]
    wanted = int(size) if most is None else min(int(size), most)
    return rows[order[: max(0, wanted - filled)]]


def draw_splits(
    out: str,
    splits: Splits,
    previous: str = "",
    told: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 0,
) -> dict[str, Any]:
    """Draw the splits of an output folder's finished shards; write ``splits.parquet`` and ``splits.json``.

    previous: table of another version whose keys keep their split; "" = the folder's own, where it has one. told:
    called with shards hashed and in all. Returns what ``splits.json`` says, "file", and "new": split -> keys.

    The same folder gives the same bytes. Raises ConfigError where the folder's splits were drawn with another seed or
    radius, OutputError where it holds nothing or is damaged.
    """
    from l2i_builder.output.hashes import hash_images

    before = _before(out, splits, previous)
    samples, audited = hash_images(out, told, workers)
    if not len(samples):
        raise OutputError(f"{out} holds no samples of finished shards. Give the output folder of `l2i build`.")
    table = assign(samples, splits, before)
    known = before.find(table.keys) != NONE if before else np.zeros(len(table), bool)
    counts = table.counts()
    summary = {
        "settings": splits.model_dump(),
        "counts": counts,
        "digest": table.digest,
        "withheld": _withheld(table),
        "la": _population(samples, table, audited),
        "notes": _notes(splits, samples, counts),
    }
    storage.write_bytes(storage.join(out, FILE), table.to_parquet())
    storage.write_bytes(storage.join(out, SUMMARY), pretty(summary))
    new = {name: int((table.codes[~known] == code).sum()) for code, name in enumerate(NAMES)}
    return summary | {"file": storage.join(out, FILE), "new": new}


def _before(out: str, splits: Splits, previous: str) -> SplitTable | None:
    """Return the table whose keys keep their split. Raises ConfigError where it was drawn in another way."""
    own = read_splits(out)
    if own is not None and previous:
        raise ConfigError(
            f"{out} has splits of its own, whose keys stay; leave out --previous, or delete {FILE} first."
        )
    if previous:
        return SplitTable.from_parquet(storage.read_bytes(previous, ConfigError), previous)
    url = storage.join(out, SUMMARY)
    if own is not None and storage.exists(url):
        try:
            drawn = Splits.model_validate(json.loads(storage.read_bytes(url))["settings"])
        except (ValueError, KeyError, TypeError) as problem:
            raise OutputError(
                f"{url} is damaged: {problem}. Restore it: it says how the splits were drawn."
            ) from problem
        for name in ("seed", "radius"):
            if getattr(drawn, name) != getattr(splits, name):
                raise ConfigError(
                    f"the splits of {out} were drawn with {name} {getattr(drawn, name)}. Keep it, so that keys stay "
                    f"where they are; or delete {FILE} and {SUMMARY}, which draws every key anew."
                )
    return own


def _withheld(table: SplitTable) -> dict[str, int]:
    """Return how many were withheld for what: the same file, the same image, or likeness."""
    kinds = {"same file": 0, "same image": 0, "near duplicate": 0, "mirrored": 0}
    for why in table.why.values():
        kind = next((name for name in kinds if why.startswith(name)), "near duplicate")
        kinds[kind] += 1
    return kinds


def _population(samples: Candidates, table: SplitTable, audited: dict[str, Any]) -> dict[str, Any]:
    """Return what LA was drawn from, so that a reader can judge what it stands for."""
    kept = samples.kept[np.isin(samples.keys, table.keys[table.codes == LA])]
    return {"audit_slice": audited, "kept": int(kept.sum()), "not_kept": int((~kept).sum())}


def _notes(splits: Splits, samples: Candidates, counts: dict[str, int]) -> list[str]:
    """Return what a reader should know of sizes that were not reached."""
    notes = []
    if splits.test >= 1 and counts["test"] < int(splits.test):
        capped = int(LARGEST * samples.kept.sum()) < splits.test
        reason = "a tenth of the kept samples, which is the most" if capped else "all that no other split has"
        notes.append(
            f"test: {counts['test']:,} of {int(splits.test):,} wanted: {reason}. It is filled up as the dataset grows."
        )
    if splits.la >= 1 and counts["la"] < int(splits.la):
        notes.append(
            f"la: {counts['la']:,} of {int(splits.la):,} wanted: the audit slice has images of "
            f"{int(samples.audit.sum()):,} samples (ingest.audit_rate). It is filled up as the dataset grows."
        )
    return notes
