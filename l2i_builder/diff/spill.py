"""Rows dealt into parts by a hash, in files where there are many: what belongs together is compared part by part."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

PART_ROWS = 1_000_000  # rows of a part, about: some 300 MB of both sides while they are compared


class Spill:
    """Tables dealt by a column into ``parts``; of one part they stay in memory, else they go to ``folder``."""

    def __init__(self, folder: Path, name: str, column: str, parts: int) -> None:
        self.column, self.parts = column, parts
        self.held: list[pa.Table] = []
        self.files = [folder / f"{name}-{part}.arrow" for part in range(parts)] if parts > 1 else []
        self.writers: dict[int, pa.RecordBatchStreamWriter] = {}

    def add(self, table: pa.Table) -> None:
        if self.parts == 1:
            self.held.append(table)
            return
        hashes = np.array([zlib.crc32(value.encode()) for value in table[self.column].to_pylist()], np.int64)
        for part in np.unique(hashes % self.parts).tolist():
            if part not in self.writers:
                self.writers[part] = pa.ipc.new_stream(str(self.files[part]), table.schema)
            self.writers[part].write_table(table.filter(pa.array(hashes % self.parts == part)))

    def close(self) -> None:
        """End writing."""
        for writer in self.writers.values():
            writer.close()

    def part(self, number: int, schema: pa.Schema) -> pa.Table:
        """Return the rows of a part."""
        if self.parts == 1:
            return pa.concat_tables(self.held) if self.held else schema.empty_table()
        if number not in self.writers:
            return schema.empty_table()
        with pa.ipc.open_stream(str(self.files[number])) as reader:
            return reader.read_all()


def parts_for(rows: int) -> int:
    """Return into how many parts so many rows are dealt."""
    return max(1, -(-rows // PART_ROWS))
