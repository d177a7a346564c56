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

from l2i_builder import storage
from l2i_builder.errors import L2IError, OutputError
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.features import FOLDER as FEATURES
from l2i_builder.output.features import TASKS, read_features
from l2i_builder.output.ledger import read_ledger, schema
from l2i_builder.output.manifest import FOLDER, RunManifest, ShardManifest, layer_count, read_manifest
from l2i_builder.output.rules import REASONS
from l2i_builder.output.shards import REBUILD, read_members
from l2i_builder.output.verify_ledger import LedgerCheck, scored, wrong_features
from l2i_builder.output.verify_samples import SampleCheck
from l2i_builder.sample import UNKNOWN, Reason

TARS = ("previews", "shards", "audit")
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


def check_shard(out: str, shard: InputShard, run: RunManifest, ledger: LedgerCheck, deep: bool) -> ShardCheck:
    """Check one finished shard. Damage is a finding, never an exception."""
    return _Checker(out, shard, run, ledger, deep).check()


class _Checker:
    def __init__(self, out: str, shard: InputShard, run: RunManifest, ledger: LedgerCheck, deep: bool) -> None:
        self.ledger = ledger
        self.out, self.shard, self.run, self.deep = out, shard, run, deep
        self.result = ShardCheck()
        self.rows: dict[str, dict[str, Any]] = {}  # key -> ledger line, the kept one where a key is repeated
        self.samples = SampleCheck(run, deep)

    def found(self, file: str, what: str, advice: str = REBUILD) -> None:
        self.result.findings.append(Finding(file, what, advice))

    def _list(self, file: str, wrong: list[str], kind: str) -> None:
        """Enter the first few of many findings, and how many more there are."""
        for what in wrong[:_MOST]:
            unfinished = "still here" in what
            self.found(file, what, "Run `l2i takedown` on the folder again." if unfinished else REBUILD)
        if len(wrong) > _MOST:
            self.found(file, f"and {len(wrong) - _MOST} more {kind} are wrong")

    def check(self) -> ShardCheck:
        name = self.shard.name
        manifest = self._guarded(f"{FOLDER}/{name}.json", lambda _: read_manifest(self.out, self.shard.number))
        if manifest is None:
            return self.result
        self._guarded(f"{FOLDER}/{name}.json", lambda file: self._check_manifest(manifest, file))
        kept = self._guarded(f"ledger/{name}.parquet", lambda file: self._check_ledger(manifest, file))
        for folder in TARS:
            self._guarded(f"{folder}/{name}.tar", partial(self._check_tar, manifest, kept))
        self._guarded(f"{FEATURES}/{name}.parquet", partial(self._check_features, manifest, kept))
        self._guarded(f"stats/{name}.json", partial(self._check_stats, manifest))
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
        known = {f"{folder}/{self.shard.name}.tar" for folder in TARS}
        known |= {f"{folder}/{self.shard.name}.parquet" for folder in ("ledger", FEATURES)}
        for name in sorted(set(manifest.files) - known):
            self.found(file, f"it lists a file {name[:200]!r} that is none of a shard's")

    def _check_ledger(self, manifest: ShardManifest, file: str) -> list[str] | None:
        """Check the ledger, fill ``rows`` and return the kept keys in order; None where it cannot be used."""
        self._check_file(manifest, file)
        table = read_ledger(storage.join(self.out, file))
        if not table.schema.equals(schema(layer_count(self.run.config))):
            self.found(file, "its columns are not those of this version of the project")
            return None
        lines = table.to_pylist()
        self.result.rows = len(lines)
        if [(line["shard"], line["index"]) for line in lines] != [
            (self.shard.number, i) for i in range(self.shard.rows)
        ]:
            self.found(file, f"its {len(lines)} lines are not the {self.shard.rows} input rows in order")
        self._check_reasons(manifest, file, lines)
        self._list(file, [f"row {line['index']}: {what}" for line, what in self.ledger.wrong(lines)], "rows")
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
            if folder == "audit" and kept is not None:
                self._check_audit(file, [])
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
                    row = self.rows.get(key)
                    if kept is not None and (what := self.samples.wrong(folder, key, members, row, file)):
                        wrong.append(f"{key}: {what}")
            except OutputError as error:
                self.result.findings.append(Finding.of(file, error))
            digesting.drain()
        self._check_digest(manifest, file, digesting)
        self._list(file, wrong, "samples")
        if folder == "audit" and kept is not None:
            self._check_audit(file, keys)
        if folder == "shards" and kept is not None and keys != kept:
            odd = sorted(set(keys) ^ set(kept))
            what = f"samples in only one of them: {', '.join(odd[:_MOST])}" if odd else "another order"
            self.found(file, f"tar and ledger disagree: {what}")

    def _check_audit(self, file: str, keys: list[str]) -> None:
        """Rows of the audit slice that both judges saw and refused went through every stage, so they are stored."""
        judged = {key for key, row in self.rows.items() if row["audit"] and row["inpainting_score"] != UNKNOWN}
        refused = {key for key in judged if self.rows[key]["reason"] in {reason.value for reason in REASONS.values()}}
        if odd := sorted(refused - set(keys))[:_MOST]:
            self.found(file, f"samples of the audit slice are missing: {', '.join(odd)}")

    def _check_features(self, manifest: ShardManifest, kept: list[str] | None, file: str) -> None:
        """Check that the features are those of the scored rows, by the heads that the ledger names."""
        url = storage.join(self.out, file)
        if file not in manifest.files:
            if storage.exists(url):
                self.found(file, "the manifest does not list this file")
            elif self.features_wanted and any(scored(self.rows, task) for task in TASKS):
                self.found(file, "rows have scores, but their features are missing")
            return
        self._check_file(manifest, file)
        features = read_features(url)
        if kept is not None:
            for what in wrong_features(features, self.rows, self.ledger.rules, self.deep):
                self.found(file, what)

    @property
    def features_wanted(self) -> bool:
        return bool(self.run.config.get("shards", {}).get("features"))

    def _check_file(self, manifest: ShardManifest, file: str) -> None:
        with storage.open_read(storage.join(self.out, file)) as raw:
            digesting = _Digesting(raw)
            digesting.drain()
        self._check_digest(manifest, file, digesting)

    def _check_stats(self, manifest: ShardManifest, file: str) -> None:
        stats = json.loads(storage.read_bytes(storage.join(self.out, file)))
        if stats["count"] != self.shard.rows:
            self.found(file, f"it counts {stats['count']} rows, the input has {self.shard.rows}")
        told = {reason: count for reason, count in stats["status_dict"].items() if reason != "success"}
        if stats["successes"] != manifest.kept or told != manifest.reasons:
            self.found(file, "its counts are not those of the manifest")

    def _check_digest(self, manifest: ShardManifest, file: str, read: _Digesting) -> None:
        entry = manifest.files.get(file)
        if entry is None:
            self.found(f"{FOLDER}/{self.shard.name}.json", f"it does not list {file}")
        elif entry["bytes"] != read.size:
            self.found(file, f"it has {read.size} bytes, the manifest says {entry['bytes']}")
        elif entry["sha256"] != read.sha256.hexdigest():
            self.found(file, "its content is not what was written: the digest differs")
        elif "md5" in entry and entry["md5"] != read.md5.hexdigest():
            self.found(f"{FOLDER}/{self.shard.name}.json", f"its MD5 of {file} is wrong, so readers of the index fail")


class _Digesting(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size = file, 0
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.size += len(data)
        self.sha256.update(data)
        self.md5.update(data)
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(storage.BLOCK):
            pass
