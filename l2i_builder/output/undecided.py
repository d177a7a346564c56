"""``undecided.parquet``: rows that new thresholds would keep, but whose background or pixels were never stored."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import finished, shard_name, whole_manifests
from l2i_builder.sample import Reason

FILE = "undecided.parquet"
NOT_INPAINTED = "never inpainted"
NOT_STORED = "pixels not stored"
_COLUMNS = ("key", "shard", "index", "url", "mask_score", "inpainting_score", "detail")
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int64() if name in ("shard", "index") else pa.string()) for name in _COLUMNS[:4]),
        *(pa.field(name, pa.float64()) for name in _COLUMNS[4:6]),
        pa.field("missing", pa.string()),
    ]
)


def write_undecided(out: str) -> int:
    """Write the list of undecided rows over all finished shards, or delete it where there are none; return how many.

    Columns: key, shard, index, url, mask_score, inpainting_score (-1: not scored), missing (``NOT_INPAINTED`` or
    ``NOT_STORED``). One shard's ledger is in memory at a time.
    """
    url = storage.join(out, FILE)
    shards = list(_concerned(out))
    if not shards:
        storage.delete(url)
        return 0
    count = 0
    with storage.create(url) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for table in (undecided_of(out, number) for number in shards):
            writer.write_table(table)
            count += len(table)
    return count


def read_undecided(url: str) -> pa.Table:
    """Read such a list, an empty table where there is none. Raises OutputError where it is damaged."""
    if not storage.exists(url):
        return SCHEMA.empty_table()
    with storage.open_read(url, cache="none") as file:
        try:
            return pq.read_table(file, use_threads=False).cast(SCHEMA).replace_schema_metadata(None)
        except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
            raise OutputError(
                f"{url} cannot be read: {' '.join(str(problem).split())[:200]}. Write it anew."
            ) from problem


def undecided_of(out: str, number: int) -> pa.Table:
    """Return a shard's undecided rows, in ``SCHEMA``."""
    ledger = read_ledger(storage.join(out, f"ledger/{shard_name(number)}.parquet"), [*_COLUMNS, "reason"])
    rows = ledger.filter(pc.equal(ledger["reason"], Reason.UNDECIDED.value)).select(_COLUMNS)
    return rows.rename_columns(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(None)


def _concerned(out: str) -> Iterator[int]:
    for manifest in whole_manifests(out, sorted(finished(out))):
        if Reason.UNDECIDED.value in manifest.reasons:
            yield manifest.shard
