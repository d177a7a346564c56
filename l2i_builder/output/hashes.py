"""Hashes of the stored images, one parquet file a shard: what the splits compare pictures by.

Made after a build from the tars, and kept under ``hashes/``, so that they are computed once. A file counts as long as
the shard's tars are those it was made from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.ledger import METADATA_KEY, read_ledger
from l2i_builder.output.manifest import ShardManifest, canonical, finished, read_manifest
from l2i_builder.output.shards import read_members
from l2i_builder.sample import Reason, Verdict
from l2i_builder.splits import Candidates, as_bytes

FOLDER = "hashes"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("audit", pa.bool_(), nullable=False),
        pa.field("file", pa.uint64(), nullable=False),  # 64 bits of the fetched file's SHA-256
        pa.field("image", pa.uint64(), nullable=False),  # 64 bits of the stored JPEG's BLAKE2b: same pixels, same bytes
        pa.field("pdq", pa.binary(32), nullable=False),
        pa.field("quality", pa.uint8(), nullable=False),  # of the PDQ hash, 0..100
    ]
)
TARS = ("shards", "audit")


def hash_images(out: str, told: Callable[[int, int], None], workers: int = 0) -> tuple[Candidates, dict[str, Any]]:
    """Return the samples of an output folder's finished shards, and facts on the audit slice.

    Hashes that an earlier call left are read, others are made and kept. workers: threads, 0 = one per CPU. The
    facts: "rows" of the audit slice, "with_image", and "without_image", reason -> rows.

    told: called with shards done and in all. Raises OutputError where a shard is damaged.
    """
    from l2i_builder.report.scan import ahead

    numbers, tables = sorted(finished(out)), []
    facts: dict[str, Any] = {"rows": 0, "with_image": 0, "without_image": {}}
    for done, (table, audited) in enumerate(
        ahead(lambda n: _shard(out, n), numbers, workers or os.cpu_count() or 1), 1
    ):
        tables.append(table)
        _count(facts, table, audited)
        told(done, len(numbers))
    facts["without_image"] = dict(sorted(facts["without_image"].items()))
    return _together(pa.concat_tables(tables) if tables else SCHEMA.empty_table()), facts


def _shard(out: str, number: int) -> tuple[pa.Table, pa.Table]:
    """Return the hashes of a shard, and the ledger lines of its audit slice (key, reason)."""
    manifest = read_manifest(out, number)
    url = storage.join(out, f"ledger/{manifest.name}.parquet")
    ledger = read_ledger(url, ["key", "sha256", "audit", "verdict", "reason"])
    audited = ledger.filter(ledger["audit"]).select(["key", "reason"])
    note = canonical({name: file["sha256"] for name, file in manifest.files.items() if name.partition("/")[0] in TARS})
    url = storage.join(out, FOLDER, f"{manifest.name}.parquet")
    stored = _stored(url, note)
    if stored is None:
        stored = _make(out, manifest, ledger).replace_schema_metadata({METADATA_KEY: note})
        sink = pa.BufferOutputStream()
        pq.write_table(stored, sink, compression="zstd")
        storage.write_bytes(url, sink.getvalue().to_pybytes())
    return stored.replace_schema_metadata(None), audited


def _stored(url: str, note: bytes) -> pa.Table | None:
    """Return the hashes that were made of these tars; None of others, or of a damaged file: they are made anew."""
    if not storage.exists(url):
        return None
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(url)), use_threads=False)
    except (pa.ArrowException, OSError):
        return None
    return table if (table.schema.metadata or {}).get(METADATA_KEY) == note and table.schema.equals(SCHEMA) else None


def _make(out: str, manifest: ShardManifest, ledger: pa.Table) -> pa.Table:
    """Hash the images of a shard's tars."""
    known = {line["key"]: line for line in ledger.filter(_stored_rows(ledger)).to_pylist()}
    lines = []
    for folder in TARS:
        name = f"{folder}/{manifest.name}.tar"
        if name not in manifest.files:
            continue
        for key, members in read_members(storage.join(out, name)):
            if key not in known:
                raise OutputError(f"{out}/{name} holds {key}, which the ledger has not. Run `l2i verify {out}`.")
            line = known[key]
            digest = line["sha256"][:16] or "0"
            facts = {"key": key, "kept": folder == "shards", "audit": line["audit"], "file": int(digest, 16)}
            lines.append(facts | hash_image(members.get("jpg", b""), f"{out}/{name}: {key}"))
    return pa.Table.from_pylist(lines, schema=SCHEMA)


def _stored_rows(ledger: pa.Table) -> pa.Array:
    """The lines that may have pixels; where two rows have one key, the kept one counts."""
    return pc.or_(pc.equal(ledger["verdict"], Verdict.KEPT.value), ledger["audit"])


def hash_image(jpeg: bytes, name: str) -> dict[str, Any]:
    """Return the hashes of a stored image, columns of ``SCHEMA``. Raises OutputError where it does not decode."""
    import cv2

    from l2i_builder.safety.pdq import pdq

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) if jpeg else None
    if image is None:
        raise OutputError(f"{name}: its image is missing or does not decode. Run `l2i verify --deep` on the folder.")
    found, quality = pdq(image)
    digest = int.from_bytes(hashlib.blake2b(jpeg, digest_size=8).digest())
    return {"image": digest, "pdq": bytes.fromhex(found), "quality": quality}


def _together(table: pa.Table) -> Candidates:
    """Return the samples by key, the kept one first where a key is there twice."""
    from l2i_builder.safety.pdq import MIN_QUALITY

    table = table.combine_chunks()
    columns = {name: table[name].to_numpy() for name in ("kept", "audit", "file", "image", "quality")}
    keys = as_bytes(table["key"].to_pylist())
    pdq = np.frombuffer(b"".join(table["pdq"].to_pylist()), np.uint8).reshape(-1, 32)
    order = np.lexsort((~columns["kept"], keys)) if len(keys) else np.zeros(0, np.int64)
    _, first = np.unique(keys[order], return_index=True)
    rows = order[first]
    content = np.stack([columns["file"], columns["image"]], axis=1).astype(np.uint64)
    flat = columns["quality"] < MIN_QUALITY
    kept, audit = columns["kept"].astype(bool), columns["audit"].astype(bool)
    return Candidates(keys[rows], kept[rows], audit[rows], content[rows], pdq[rows], flat[rows])


def _count(facts: dict[str, Any], table: pa.Table, audited: pa.Table) -> None:
    """Add up what of the audit slice has an image, and why the rest has none; a duplicate has that of another row."""
    has = pc.is_in(audited["key"], value_set=table["key"].combine_chunks())
    has = pc.and_(has, pc.not_equal(audited["reason"], Reason.DUPLICATE.value))
    facts["rows"] += len(audited)
    facts["with_image"] += pc.sum(has).as_py() or 0
    for reason in audited.filter(pc.invert(has))["reason"].to_pylist():
        facts["without_image"][reason] = facts["without_image"].get(reason, 0) + 1
