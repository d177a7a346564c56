"""Which shards an earlier run finished, and whether their files are still there in full size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import finished, read_manifest

READERS = 32  # manifests read at once


def whole_shards(out: str) -> tuple[set[int], dict[int, str]]:
    """Return the numbers of the shards that need no work, and number -> what is wrong with the other finished ones.

    Manifests are read and folders listed; contents are not read (``l2i verify`` checks digests).
    """
    numbers = sorted(finished(out))
    damaged: dict[int, str] = {}

    @cache
    def sizes(folder: str) -> dict[str, int]:
        return storage.list_sizes(storage.join(out, folder))

    def trouble(number: int) -> str:
        try:
            manifest = read_manifest(out, number)
        except OutputError as error:
            return str(error)
        for file, entry in manifest.files.items():
            folder, _, name = file.partition("/")
            found = sizes(folder).get(name)
            if found != entry["bytes"]:
                return f"{file} is missing" if found is None else f"{file} has {found} of {entry['bytes']} bytes"
        return ""

    with ThreadPoolExecutor(READERS) as pool:
        for number, what in zip(numbers, pool.map(trouble, numbers), strict=True):
            if what:
                damaged[number] = what
    return set(numbers) - set(damaged), damaged
