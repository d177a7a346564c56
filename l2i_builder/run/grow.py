"""``l2i build --append``: new metadata join a finished run; only rows whose keys it has not are fetched.

What is there stays untouched, byte for byte. The same metadata appended to the same run give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, MetadataError
from l2i_builder.ingest.growing import FOLDER, Growth, choice_bytes, choice_name, choose, cut, key_numbers
from l2i_builder.ingest.planning import InputPlan, Span, read_span
from l2i_builder.ingest.rows import keys_of
from l2i_builder.output.manifest import RUN_FILE, RunManifest, claim
from l2i_builder.output.rewrite import recover
from l2i_builder.report.run import ledger_of
from l2i_builder.report.scan import REMOTE_READERS, ahead
from l2i_builder.run.resume import whole_shards

INPUT_FILE = "input.json"
LOCAL_READERS = 4

Told = Callable[[str], None]


def read_plan(out: str) -> InputPlan:
    """Return the plan of an output folder. Raises OutputError or MetadataError where it is missing or damaged."""
    return InputPlan.from_json(storage.read_bytes(storage.join(out, INPUT_FILE)))


def keep_growths(out: str, plan: InputPlan) -> InputPlan:
    """Return the plan of a run's first metadata with what has joined the run since, as its folder says.

    Raises MetadataError where the folder's plan is damaged and something has joined: that cannot be made anew.
    """
    url = storage.join(out, INPUT_FILE)
    if not storage.exists(url):
        return plan
    try:
        there = read_plan(out)
    except MetadataError as problem:
        if not storage.list_names(storage.join(out, FOLDER)):
            return plan
        raise MetadataError(f"{url} is damaged, and says what has joined the run. Restore it from a copy.") from problem
    return replace(plan, growths=there.growths) if there.digest == plan.digest else plan


def append(
    config: Config, fresh: InputPlan, weights: dict[str, str], told: Told = lambda text: None
) -> tuple[RunManifest, InputPlan]:
    """Let metadata join the run in ``config.out``; return the run and its grown plan, of which shards may be open.

    fresh: plan of the metadata; weights: name -> sha256, as of a build. Called again, with metadata that joined
    before, it adds nothing: the build goes on where it was.

    Raises ConfigError where there is no run, or one of another configuration, or one that is not finished: only
    then the keys it has are known.
    """
    out = config.out
    url = storage.join(out, RUN_FILE)
    if not storage.exists(url):
        raise ConfigError(f"{out} holds no run to append to. Build the first metadata without --append.")
    old = RunManifest.from_json(storage.read_bytes(url), url)
    run = claim(out, RunManifest.of(config, old.input, weights))
    plan = read_plan(out)
    if fresh.digest == plan.digest:
        told("these are the metadata that the run began with: nothing joins it")
        return run, plan
    for place, growth in enumerate(plan.growths):
        if growth.input == fresh.digest:
            told(f"these metadata joined the run before: {growth.rows:,} new rows, {growth.known:,} known and left out")
            growths = [*plan.growths]
            growths[place] = replace(growth, files=fresh.files)  # they may lie elsewhere now
            return run, _write(out, replace(plan, growths=growths))
    recover(out)
    _check_finished(out, plan)
    growth, data = grow(out, plan, fresh, config, told)
    if not growth.rows:
        told(f"all {growth.total:,} rows are known: nothing joins the run")
        return run, plan
    storage.write_bytes(storage.join(out, choice_name(len(plan.growths) + 1)), data)
    repeated = f", {growth.repeated:,} repeat one of them" if growth.repeated else ""
    told(f"{growth.rows:,} of {growth.total:,} rows are new; {growth.known:,} are known and left out{repeated}")
    return run, _write(out, replace(plan, growths=[*plan.growths, growth]))


def grow(
    out: str, plan: InputPlan, fresh: InputPlan, config: Config, told: Told = lambda text: None
) -> tuple[Growth, bytes]:
    """Return which rows of metadata a run has not, and their truth values as a file; nothing is written.

    Eight bytes are held of every row of the run and of the metadata. Files that the run has as a whole are not read.
    """
    told(f"looking for new keys among {fresh.rows:,} rows")
    known = known_keys(out, plan)
    have = {_identity(file) for file in plan.all_files} if not config.ingest.limit else set()
    keys, ends, skipped, left = [], list[int](), [], fresh.rows
    for file in fresh.files:
        rows = min(file["rows"], left)
        left -= rows
        ends.append((ends[-1] if ends else 0) + rows)
        whole = _identity(file) in have
        skipped.append(np.full(rows, whole))
        keys.append(np.zeros(rows, np.uint64) if whole else _keys(Span(file["path"], 0, rows), fresh.columns))
    every, old = np.concatenate(keys), np.concatenate(skipped)
    new = np.zeros(len(every), bool)
    new[~old], known_rows, repeated = choose(known, every[~old])
    data = choice_bytes(new)
    cuts = cut(new, ends, fresh.rows_per_shard)
    choice = hashlib.sha256(data).hexdigest()
    count = known_rows + int(old.sum())
    columns, files = fresh.columns, fresh.files
    return (
        Growth(fresh.digest, columns, files, len(every), int(new.sum()), count, repeated, cuts, choice),
        data,
    )


def known_keys(out: str, plan: InputPlan) -> np.ndarray:
    """Return the keys of all rows of a run, uint64 [n], sorted: tombstones keep theirs, so they stay out."""
    readers = LOCAL_READERS if storage.is_local(out) else REMOTE_READERS

    def of(number: int) -> np.ndarray:
        return key_numbers(ledger_of(out, number, ("key",))["key"].to_pylist())

    found = list(ahead(of, [shard.number for shard in plan.shards], readers))
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)


def _keys(span: Span, columns: dict[str, str]) -> np.ndarray:
    wanted = {field: columns[field] for field in ("url", "caption")}
    batches: list[np.ndarray] = []
    for batch in read_span(span, wanted):
        batches.append(key_numbers(keys_of(batch, wanted)))
    return np.concatenate(batches) if batches else np.empty(0, np.uint64)


def _check_finished(out: str, plan: InputPlan) -> None:
    done, _ = whole_shards(out)
    left = sum(shard.number not in done for shard in plan.shards)
    if left:
        last = "that joined last" if plan.growths else "that it began with"
        raise ConfigError(
            f"{left:,} of {len(plan.shards):,} shards of {out} are not finished, so nobody can tell which keys it has. "
            f"Finish it first: run the build with the metadata {last} again."
        )


def _write(out: str, plan: InputPlan) -> InputPlan:
    storage.write_bytes(storage.join(out, INPUT_FILE), plan.to_json())
    return plan


def _identity(file: dict[str, object]) -> tuple[object, ...]:
    return file["rows"], file["size"], file["footer"]
