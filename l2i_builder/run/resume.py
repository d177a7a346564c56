"""Which shards an earlier run finished, and whether their files are still there in full size."""

from __future__ import annotations

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import ShardManifest, finished, read_manifests


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
