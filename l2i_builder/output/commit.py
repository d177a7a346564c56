"""Commit of one shard: tars, previews, features, ledger, stats, and last the manifest that says it is finished."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.features import FOLDER as FEATURES
from l2i_builder.output.features import Features, write_features
from l2i_builder.output.ledger import write_ledger
from l2i_builder.output.manifest import ShardManifest, manifest_url, pretty
from l2i_builder.output.shards import member_names, write_tar
from l2i_builder.output.tombstones import Takedowns, all_takedowns, bury
from l2i_builder.sample import NEVER_SHOWN, Batch, Reason, Row, Verdict, key_fraction

STAGE = "commit"

_FETCH_STAGES = frozenset({"ingest", "fetch"})


def commit_shard(
    out: str,
    shard: InputShard,
    config: Config,
    batches: Sequence[Batch],
    stats: Mapping[str, Any],
    run_digest: str,
) -> ShardManifest:
    """Write everything of a shard under ``out``; the manifest last. Committing again writes the same bytes.

    A shard that keeps nothing has no tar (webdataset stops at an empty one), but a ledger and a manifest. Should
    the commit break off, the shard has no manifest and is run again. ``stats`` (JSON types) are added to the
    stats file; of them ``start_time`` and ``end_time`` are seconds since the epoch.

    Raises ValueError unless the batches hold exactly the shard's rows, in order, with all members of each kept
    one; OutputError where the folder cannot be written.
    """
    rows = [row for batch in batches for row in batch.rows]
    takedowns = all_takedowns(config) if config.out else Takedowns()
    rows = bury(rows, takedowns)
    triplets = {key: members for batch in reversed(batches) for key, members in batch.triplets.items()}
    previews = {key: strip for batch in batches for key, strip in batch.previews.items()}
    _check(shard, rows, triplets, member_names(config.layers.count))
    _refuse_repeated_keys(rows)
    kept = [row for row in rows if row.kept]
    audit = [row for row in rows if not row.kept and row.audit and row.key in triplets]
    shown = _choose_previews(rows, previews, config)

    storage.delete(manifest_url(out, shard.number))
    files: dict[str, dict[str, Any]] = {}
    for folder, samples in (
        ("shards", [(row.key, triplets[row.key]) for row in kept]),
        ("audit", [(row.key, triplets[row.key]) for row in _showable(audit, kept)]),
        ("previews", [(row.key, {"webp": previews[row.key]}) for row in shown]),
    ):
        _commit_tar(out, f"{folder}/{shard.name}.tar", samples, files)
    facts = {"shard": shard.number, "run_digest": run_digest}
    _commit_features(out, f"{FEATURES}/{shard.name}.parquet", rows, batches, facts, files)
    ledger = write_ledger([_for_ledger(row) for row in rows], facts, config.layers.count)
    _commit_bytes(out, f"ledger/{shard.name}.parquet", ledger, files)
    storage.write_bytes(storage.join(out, f"stats/{shard.name}.json"), pretty(_stats(rows, batches, stats)))

    reasons = dict(sorted(Counter(row.reason for row in rows if row.reason).items()))
    manifest = ShardManifest(shard.number, len(rows), len(kept), reasons, files, run_digest)
    storage.write_bytes(manifest_url(out, shard.number), manifest.to_json())
    later = all_takedowns(config) if config.out else takedowns
    if later.entries != takedowns.entries and bury(rows, later) != rows:
        # A takedown writes its log before it looks for finished shards: one that began meanwhile may have missed this.
        return commit_shard(out, shard, config, batches, stats, run_digest)
    return manifest


def _check(
    shard: InputShard, rows: Sequence[Row], triplets: Mapping[str, Mapping[str, bytes]], members: Sequence[str]
) -> None:
    places = [(row.shard, row.index) for row in rows]
    if places != [(shard.number, index) for index in range(shard.rows)]:
        raise ValueError(f"shard {shard.name} has {shard.rows} rows, the batches hold {len(rows)} or in another order")
    for row in rows:
        if row.kept and tuple(triplets.get(row.key, ())) != members:
            raise ValueError(f"row {row.index} of shard {shard.name} is kept but has not all members")


def _refuse_repeated_keys(rows: Iterable[Row]) -> None:
    """A tar holds a key once; where sources let two rows of one key through, the first one stays."""
    keys: set[str] = set()
    for row in rows:
        if row.kept and row.key in keys:
            row.refuse(Reason.DUPLICATE, STAGE, "URL and caption of an earlier row of this shard")
        elif row.kept:
            keys.add(row.key)


def _showable(rows: Iterable[Row], others: Iterable[Row]) -> list[Row]:
    """Return the rows whose pixels may be written, the first of each key, without keys that ``others`` hold."""
    keys = {row.key for row in others}
    result = []
    for row in rows:
        if row.key not in keys and row.reason not in NEVER_SHOWN:
            keys.add(row.key)
            result.append(row)
    return result


def _choose_previews(rows: Sequence[Row], previews: Mapping[str, bytes], config: Config) -> list[Row]:
    """Return the rows whose preview is stored, in input order.

    Of the rejected ones every reason gets an equal share of the cap, as far as it has that many; within a reason,
    and among the kept, the draw is by key.
    """
    found = _showable((row for row in rows if row.key in previews), ())
    ranked: list[tuple[int, str, Row]] = []
    seen: Counter[str] = Counter()
    for row in sorted(found, key=lambda row: key_fraction(row.key, "preview")):
        ranked.append((seen[row.reason], row.reason, row))
        seen[row.reason] += 1
    ranked.sort(key=lambda entry: entry[:2])
    kept = [row for _, _, row in ranked if row.kept][: config.previews.kept_per_shard]
    rejected = [row for _, _, row in ranked if not row.kept][: config.previews.rejected_per_shard]
    return sorted(kept + rejected, key=lambda row: row.index)


def _commit_tar(
    out: str, name: str, samples: Sequence[tuple[str, Mapping[str, bytes]]], files: dict[str, dict[str, Any]]
) -> None:
    """Write a tar and enter it in ``files``; without samples remove what an earlier commit left."""
    url = storage.join(out, name)
    if not samples:
        storage.delete(url)
        return
    with storage.create(url) as file:
        write_tar(samples, file)
        file.flush()
        size = file.tell()
        file.seek(0)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        while block := file.read(storage.BLOCK):
            sha256.update(block)
            md5.update(block)
    files[name] = {"bytes": size, "sha256": sha256.hexdigest(), "md5": md5.hexdigest()}


def _commit_features(
    out: str,
    name: str,
    rows: Iterable[Row],
    batches: Iterable[Batch],
    facts: Mapping[str, Any],
    files: dict[str, dict[str, Any]],
) -> None:
    """Write what the judges saw of the rows that may be shown; without any remove what an earlier commit left."""
    features = Features()
    for batch in batches:
        features.kinds |= batch.feature_kinds
        for task, vectors in batch.features.items():
            features.vectors[task] |= vectors
    keys = [row.key for row in _showable(rows, ()) if any(row.key in vectors for vectors in features.vectors.values())]
    if keys:
        _commit_bytes(out, name, write_features(features, keys, facts), files)
    else:
        storage.delete(storage.join(out, name))


def _commit_bytes(out: str, name: str, data: bytes, files: dict[str, dict[str, Any]]) -> None:
    """Write a file and enter it in ``files``."""
    storage.write_bytes(storage.join(out, name), data)
    files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _for_ledger(row: Row) -> Row:
    from l2i_builder.fetch.guard import redact

    return replace(row, url=redact(row.url))


def _stats(rows: Sequence[Row], batches: Sequence[Batch], stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return img2dataset's keys (so that its readers work), and seconds and images of each stage."""
    seconds: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for batch in batches:
        seconds.update(batch.seconds)
        images.update(batch.images)
    end = float(stats.get("end_time", time.time()))
    start = float(stats.get("start_time", end))
    failed = [row for row in rows if row.verdict == Verdict.FAILED]
    return {
        **stats,
        "count": len(rows),
        "successes": sum(row.kept for row in rows),
        "failed_to_download": sum(row.stage in _FETCH_STAGES for row in failed),
        "failed_to_resize": sum(row.stage == "decode" for row in rows if not row.kept),
        "start_time": start,
        "end_time": end,
        "duration": end - start,
        "status_dict": dict(sorted(Counter(row.reason or "success" for row in rows).items())),
        "seconds": {stage: round(value, 6) for stage, value in sorted(seconds.items())},
        "images": dict(sorted(images.items())),
    }
