"""Reading an output folder: what the run is, and the files of its finished shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import MetadataError, OutputError
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output import manifest
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import RunManifest


@dataclass
class Run:
    """What an output folder says of itself, before any ledger is read.

    planned_shards, planned_rows: of the whole input; -1 where input.json is missing. finished_rows: input rows
    that the plan gives the finished shards, -1 likewise. columns: Row field -> column of the metadata.
    """

    out: str
    version: str
    digest: str
    config: dict[str, Any]
    weights: dict[str, str]
    input_digest: str
    finished: list[int]
    files: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    planned_shards: int = -1
    planned_rows: int = -1
    finished_rows: int = -1

    @property
    def changed(self) -> list[tuple[str, Any, Any]]:
        """Configuration keys that differ from the defaults: (dotted key, value, default)."""
        defaults = dict(leaves(manifest.identity(Config())))
        return [(key, value, defaults.get(key)) for key, value in leaves(self.config) if value != defaults.get(key)]

    def judge(self, judge: str) -> dict[str, Any]:
        """Return the configuration of a judge as this run has it."""
        section = self.config.get("judge", {})
        settings = section.get(judge, {}) if isinstance(section, dict) else {}
        return settings if isinstance(settings, dict) else {}


def open_run(out: str) -> Run:
    """Read run.json, input.json and the list of finished shards.

    Raises OutputError where the folder holds no run or a damaged one. A missing input.json is no error: the page
    says that the plan is unknown.
    """
    url = storage.join(out, manifest.RUN_FILE)
    if not storage.exists(url):
        raise OutputError(f"{out} holds no {manifest.RUN_FILE}: give the output folder of a build.")
    run = RunManifest.from_json(storage.read_bytes(url), url)
    result = Run(out, run.version, run.digest, run.config, run.weights, run.input, sorted(manifest.finished(out)))
    url = storage.join(out, "input.json")
    if storage.exists(url):
        try:
            plan = InputPlan.from_json(storage.read_bytes(url))
        except MetadataError as problem:
            raise OutputError(str(problem)) from problem
        done = set(result.finished)
        result.files = [{key: file[key] for key in ("name", "rows", "size", "footer")} for file in plan.all_files]
        result.columns = dict(sorted(plan.columns.items()))
        result.planned_shards, result.planned_rows = len(plan.shards), plan.all_rows
        result.finished_rows = sum(shard.rows for shard in plan.shards if shard.number in done)
    return result


def ledger_of(out: str, number: int, columns: Sequence[str], encoded: Sequence[str] = ()) -> pa.Table:
    """Read the named columns of a shard's ledger, those ``encoded`` as dictionaries. Raises OutputError."""
    return read_ledger(storage.join(out, "ledger", f"{manifest.shard_name(number)}.parquet"), columns, encoded)


def read_stats(out: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return the stats of some shards, {} for those missing or damaged: nothing but times depends on them."""
    names = [f"{manifest.shard_name(number)}.json" for number in numbers]
    return [_mapping(content) for content in storage.read_each(storage.join(out, "stats"), names)]


def _mapping(data: Any) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def sizes(out: str, folder: str) -> dict[int, int]:
    """Return shard number -> bytes of the files in one of the run's folders, by one listing; {} where it is absent."""
    url = storage.join(out, folder)
    with storage.explained("list", url, OutputError):
        fs, path = storage.filesystem(url)
        try:
            entries = fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
    stems = ((str(entry["name"]).rpartition("/")[2].partition(".")[0], entry) for entry in entries)
    return {int(stem): int(entry.get("size") or 0) for stem, entry in stems if stem.isdecimal()}


def leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of a nested mapping."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
