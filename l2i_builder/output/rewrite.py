"""Finished shards made anew: what retrying, refiltering and takedowns share.

A finished shard is opened as one batch whose pictures are read from its tars only when they are written again, so
memory does not grow with a shard's bytes. The new shard is committed under ``pending/`` of the output folder and
then moved into place, the manifest last. ``recover`` finishes a move that was interrupted: a shard is the old one
or the new one, never a mixture for good.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import IO, Any, TypeVar

import numpy as np

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.features import FOLDER as FEATURES
from l2i_builder.output.features import read_features
from l2i_builder.output.ledger import read_ledger, to_row
from l2i_builder.output.manifest import (
    FOLDER,
    PENDING,
    ShardManifest,
    finished,
    manifest_url,
    read_manifest,
    shard_name,
)
from l2i_builder.output.shards import index_tar
from l2i_builder.sample import Batch, Row

T = TypeVar("T")

TARS = ("shards", "audit", "previews")
FOLDERS = (*TARS, FEATURES, "ledger", "stats", FOLDER)


class StoredSample(Mapping[str, bytes]):
    """The members of a sample in an open tar, read when asked for. ``replaced``: suffix -> other content."""

    def __init__(
        self, file: IO[bytes], places: Mapping[str, tuple[int, int]], replaced: Mapping[str, bytes] | None = None
    ) -> None:
        self.file, self.places, self.replaced = file, places, dict(replaced or {})

    def __getitem__(self, suffix: str) -> bytes:
        if suffix in self.replaced:
            return self.replaced[suffix]
        offset, size = self.places[suffix]
        self.file.seek(offset)
        return self.file.read(size)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def replace(self, suffix: str, data: bytes) -> StoredSample:
        """Return the sample with other content for one of its members."""
        return StoredSample(self.file, self.places, {**self.replaced, suffix: data})


@contextmanager
def stored_shard(out: str, number: int) -> Iterator[Batch]:
    """Yield a finished shard as one batch: rows, samples (kept and audited), previews, features, effort.

    Its samples can be read until the block ends. Raises OutputError where a file is not what the manifest says: what
    is damaged is never handed on.
    """
    manifest = read_manifest(out, number)
    with ExitStack() as stack:
        rows = _rows(out, manifest)
        batch = Batch(rows, np.empty(0, np.int64), shard_rows=len(rows))
        for folder in TARS:
            name = f"{folder}/{manifest.name}.tar"
            if name in manifest.files:
                file = stack.enter_context(_opened(out, name, manifest))
                samples = {key: StoredSample(file, at) for key, at in index_tar(storage.join(out, name), file).items()}
                if folder == "previews":
                    batch.previews = {key: sample["webp"] for key, sample in samples.items()}
                else:
                    batch.triplets |= samples  # type: ignore[arg-type]
        name = f"{FEATURES}/{manifest.name}.parquet"
        if name in manifest.files:
            with _opened(out, name, manifest):
                features = read_features(storage.join(out, name))
            batch.features, batch.feature_kinds = features.vectors, features.kinds
        stats = stored_stats(out, number)
        batch.seconds, batch.images = dict(stats.get("seconds", {})), dict(stats.get("images", {}))
        yield batch


def stored_stats(out: str, number: int) -> dict[str, Any]:
    """Return a shard's stats, {} where they are missing or damaged: nothing depends on them."""
    url = storage.join(out, f"stats/{shard_name(number)}.json")
    try:
        stats = json.loads(storage.read_bytes(url)) if storage.exists(url) else {}
    except ValueError:
        stats = {}
    return stats if isinstance(stats, dict) else {}


def stored_rows(out: str, number: int, columns: Sequence[str] | None = None) -> list[Row]:
    """Return the rows of a shard's ledger."""
    table = read_ledger(storage.join(out, f"ledger/{shard_name(number)}.parquet"), columns)
    return [to_row(record) for record in table.to_pylist()]


def promote(out: str, number: int) -> None:
    """Move a shard committed under ``pending/`` into place, the manifest last. Safe to repeat."""
    pending = storage.join(out, PENDING)
    new = read_manifest(pending, number)
    for name in [*new.files, f"stats/{shard_name(number)}.json"]:
        if storage.exists(storage.join(pending, name)):
            storage.move(storage.join(pending, name), storage.join(out, name))
    for name in read_manifest(out, number).files:
        if name not in new.files:
            storage.delete(storage.join(out, name))
    storage.write_bytes(manifest_url(out, number), new.to_json())
    storage.delete(manifest_url(pending, number))


def recover(out: str) -> int:
    """Finish the moves that an interruption left under ``pending/``; return how many shards were moved.

    What is left there of a shard that was not finished is deleted: pixels must not outlive a takedown there.
    """
    left = finished(storage.join(out, PENDING))
    for number in sorted(left):
        promote(out, number)
    for folder in FOLDERS:
        place = storage.join(out, PENDING, folder)
        for name in storage.list_names(place):
            storage.delete(storage.join(place, name))
    return len(left)


def spread(
    work: Callable[[T], Any], items: Sequence[T], workers: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Call ``work`` for every item, ``workers`` at once; an error or interrupt begins no further ones and goes on.

    progress: called with items done and in all.
    """
    waiting, running, done = list(reversed(items)), set[Future[Any]](), 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        while waiting or running:
            while waiting and len(running) < max(1, workers):
                running.add(pool.submit(work, waiting.pop()))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
                done += 1
                if progress:
                    progress(done, len(items))


def _rows(out: str, manifest: ShardManifest) -> list[Row]:
    with _opened(out, f"ledger/{manifest.name}.parquet", manifest):
        return stored_rows(out, manifest.shard)


@contextmanager
def _opened(out: str, name: str, manifest: ShardManifest) -> Iterator[IO[bytes]]:
    """Open a shard's file for scattered reads, after comparing its digest; one of an object store is copied first."""
    url = storage.join(out, name)
    with ExitStack() as stack:
        if storage.is_local(url):
            file = stack.enter_context(storage.open_read(url))
        else:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="l2i-"))
            with storage.open_read(url) as source:
                while block := source.read(storage.BLOCK):
                    file.write(block)
            file.seek(0)
        sha256 = hashlib.sha256()
        while block := file.read(storage.BLOCK):
            sha256.update(block)
        if sha256.hexdigest() != manifest.files[name]["sha256"]:
            raise OutputError(f"{url} is not what its manifest says. Run `l2i verify {out}`, which says what to do.")
        file.seek(0)
        yield file
