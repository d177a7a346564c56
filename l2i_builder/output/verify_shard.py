"""Checks of one finished shard against its manifest, its ledger and the input plan."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

import numpy as np
from PIL import Image

from l2i_builder import layers, storage
from l2i_builder.errors import L2IError, OutputError
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.ledger import SCHEMA, read_ledger
from l2i_builder.output.manifest import FOLDER, RunManifest, ShardManifest, read_manifest
from l2i_builder.output.shards import MEMBERS, REBUILD, decode_triplet, info_types, read_members
from l2i_builder.sample import Reason, Triplet

_SECRET = frozenset({Reason.UNSAFE.value, Reason.OPTED_OUT.value})
_MOST = 5  # findings of one kind listed for a shard


@dataclass(frozen=True)
class Finding:
    """Something wrong. file: path inside the output folder; what: what is wrong; advice: what to do.

    serious: the data are incomplete or damaged; otherwise something to know, such as a foreign file.
    """

    file: str
    what: str
    advice: str
    serious: bool = True

    @classmethod
    def of(cls, file: str, error: L2IError) -> Finding:
        """Make a finding of an error, whose last sentence is the advice."""
        what, _, advice = str(error).rpartition(". ")
        return cls(file, what or str(error), advice if what else "Run the build again.")


@dataclass
class ShardCheck:
    """What came of a shard. rows: lines of the ledger; keys: uint64 [kept], the first half of each kept key."""

    findings: list[Finding] = field(default_factory=list)
    rows: int = 0
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))


def check_shard(out: str, shard: InputShard, run: RunManifest, deep: bool) -> ShardCheck:
    """Check one finished shard. Damage is a finding, never an exception."""
    return _Checker(out, shard, run, deep).check()


class _Checker:
    def __init__(self, out: str, shard: InputShard, run: RunManifest, deep: bool) -> None:
        self.out, self.shard, self.run, self.deep = out, shard, run, deep
        self.result = ShardCheck()
        self.rows: dict[str, dict[str, Any]] = {}  # key -> ledger line, the kept one where a key is repeated
        self.types = info_types()

    def found(self, file: str, what: str, advice: str = REBUILD) -> None:
        self.result.findings.append(Finding(file, what, advice))

    def check(self) -> ShardCheck:
        name = self.shard.name
        manifest = self._guarded(f"{FOLDER}/{name}.json", lambda _: read_manifest(self.out, self.shard.number))
        if manifest is None:
            return self.result
        self._guarded(f"{FOLDER}/{name}.json", lambda file: self._check_manifest(manifest, file))
        kept = self._guarded(f"ledger/{name}.parquet", lambda file: self._check_ledger(manifest, file))
        for folder in ("shards", "audit", "previews"):
            self._guarded(f"{folder}/{name}.tar", partial(self._check_tar, manifest, kept))
        self._guarded(f"stats/{name}.json", self._check_stats)
        return self.result

    def _guarded(self, file: str, step: Callable[[str], Any]) -> Any:
        """Run a step; what it raises becomes a finding about ``file``, and None is returned."""
        try:
            return step(file)
        except L2IError as error:
            self.result.findings.append(Finding.of(file, error))
        except Exception as problem:  # on damaged content readers raise nearly anything
            self.found(file, f"it cannot be checked ({type(problem).__name__}: {' '.join(str(problem).split())[:200]})")
        return None

    def _check_manifest(self, manifest: ShardManifest, file: str) -> None:
        total = manifest.kept + sum(manifest.reasons.values())
        if manifest.shard != self.shard.number:
            self.found(file, f"it is the manifest of shard {manifest.shard}")
        if manifest.run_digest != self.run.digest:
            self.found(file, "the shard was made by another run than run.json describes")
        if manifest.rows != self.shard.rows or total != self.shard.rows:
            self.found(file, f"it accounts for {total} rows and names {manifest.rows}, the input has {self.shard.rows}")
        known = {f"{folder}/{self.shard.name}.tar" for folder in ("shards", "audit", "previews")}
        for name in sorted(set(manifest.files) - known - {f"ledger/{self.shard.name}.parquet"}):
            self.found(file, f"it lists a file {name[:200]!r} that is none of a shard's")

    def _check_ledger(self, manifest: ShardManifest, file: str) -> list[str] | None:
        """Check the ledger, fill ``rows`` and return the kept keys in order; None where it cannot be used."""
        with storage.open_read(storage.join(self.out, file)) as raw:
            digesting = _Digesting(raw)
            digesting.drain()
        self._check_digest(manifest, file, digesting)
        table = read_ledger(storage.join(self.out, file))
        if not table.schema.equals(SCHEMA):
            self.found(file, "its columns are not those of this version of the project")
            return None
        lines = table.to_pylist()
        self.result.rows = len(lines)
        if [(line["shard"], line["index"]) for line in lines] != [
            (self.shard.number, i) for i in range(self.shard.rows)
        ]:
            self.found(file, f"its {len(lines)} lines are not the {self.shard.rows} input rows in order")
        self._check_reasons(manifest, file, lines)
        kept = [line["key"] for line in lines if not line["reason"]]
        for line in lines:
            if not line["reason"]:
                self.rows[line["key"]] = line
            self.rows.setdefault(line["key"], line)
        self.result.keys = np.array([int(key[:16], 16) for key in kept], np.uint64)
        return kept

    def _check_reasons(self, manifest: ShardManifest, file: str, lines: list[dict[str, Any]]) -> None:
        reasons = Counter(line["reason"] for line in lines)
        unknown = sorted(set(reasons) - {reason.value for reason in Reason} - {""})
        if unknown:
            self.found(file, f"it has reasons that do not exist: {', '.join(unknown)[:200]}")
        elif any(line["verdict"] != (Reason(line["reason"]).verdict if line["reason"] else "kept") for line in lines):
            self.found(file, "verdicts and reasons contradict each other")
        kept = reasons.pop("", 0)
        if dict(reasons) != manifest.reasons or kept != manifest.kept:
            self.found(file, "its counts of reasons are not those of the manifest")

    def _check_tar(self, manifest: ShardManifest, kept: list[str] | None, file: str) -> None:
        """kept: keys in the ledger's order; None where the ledger cannot be used."""
        folder = file.partition("/")[0]
        if file not in manifest.files:
            if folder == "shards" and manifest.kept:
                self.found(file, f"the manifest keeps {manifest.kept} samples but lists no tar")
            if storage.exists(storage.join(self.out, file)):
                self.found(file, "the manifest does not list this tar")
            return
        keys: list[str] = []
        wrong: list[str] = []
        with storage.open_read(storage.join(self.out, file)) as raw:
            digesting = _Digesting(raw)
            try:
                for key, members in read_members(file, digesting):  # type: ignore[arg-type]
                    keys.append(key)
                    if kept is not None and (what := self._wrong_sample(folder, key, members, file)):
                        wrong.append(f"{key}: {what}")
            except OutputError as error:
                self.result.findings.append(Finding.of(file, error))
            digesting.drain()
        self._check_digest(manifest, file, digesting)
        for what in wrong[:_MOST]:
            self.found(file, what)
        if len(wrong) > _MOST:
            self.found(file, f"and {len(wrong) - _MOST} more samples are wrong")
        if folder == "shards" and kept is not None and keys != kept:
            odd = sorted(set(keys) ^ set(kept))
            what = f"samples in only one of them: {', '.join(odd[:_MOST])}" if odd else "another order"
            self.found(file, f"tar and ledger disagree: {what}")

    def _wrong_sample(self, folder: str, key: str, members: dict[str, bytes], file: str) -> str:
        """Return what is wrong with a sample, "" if nothing."""
        if tuple(members) != (("webp",) if folder == "previews" else MEMBERS):
            return f"it has the members {', '.join(members)[:200]}"
        row = self.rows.get(key)
        if row is None:
            return "the ledger has no such row"
        if row["reason"] in _SECRET:
            return f"its pixels must not be here: it was refused as {row['reason']}"
        if folder == "audit" and (row["reason"] == "" or not row["audit"]):
            return "it is no refused row of the audit slice"
        if not self.deep:
            return ""
        if folder == "previews":
            return _wrong_preview(members["webp"])
        try:
            triplet = decode_triplet(key, members, file)
        except OutputError as error:
            return str(error)
        return self._wrong_facts(triplet, row) or self._wrong_layers(triplet)

    def _wrong_facts(self, triplet: Triplet, row: dict[str, Any]) -> str:
        types = {name: type(value) for name, value in triplet.info.items()}
        if types != self.types:
            odd = sorted(name for name in types.keys() | self.types.keys() if types.get(name) != self.types.get(name))
            return f"its JSON has other keys or types than every sample has: {', '.join(odd)[:200]}"
        odd = sorted(
            name for name in types.keys() & row.keys() - {"width", "height"} if triplet.info[name] != row[name]
        )
        if odd:
            return f"its JSON and the ledger differ in {', '.join(odd)}"
        size = self.run.config.get("image", {}).get("size")
        if triplet.mask.shape != (size, size) or (triplet.info["width"], triplet.info["height"]) != (size, size):
            return f"it is {triplet.mask.shape[1]}x{triplet.mask.shape[0]}, not {size}x{size}"
        return "" if triplet.caption == row["caption"] else "its caption is not the ledger's"

    def _wrong_layers(self, triplet: Triplet) -> str:
        rule = self.run.config.get("layers", {})
        threshold, fill = rule.get("foreground_threshold", 0.1), tuple(rule.get("foreground_fill", (0, 0, 0)))
        expected = layers.foreground(triplet.image, triplet.mask, threshold, fill)
        if not np.array_equal(expected, triplet.foreground):
            return "its foreground is not the image where the mask selects, and the fill elsewhere"
        outside = ~layers.hole(triplet.mask, threshold, rule.get("dilate", 0))
        if not np.array_equal(triplet.image[outside], triplet.background[outside]):
            return "its background is not the image outside the hole"
        return ""

    def _check_stats(self, file: str) -> None:
        stats = json.loads(storage.read_bytes(storage.join(self.out, file)))
        if stats["count"] != self.shard.rows:
            self.found(file, f"it counts {stats['count']} rows, the input has {self.shard.rows}")

    def _check_digest(self, manifest: ShardManifest, file: str, read: _Digesting) -> None:
        entry = manifest.files.get(file)
        if entry is None:
            self.found(f"{FOLDER}/{self.shard.name}.json", f"it does not list {file}")
        elif entry["bytes"] != read.size:
            self.found(file, f"it has {read.size} bytes, the manifest says {entry['bytes']}")
        elif entry["sha256"] != read.sha256.hexdigest():
            self.found(file, "its content is not what was written: the digest differs")


class _Digesting(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.size += len(data)
        self.sha256.update(data)
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(storage.BLOCK):
            pass


def _wrong_preview(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            image.load()
    except Exception as problem:  # decoders raise nearly anything on damaged files
        return f"its preview does not decode: {problem}"
    return ""
