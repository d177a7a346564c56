"""Which shards an earlier run finished, and whether their files are still there: in full size, or byte for byte."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output.manifest import RunManifest, ShardManifest, finished, read_manifests


def whole_shards(out: str) -> tuple[set[int], dict[int, str]]:
    """Return the numbers of the shards that need no work, and number -> what is wrong with the other finished ones.

    Manifests are read and folders listed, once each; contents are not read (``l2i verify`` checks digests).
    """
    numbers = sorted(finished(out))
    damaged: dict[int, str] = {}
    sizes: dict[str, dict[str, int]] = {}  # folder -> file -> bytes
    for number, manifest in zip(numbers, read_manifests(out, numbers), strict=True):
        if what := str(manifest) if isinstance(manifest, OutputError) else _trouble(out, manifest, sizes):
            damaged[number] = what
    return set(numbers) - set(damaged), damaged


def altered_shards(out: str, plan: InputPlan, run: RunManifest, numbers: Iterable[int]) -> dict[int, str]:
    """Return number -> what is wrong with those of the finished shards that ``l2i verify`` finds damage in.

    Reads every file of them. Stats are left out: nothing depends on them.
    """
    from l2i_builder.output.verify import ledger_check
    from l2i_builder.output.verify_shard import check_shard

    planned = {shard.number: shard for shard in plan.shards}
    chosen = sorted(set(numbers) & set(planned))
    ledger = ledger_check(out, run)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda number: check_shard(out, planned[number], run, ledger, False), chosen)
        damaged: dict[int, str] = {}
        for number, result in zip(chosen, results, strict=True):
            for finding in result.findings:
                if finding.serious and not finding.file.startswith("stats/"):
                    damaged.setdefault(number, f"{finding.file}: {finding.what}")
    return damaged


def _trouble(out: str, manifest: ShardManifest, sizes: dict[str, dict[str, int]]) -> str:
    """Return what a shard's files lack, "" where nothing. sizes: of the folders listed so far."""
    for file, entry in manifest.files.items():
        folder, _, name = file.partition("/")
        if folder not in sizes:
            sizes[folder] = storage.list_sizes(storage.join(out, folder))
        found = sizes[folder].get(name)
        if found != entry["bytes"]:
            return f"{file} is missing" if found is None else f"{file} has {found} of {entry['bytes']} bytes"
    return ""
