"""Taking samples down from a finished dataset, so that nothing of them is left and no later build brings them back.

First the log (``tombstones.py``) names every identifier of the samples; from then on commits refuse them. Then the
shards that hold them are made anew (``rewrite.py``) without them. Cut off at any point, the log says what is still
to be done: another call finishes it, and ``l2i verify`` tells until then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError
from l2i_builder.ingest.planning import InputPlan, InputShard
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import PENDING, RUN_FILE, RunManifest, finished, shard_name
from l2i_builder.output.rewrite import FOLDERS, promote, recover, spread, stored_shard, stored_stats
from l2i_builder.output.shards import wids_index
from l2i_builder.output.tombstones import (
    KINDS,
    Identifier,
    Takedowns,
    bury,
    read_takedowns,
    write_takedowns,
)
from l2i_builder.output.undecided import write_undecided
from l2i_builder.sample import Reason

PAGES = ("report.html", "report.json", "statistics.html", "statistics.json")  # show samples; written anew afterwards
HASHES = "hashes"  # of the images, made anew by `l2i splits`
PAGES_FOLDER = "report-files"
_NO_PICTURE = frozenset({Reason.NOT_IMAGE.value, Reason.EMPTY_BODY.value, Reason.UNSUPPORTED_FORMAT.value})

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Takedown:
    """What came of it. rows: lines that became tombstones; shards: made anew; unknown: identifiers no ledger has."""

    rows: int
    shards: int
    unknown: tuple[Identifier, ...]


def take_down(
    out: str, identifiers: Iterable[Identifier] = (), progress: Progress | None = None, workers: int = 4
) -> Takedown:
    """Take samples down from an output folder, with all copies: rows of the same file, URL or key.

    Without identifiers, finish what an interruption left of earlier calls. Not beside a build with
    ``--retry-failed`` into the same folder; an ordinary build may go on meanwhile.

    Raises OutputError where the folder holds no run or a damaged one. The report is deleted; write it anew.
    """
    wanted = tuple(identifiers)
    run = RunManifest.from_json(storage.read_bytes(storage.join(out, RUN_FILE)), storage.join(out, RUN_FILE))
    plan = InputPlan.from_json(storage.read_bytes(storage.join(out, "input.json")))
    planned = {shard.number: shard for shard in plan.shards}
    config = Config.model_validate({**run.config, "out": out})
    _delete_pages(out)
    recover(out)
    _delete_leftovers(out)
    log = read_takedowns(out)
    fresh = {identifier for identifier in wanted if (identifier.kind, identifier.digest) not in log.entries}
    if fresh:
        log.add(fresh)
        write_takedowns(out, log)
    seen: set[Identifier] = set()
    shards = _close_over(out, log, seen)

    def work(number: int) -> None:
        _rewrite(out, planned[number], config, log, run.digest)

    rows = sum(shards.values())
    spread(work, sorted(shards), workers, progress)
    storage.write_bytes(storage.join(out, "index.json"), wids_index(out))
    write_undecided(out)
    return Takedown(rows, len(shards), tuple(sorted(fresh - seen)))


def read_list(lines: Iterable[str]) -> Iterator[Identifier]:
    """Yield identifiers of a list: one a line, URL, key (32 hex digits) or SHA-256 (64); # begins a comment."""
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            kind = "url" if ":" in text else {32: "key", 64: "sha256"}.get(len(text), "")
            if not kind:
                raise ConfigError(f"{text[:100]!r} is neither a URL nor a key (32 hex digits) nor a SHA-256 (64).")
            yield Identifier.of(kind, text)


def _close_over(out: str, log: Takedowns, seen: set[Identifier]) -> dict[int, int]:
    """Add all identifiers of the rows that the log names, until it names no further row; keep the log written.

    Returns shard -> rows to be buried. Puts into ``seen`` the identifiers of these rows.
    """
    while True:
        found: dict[int, int] = {}
        before = len(log)
        numbers = sorted(finished(out)) if len(log) else []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for number, lines in zip(numbers, pool.map(partial(_named, out, log), numbers), strict=True):
                if len(lines):
                    found[number] = len(lines)
                    seen |= {_identifier(kind, value) for kind in KINDS for value in lines[kind].to_pylist() if value}
                    log.add(_identifiers(lines))
        if len(log) == before:
            return found
        write_takedowns(out, log)


def _named(out: str, log: Takedowns, number: int) -> pa.Table:
    """Return the lines of a ledger that are to be buried, columns of ``KINDS`` and reason."""
    ledger = read_ledger(storage.join(out, f"ledger/{shard_name(number)}.parquet"), [*KINDS, "reason"])
    ledger = ledger.filter(pc.not_equal(ledger["reason"], Reason.TAKEN_DOWN.value))
    return ledger.filter(pa.array(log.named(ledger), pa.bool_()))


def _identifiers(lines: pa.Table) -> Iterator[Identifier]:
    """Yield what the lines are known by; not the digest of what is no image: many dead links share one error page."""
    for line in lines.to_pylist():
        for kind in KINDS:
            if line[kind] and not (kind == "sha256" and line["reason"] in _NO_PICTURE):
                yield _identifier(kind, line[kind])


def _identifier(kind: str, value: str) -> Identifier:
    """Return an identifier of a ledger; URLs of metadata may have blanks around them."""
    return Identifier(kind, value.strip() if kind == "url" else value)


def _rewrite(out: str, shard: InputShard, config: Config, log: Takedowns, run_digest: str) -> None:
    """Make a shard anew with tombstones, under ``pending/``, and move it into place."""
    with stored_shard(out, shard.number) as batch:
        batch.rows = bury(batch.rows, log)
        stats = stored_stats(out, shard.number)
        commit_shard(storage.join(out, PENDING), shard, config, [batch], stats, run_digest)
    promote(out, shard.number)
    storage.delete(storage.join(out, HASHES, f"{shard_name(shard.number)}.parquet"))


def _delete_leftovers(out: str) -> None:
    """Delete what killed commits left half written: its pixels are in no ledger. A commit that is running writes its
    file again."""
    for folder in ("", *FOLDERS):
        place = storage.join(out, folder) if folder else out
        for name in storage.list_names(place, ".tmp"):
            storage.delete(storage.join(place, name))


def _delete_pages(out: str) -> None:
    pages: Sequence[str] = [f"{PAGES_FOLDER}/{name}" for name in storage.list_names(storage.join(out, PAGES_FOLDER))]
    for page in (*PAGES, *pages):
        storage.delete(storage.join(out, page))
