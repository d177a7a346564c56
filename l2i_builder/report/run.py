"""Reading an output folder: what the run is, and its finished shards one after another."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import L2IError, MetadataError, OutputError
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output import manifest
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import RunManifest, ShardManifest

Item = TypeVar("Item")
_HOST = r"^[A-Za-z][A-Za-z0-9+.\-]*://(?:[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:]+)"
NO_HOST = "(no host)"
MAX_HOST = 100  # characters kept of a host; real ones have at most 253, nearly all far fewer
READERS = 8  # shards read at a time: object stores answer slowly, and pyarrow leaves the lock while it decodes


@dataclass
class Run:
    """What an output folder says of itself, before any ledger is read.

    planned_shards, planned_rows: of the whole input; -1 where input.json is missing. finished_rows: input rows
    that the plan gives the finished shards, -1 likewise. changed: (key, value, default) of configuration keys.
    """

    out: str
    version: str
    digest: str
    config: dict[str, Any]
    weights: dict[str, str]
    input_digest: str
    finished: list[int]
    files: list[dict[str, Any]] = field(default_factory=list)
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


@dataclass
class ShardFiles:
    """What is read of one finished shard. ledger: the columns asked for, with ``host`` in place of ``url``; stats:
    {} where missing or damaged, since nothing depends on it."""

    manifest: ShardManifest
    ledger: pa.Table
    stats: dict[str, Any]


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
        result.files = [{key: file[key] for key in ("name", "rows", "size")} for file in plan.files]
        result.planned_shards, result.planned_rows = len(plan.shards), plan.rows
        result.finished_rows = sum(shard.rows for shard in plan.shards if shard.number in done)
    return result


def read_shard(out: str, number: int, columns: Sequence[str]) -> ShardFiles:
    """Read a finished shard's ledger (the named columns, ``url`` among them), manifest and stats.

    Raises OutputError where ledger or manifest is missing or damaged.
    """
    ledger = ledger_of(out, number, columns)
    place = ledger.schema.get_field_index("url")
    ledger = ledger.set_column(place, "host", hosts(ledger["url"]))
    stats = _read_stats(storage.join(out, "stats", f"{manifest.shard_name(number)}.json"))
    return ShardFiles(manifest.read_manifest(out, number), ledger, stats)


def hosts(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the lower-cased host of each URL, at most MAX_HOST characters of it; NO_HOST where there is none."""
    host = pc.struct_field(pc.extract_regex(urls, _HOST), "host")
    return pc.fill_null(pc.utf8_slice_codeunits(pc.utf8_lower(host), 0, MAX_HOST), NO_HOST)


def ledger_of(out: str, number: int, columns: Sequence[str]) -> pa.Table:
    """Read the named columns of a shard's ledger. Raises OutputError."""
    return read_ledger(storage.join(out, "ledger", f"{manifest.shard_name(number)}.parquet"), columns)


def ahead(read: Callable[[int], Item], numbers: Iterable[int]) -> Iterator[Item]:
    """Yield ``read(number)`` for each number, in order, READERS of them read ahead in threads."""
    with ThreadPoolExecutor(READERS) as pool:
        started: deque[Future[Item]] = deque()
        waiting = iter(numbers)
        try:
            while True:
                started.extend(pool.submit(read, number) for number in islice(waiting, READERS - len(started)))
                if not started:
                    return
                yield started.popleft().result()
        finally:
            for future in started:
                future.cancel()


def _read_stats(url: str) -> dict[str, Any]:
    try:
        stats = json.loads(storage.read_bytes(url))
    except (L2IError, ValueError, RecursionError):
        return {}
    return stats if isinstance(stats, dict) else {}


def leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of a nested mapping."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
