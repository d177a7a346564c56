"""Where judgements are kept: a SQLite file to which rows are only ever added."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.judgements import LABELS, Judgement, check, from_table, to_table

_COLUMNS = tuple(LABELS.names)
_CREATE = """
CREATE TABLE IF NOT EXISTS judgements (
  id TEXT NOT NULL UNIQUE, time INTEGER NOT NULL, run TEXT NOT NULL, shard INTEGER NOT NULL, key TEXT NOT NULL,
  reviewer TEXT NOT NULL, queue TEXT NOT NULL, mask TEXT NOT NULL, inpainting TEXT NOT NULL, criteria TEXT NOT NULL,
  skipped INTEGER NOT NULL, undoes TEXT NOT NULL, mask_score REAL NOT NULL, inpainting_score REAL NOT NULL,
  mask_head TEXT NOT NULL, inpainting_head TEXT NOT NULL, weight REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_reviewer ON judgements (reviewer, time);
CREATE TRIGGER IF NOT EXISTS never_updated BEFORE UPDATE ON judgements
  BEGIN SELECT RAISE(ABORT, 'judgements are never changed'); END;
CREATE TRIGGER IF NOT EXISTS never_deleted BEFORE DELETE ON judgements
  BEGIN SELECT RAISE(ABORT, 'judgements are never deleted'); END;
"""


class LabelStore:
    """Judgements in a SQLite file (WAL): several threads and processes may write at once, none can change a row.

    Raises OutputError where the file cannot be opened or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = storage.local_path(str(path))
        self._lock = threading.Lock()
        with _explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=30, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_CREATE)

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was added is on disk already."""
        self._connection.close()

    def add(self, judgement: Judgement) -> Judgement:
        """Add a judgement and return it as stored, with its time. One whose id is there already is not added again.

        Times of one reviewer strictly increase, so that "the last word" is never a tie. Raises ValueError on a
        judgement that ``check`` refuses.
        """
        check(judgement)
        with self._transaction():
            return self._add(judgement)

    def undo(self, reviewer: str, run: str = "", id: str = "") -> Judgement | None:
        """Take back the reviewer's last judgement or skip that still stands (of ``run``, if given); return it.

        None where there is nothing to take back. Asking twice with the same ``id`` takes back one.
        """
        with self._transaction():
            known = self._rows("WHERE id = ?", (id,)) if id else []
            if known:
                return next(iter(self._rows("WHERE id = ?", (known[0].undoes,))), None)
            standing = self._rows(
                "WHERE reviewer = ? AND undoes = '' AND (? = '' OR run = ?) AND queue != 'import' "
                "AND id NOT IN (SELECT undoes FROM judgements WHERE reviewer = ?) "
                "ORDER BY time DESC, rowid DESC LIMIT 1",
                (reviewer, run, run, reviewer),
            )
            if not standing:
                return None
            last = standing[0]
            self._add(
                Judgement(
                    key=last.key,
                    reviewer=reviewer,
                    undoes=last.id,
                    queue=last.queue,
                    run=last.run,
                    shard=last.shard,
                    id=id or uuid.uuid4().hex,
                )
            )
            return last

    def since(self, position: int) -> tuple[list[Judgement], int]:
        """Return the judgements added after ``position`` (0 = all), in order, and the position to ask with next."""
        with self._lock, _explained(self.path):
            found = self._connection.execute(
                f"SELECT rowid, {', '.join(_COLUMNS)} FROM judgements WHERE rowid > ? ORDER BY rowid", (position,)
            ).fetchall()
        return [_judgement(row[1:]) for row in found], found[-1][0] if found else position

    def table(self) -> pa.Table:
        """Return all rows, also undone ones, as a ``LABELS`` table ordered by time."""
        return to_table(self.since(0)[0])

    def import_(self, table: pa.Table) -> int:
        """Add the rows of a table (see ``from_table``) whose ids are not here yet; return how many.

        Raises ValueError naming a row that is wrong; nothing is added then.
        """
        judgements = from_table(table)
        with self._transaction():
            before = self._connection.total_changes
            for judgement in judgements:
                self._insert(judgement)
            return self._connection.total_changes - before

    def _add(self, judgement: Judgement) -> Judgement:
        known = self._rows("WHERE id = ?", (judgement.id,))
        if known:
            return known[0]
        (last,) = self._connection.execute(
            "SELECT max(time) FROM judgements WHERE reviewer = ?", (judgement.reviewer,)
        ).fetchone()
        judgement = replace(judgement, time=max(int(time.time() * 1000), (last or 0) + 1))
        self._insert(judgement)
        return judgement

    def _insert(self, judgement: Judgement) -> None:
        row = asdict(judgement) | {"criteria": ",".join(judgement.criteria)}
        marks = ", ".join("?" * len(_COLUMNS))
        self._connection.execute(
            f"INSERT OR IGNORE INTO judgements ({', '.join(_COLUMNS)}) VALUES ({marks})", [row[c] for c in _COLUMNS]
        )

    def _rows(self, where: str, values: tuple[Any, ...]) -> list[Judgement]:
        found = self._connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM judgements {where}", values)
        return [_judgement(row) for row in found.fetchall()]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One writer at a time, also between processes; rolled back where the block raises."""
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def read_store(path: Path) -> pa.Table:
    """Return all rows of a label file as a ``LABELS`` table, without writing anything. Raises OutputError."""
    query = f"SELECT {', '.join(_COLUMNS)} FROM judgements ORDER BY rowid"
    with _explained(path):
        try:
            rows = _read(path, "mode=ro", query)
        except sqlite3.OperationalError:  # WAL wants to write beside the file, which a read-only folder forbids
            rows = _read(path, "mode=ro&immutable=1", query)
    return to_table(map(_judgement, rows))


def _read(path: Path, options: str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?{options}", uri=True, timeout=30)) as connection:
        return connection.execute(query).fetchall()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into OutputError with advice."""
    try:
        yield
    except (sqlite3.Error, OSError) as problem:
        raise OutputError(
            f"the labels {path} cannot be used: {problem}. Check the path, its permissions and the free space, or give "
            "another file with --labels; a damaged one can be replaced with `l2i labels import`."
        ) from problem


def _judgement(row: Iterable[Any]) -> Judgement:
    value = dict(zip(_COLUMNS, row, strict=True))
    value["criteria"] = tuple(name for name in value["criteria"].split(",") if name)
    value["skipped"] = bool(value["skipped"])
    return Judgement(**value)
