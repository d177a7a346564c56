"""Rows, failures and kept rows per host, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NO_HOST = "(no host)"
MAX_HOST = 100  # characters kept of a host; real ones have at most 253, nearly all far fewer
_AUTHORITY = r"^(?:[^?#@]*@)?(?P<host>\[[^\]?#]*\]|[^?#:]+)"  # credentials, host; port, query or fragment follow
_SCHEMA = pa.schema([("host", pa.string()), ("rows", pa.int64()), ("failed", pa.int64()), ("kept", pa.int64())])
_SUMS = ("rows", "failed", "kept")


def hosts(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the lower-cased host of each URL, at most MAX_HOST characters of it; NO_HOST where there is none."""
    return _tidy(_authorities(urls))


def _authorities(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return what stands between the second and the third slash of "scheme://...", "" where there is no such thing."""
    parts = pc.split_pattern(urls, "/", max_splits=3)
    whole = pc.greater_equal(pc.list_value_length(parts), 3)
    if not pc.all(whole, min_count=0).as_py():
        parts = pc.split_pattern(pc.if_else(whole, urls, "://"), "/", max_splits=3)
    scheme = pc.and_(pc.equal(pc.list_element(parts, 1), ""), pc.ends_with(pc.list_element(parts, 0), ":"))
    return pc.if_else(scheme, pc.list_element(parts, 2), "")


def _tidy(authorities: pa.ChunkedArray) -> pa.ChunkedArray:
    host = pc.struct_field(pc.extract_regex(authorities, _AUTHORITY), "host")
    return pc.fill_null(pc.utf8_slice_codeunits(pc.utf8_lower(host), 0, MAX_HOST), NO_HOST)


@dataclass
class Domains:
    """Counts of the most frequent hosts.

    Bounded: past twice ``limit`` hosts only ``limit`` stay (lossy counting), and ``forgotten`` says how many rows a
    host that came back could be short of.
    """

    limit: int = 500_000
    tables: list[pa.Table] = field(default_factory=list)
    forgotten: int = 0

    def add(self, urls: pa.ChunkedArray, failed: np.ndarray, kept: np.ndarray) -> None:
        """Count rows. urls: string [n]; failed, kept: bool [n]."""
        flags = {"failed": failed.astype(np.int64), "kept": kept.astype(np.int64)}
        table = pa.table({"host": _authorities(urls), **flags})
        counted = table.group_by("host", use_threads=False).aggregate(
            [([], "count_all"), ("failed", "sum"), ("kept", "sum")]
        )
        # Tidied when grouped: regular expressions are slow, and hosts far fewer than rows.
        columns = [_tidy(counted["host"]), *(counted[name] for name in ("count_all", "failed_sum", "kept_sum"))]
        self._take([pa.table(columns, schema=_SCHEMA)])

    def merge(self, other: Domains) -> None:
        """Add what another one counted."""
        self.forgotten += other.forgotten
        self._take(other.tables)

    @property
    def table(self) -> pa.Table:
        """One row a host: host, rows, failed, kept."""
        if len(self.tables) != 1:
            together = pa.concat_tables([_SCHEMA.empty_table(), *self.tables])
            summed = together.group_by("host", use_threads=False).aggregate([(name, "sum") for name in _SUMS])
            self.tables = [pa.table([summed["host"], *(summed[f"{name}_sum"] for name in _SUMS)], schema=_SCHEMA)]
        return self.tables[0]

    def top(self, column: str, most: int) -> list[dict[str, Any]]:
        """Return the hosts with the highest count of "rows", "failed" or "kept", as dicts of the table's columns."""
        some = self.table.filter(pc.greater(self.table[column], 0))
        order = [(column, "descending"), ("rows", "descending"), ("host", "ascending")]
        return (
            some.take(pc.select_k_unstable(some, k=min(most, len(some)), sort_keys=order)).to_pylist() if some else []
        )

    def _take(self, tables: list[pa.Table]) -> None:
        self.tables += tables
        if sum(map(len, self.tables)) <= 4 * self.limit:
            return
        table = self.table
        if len(table) > 2 * self.limit:
            order = pc.select_k_unstable(
                table, k=self.limit + 1, sort_keys=[("rows", "descending"), ("host", "ascending")]
            )
            self.forgotten += table["rows"][order[-1].as_py()].as_py()
            self.tables = [table.take(order[:-1])]
