"""Proof that an output folder is complete and undamaged: every input row accounted for, every file as written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from l2i_builder import storage
from l2i_builder.errors import L2IError, OutputError
from l2i_builder.ingest.growing import FOLDER as GROWTH
from l2i_builder.ingest.growing import choice_name, find_choice_damage
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output.features import TASKS
from l2i_builder.output.manifest import (
    FOLDER,
    PENDING,
    RUN_FILE,
    RunManifest,
    finished,
    layer_count,
    read_manifest,
    shard_name,
)
from l2i_builder.output.rules import rule_of
from l2i_builder.output.shards import wids_index
from l2i_builder.output.tombstones import FILE as TAKEDOWNS
from l2i_builder.output.tombstones import Takedowns, read_takedowns
from l2i_builder.output.undecided import FILE as UNDECIDED
from l2i_builder.output.undecided import SCHEMA, read_undecided, undecided_of
from l2i_builder.output.verify_ledger import LedgerCheck
from l2i_builder.output.verify_shard import Finding, ShardCheck, check_shard
from l2i_builder.sample import Reason

FOLDERS = {
    "shards": ".tar",
    "audit": ".tar",
    "previews": ".tar",
    "features": ".parquet",
    "ledger": ".parquet",
    "stats": ".json",
    FOLDER: ".json",
}
# Files of the top folder that belong there: the run's own, those of reviewers, and those of publishing.
TOP = {RUN_FILE, "input.json", "index.json", "report.html", "report.json"}
TOP |= {"labels.sqlite", "labels.sqlite-wal", "labels.sqlite-shm", "labels.parquet"}
TOP |= {UNDECIDED, TAKEDOWNS}
TOP |= {"splits.parquet", "splits.json", "statistics.json", "statistics.html"}
TOP |= {"README.md", "SHA256SUMS", "croissant.json", "LICENSE", ".gitattributes"}

KNOWN_FOLDERS = {PENDING, GROWTH, "report-files", "hashes"}

Progress = Callable[[int, int], None]


def verify(out: str, deep: bool = False, progress: Progress | None = None) -> list[Finding]:
    """Check an output folder; return what is wrong, [] if it is complete and undamaged.

    Every finished shard: rows and reasons add up to the input plan's, files have the size and digest of the
    manifest, ledger and tar hold the same samples in the same order, no sample is kept twice. ``deep`` decodes
    every sample too and checks its layers and facts. ``progress`` is called with shards done and in all.
    Damage is a finding, never an exception.
    """
    findings: list[Finding] = []
    run, plan = _read_run(out, findings)
    if run is None or plan is None:
        return findings
    planned = {shard.number: shard for shard in plan.shards}
    done = finished(out)
    ledger = ledger_check(out, run, findings)
    findings += _unfinished(done, set(planned))
    findings += _growth(out, plan)
    findings += _pending(out)
    numbers = sorted(done & set(planned))

    def check(number: int) -> ShardCheck:
        return check_shard(out, planned[number], run, ledger, deep)

    keys: list[np.ndarray] = []
    rows = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for count, result in enumerate(pool.map(check, numbers), start=1):
            findings += result.findings
            keys.append(result.keys)
            rows += result.rows
            if progress:
                progress(count, len(numbers))
    if done == set(planned) and rows != plan.all_rows:
        what = f"the ledgers account for {rows} rows, the input has {plan.all_rows}"
        findings.append(Finding("input.json", what, "Mend what is listed above, then verify again."))
    findings += _kept_twice(numbers, keys)
    findings += _index(out)
    findings += _undecided(out, numbers)
    findings += _foreign(out, set(planned))
    return findings


def ledger_check(out: str, run: RunManifest, findings: list[Finding] | None = None) -> LedgerCheck:
    """Return the check of a run's ledgers. Of a damaged log of takedowns it tells in ``findings``, where given.

    Raises OutputError where the log is damaged and nobody is told.
    """
    takedowns = read_takedowns(out) if findings is None else _read_takedowns(out, findings)
    rules = [rule_of(run, task) for task in TASKS]
    return LedgerCheck(rules, takedowns, layer_count(run.config), bool(run.derived_from))


def output_digest(out: str) -> str:
    """Return a SHA-256 over run.json, all manifests, the log of takedowns and which rows joined later.

    Who knows it from elsewhere can tell that nothing was changed, also by somebody who made all files agree again.
    Stats and reports are not covered.
    """
    numbers = sorted(finished(out))
    names = [RUN_FILE, *(f"{FOLDER}/{shard_name(number)}.json" for number in numbers)]
    names += [f"{GROWTH}/{name}" for name in storage.list_names(storage.join(out, GROWTH), ".parquet")]
    names += [TAKEDOWNS] if storage.exists(storage.join(out, TAKEDOWNS)) else []
    total = hashlib.sha256()
    with ThreadPoolExecutor(16) as pool:
        contents = pool.map(lambda name: storage.read_bytes(storage.join(out, name)), names)
        for name, data in zip(names, contents, strict=True):
            total.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return total.hexdigest()


def _read_run(out: str, findings: list[Finding]) -> tuple[RunManifest | None, InputPlan | None]:
    run = plan = None
    try:
        run = RunManifest.from_json(storage.read_bytes(storage.join(out, RUN_FILE)), RUN_FILE)
    except L2IError as error:
        findings.append(Finding.of(RUN_FILE, error))
    try:
        plan = InputPlan.from_json(storage.read_bytes(storage.join(out, "input.json")))
    except L2IError as error:
        findings.append(Finding.of("input.json", error))
    if run and plan and run.input != plan.digest:
        advice = "Restore both files from one run, or build into another folder."
        findings.append(Finding("input.json", "it is not the input that run.json names", advice))
    return run, plan


def _unfinished(done: set[int], planned: set[int]) -> Iterator[Finding]:
    missing, extra = sorted(planned - done), sorted(done - planned)
    if missing:
        shown = ", ".join(shard_name(number) for number in missing[:20])
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        what = f"{len(missing)} of {len(planned)} shards are not finished: {shown}{more}"
        yield Finding(FOLDER, what, "Run the build again: it goes on with these.")
    for number in extra:
        advice = "It belongs to another run: delete the shard's files."
        yield Finding(f"{FOLDER}/{shard_name(number)}.json", "the input plan has no such shard", advice)


def _growth(out: str, plan: InputPlan) -> Iterator[Finding]:
    """Find damage of what says which rows of metadata that joined later are new."""
    advice = "Restore it; without it the rows of these shards cannot be fetched again."
    for file, what in find_choice_damage(out, plan.growths):
        yield Finding(file, what, advice)
    known = {choice_name(number) for number in range(1, len(plan.growths) + 1)}
    for name in storage.list_names(storage.join(out, GROWTH)):
        if f"{GROWTH}/{name}" not in known:
            yield _stray(f"{GROWTH}/{name}")


def _pending(out: str) -> Iterator[Finding]:
    """Find what an interrupted ``--retry-failed`` left: finished shards that are not in their place yet."""
    waiting = sorted(finished(storage.join(out, PENDING)))
    if waiting:
        shown = ", ".join(shard_name(number) for number in waiting[:20])
        what = f"{len(waiting)} shards of an interrupted retry are not in their place yet: {shown}"
        yield Finding(PENDING, what, "Run the build again: it moves them.")


def _kept_twice(numbers: list[int], keys: list[np.ndarray]) -> Iterator[Finding]:
    """Find samples kept by more than one shard. keys: per shard, uint64 [kept], the first half of each key."""
    if not keys:
        return
    every = np.concatenate(keys)
    owner = np.repeat(np.asarray(numbers), [len(part) for part in keys])
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    twice = np.flatnonzero(every[1:] == every[:-1])
    if len(twice):
        examples = "; ".join(
            f"{int(every[i]):016x}... in {shard_name(owner[i])} and {shard_name(owner[i + 1])}" for i in twice[:5]
        )
        what = f"{len(twice)} samples are kept more than once: {examples}"
        advice = "The metadata list these pairs repeatedly: drop repeated keys when loading, or from the metadata."
        yield Finding("ledger", what, advice, serious=False)


def _index(out: str) -> Iterator[Finding]:
    url = storage.join(out, "index.json")
    try:
        if storage.read_bytes(url) == wids_index(out):
            return
        what = "it does not list the shards that are there"
    except L2IError as error:
        what = str(error).rpartition(". ")[0]
    yield Finding("index.json", what, "Run the build again: it is written anew.")


def _read_takedowns(out: str, findings: list[Finding]) -> Takedowns:
    try:
        return read_takedowns(out)
    except L2IError as error:
        findings.append(Finding.of(TAKEDOWNS, error))
        return Takedowns()


def _undecided(out: str, numbers: list[int]) -> Iterator[Finding]:
    """Compare the list of undecided rows with the ledgers, shard by shard."""
    advice = "Run the command that made the folder (refilter or build) again: it is written anew."
    url = storage.join(out, UNDECIDED)
    try:
        listed = read_undecided(url)
        told = [undecided_of(out, number) for number in numbers if _says_undecided(out, number)]
    except L2IError as error:
        yield Finding(UNDECIDED, str(error).rpartition(". ")[0], advice)
        return
    wanted = pa.concat_tables(told) if told else SCHEMA.empty_table()
    if not listed.equals(wanted):
        yield Finding(UNDECIDED, f"it lists {len(listed)} rows, the ledgers have {len(wanted)}, or others", advice)


def _says_undecided(out: str, number: int) -> bool:
    try:
        return Reason.UNDECIDED.value in read_manifest(out, number).reasons
    except L2IError:
        return False  # a finding of its own


def _foreign(out: str, planned: set[int]) -> Iterator[Finding]:
    """Find files that no run writes, and leftovers of commits that were killed."""
    for name in storage.list_names(out):
        if name not in TOP:
            yield _stray(name)
    for name in _folders(out) - set(FOLDERS) - KNOWN_FOLDERS:
        yield _stray(f"{name}/")
    for folder, suffix in FOLDERS.items():
        for name in storage.list_names(storage.join(out, folder)):
            stem = name.removesuffix(suffix)
            known = name.endswith(suffix) and stem.isdecimal() and name == f"{shard_name(int(stem))}{suffix}"
            if not known or (int(stem) not in planned and folder != FOLDER):
                yield _stray(f"{folder}/{name}")


def _folders(out: str) -> set[str]:
    with storage.explained("list", out, OutputError):
        fs, path = storage.filesystem(out)
        entries = fs.ls(path, detail=True) if fs.exists(path) else []
    return {str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"}


def _stray(file: str) -> Finding:
    if file.endswith(".tmp"):
        return Finding(file, "left behind by a commit that was killed", "Delete it when no build runs.", serious=False)
    return Finding(file, "no run writes such a file", "Move it elsewhere or delete it.", serious=False)
