"""LAION-style metadata: which rows a run has (``plan``), and the rows of one input shard (``read_rows``).

Planning reads parquet footers only. Rows are packed in the order of file name and row, so the same metadata
give the same shards on every run; a row's key comes from its URL and caption alone.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import L2IError, MetadataError
from l2i_builder.ingest.columns import check_text, find_columns
from l2i_builder.ingest.growing import Growth, choice_name, read_choice
from l2i_builder.ingest.rows import RowMaker
from l2i_builder.output.manifest import canonical, pretty, shard_name
from l2i_builder.sample import Row

FOOTER_GUESS = 64 * 2**10  # bytes read from a file's end: most footers fit
READ_ROWS = 4096  # rows decoded at a time
READ_BUFFER = 2**22  # bytes of a column chunk in memory at a time
_MOST_SHARDS = 10**7  # of an input.json: a run over all of LAION has half a million


@dataclass(frozen=True)
class Span:
    """Rows ``start`` to ``stop`` (exclusive) of one parquet file."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class InputShard:
    """Consecutive input rows: one attempt, one atomic commit. columns: Row field -> column name.

    Of metadata that joined later only the new rows count; choice: file of the output folder that says which these
    are, "" where all are; first: place there of the first row of the spans.
    """

    number: int
    spans: tuple[Span, ...]
    columns: dict[str, str]
    rows: int
    choice: str = ""
    first: int = 0

    @property
    def name(self) -> str:
        return shard_name(self.number)


@dataclass
class InputPlan:
    """All input shards of a run; growths: of metadata that joined it later, in this order.

    files: name (relative to the metadata folder), path, rows, size in bytes, sha256 of the parquet footer.
    rows_per_shard: 0 = a shard per file.
    """

    columns: dict[str, str]
    files: list[dict[str, Any]]
    rows: int
    rows_per_shard: int
    growths: list[Growth] = field(default_factory=list)
    shards: list[InputShard] = field(init=False)

    def __post_init__(self) -> None:
        self.shards = _pack(self.files, self.columns, self.rows, self.rows_per_shard)
        for number, growth in enumerate(self.growths, 1):
            self.shards += _grown(growth, number, len(self.shards))

    @property
    def all_rows(self) -> int:
        """Input rows of the run, those that joined later included."""
        return self.rows + sum(growth.rows for growth in self.growths)

    @property
    def all_files(self) -> list[dict[str, Any]]:
        """Metadata files of the run, those that joined later included."""
        return [*self.files, *(file for growth in self.growths for file in growth.files)]

    @property
    def digest(self) -> str:
        """SHA-256 of what the input was at first: names, sizes, footers, columns and packing, wherever the files are.
        It does not change when a run grows."""
        return _digest(self.columns, self.files, self.rows, self.rows_per_shard)

    def to_json(self) -> bytes:
        """Return everything but the shards, which follow from it."""
        kept = {"columns": self.columns, "files": self.files, "rows": self.rows, "rows_per_shard": self.rows_per_shard}
        kept |= {"growths": [growth.to_json() for growth in self.growths]} if self.growths else {}
        return pretty(kept | {"shards": len(self.shards), "digest": self.digest})

    @classmethod
    def from_json(cls, data: bytes) -> InputPlan:
        """Raises MetadataError where the JSON is damaged."""
        try:
            raw = json.loads(data)
            columns, files = dict(raw["columns"]), list(raw["files"])
            rows, per_shard = int(raw["rows"]), int(raw["rows_per_shard"])
            if raw["digest"] != _digest(columns, files, rows, per_shard):  # before anything is made of the numbers
                raise ValueError("its digest does not match")
            if rows < 0 or per_shard < 0 or (per_shard and rows > per_shard * _MOST_SHARDS):
                raise ValueError(f"{rows} rows in shards of {per_shard} are no input")
            return cls(columns, files, rows, per_shard, [Growth.from_json(growth) for growth in raw.get("growths", [])])
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as problem:
            raise MetadataError(
                f"input.json is damaged ({type(problem).__name__}: {problem}). Run the build again: it is made anew."
            ) from problem


def _digest(columns: dict[str, str], files: list[dict[str, Any]], rows: int, per_shard: int) -> str:
    listed = [[file["name"], file["rows"], file["size"], file["footer"]] for file in files]
    return hashlib.sha256(canonical([columns, listed, rows, per_shard])).hexdigest()


def plan(config: Config) -> InputPlan:
    """Plan the input shards of a run from the footers of its parquet files.

    Rows are packed into shards of ``ingest.rows_per_shard``, which may span files; for source
    ``img2dataset_shards`` every shard is one tar with the parquet beside it.

    Raises MetadataError where there is no parquet or no row, a file cannot be read, or the URL or caption column
    is not found or holds no text.
    """
    found = _find_files(config.metadata)
    tars = config.source == "img2dataset_shards"
    if tars:
        _check_tars([path for _, path, _ in found])
    with ThreadPoolExecutor(1 if storage.is_local(config.metadata) else 16) as pool:
        footers = list(pool.map(lambda file: _read_footer(file[1], file[2]), found))
    columns: dict[str, str] = {}
    files: list[dict[str, Any]] = []
    for (name, path, size), (metadata, digest) in zip(found, footers, strict=True):
        schema = _arrow_schema(metadata, path)
        here = find_columns(schema.names, config.ingest.columns, path)
        check_text(schema, here, path)
        _merge(columns, here, path)
        files.append({"name": name, "path": path, "rows": metadata.num_rows, "size": size, "footer": digest})
    rows = sum(file["rows"] for file in files)
    if not rows:
        raise MetadataError(f"{config.metadata} holds {len(files)} parquet files but no rows. Check the path.")
    limit = config.ingest.limit
    return InputPlan(columns, files, min(rows, limit) if limit else rows, 0 if tars else config.ingest.rows_per_shard)


def read_rows(shard: InputShard, config: Config) -> list[Row]:
    """Read a shard's rows, metadata filters applied: refused rows have a reason and stage "ingest".

    Reads the named columns of the row groups concerned, a few thousand rows at a time.

    Raises MetadataError where a file is gone, damaged, or changed since it was planned.
    """
    make = RowMaker(shard.number, config)
    new, place = chosen(shard, config), 0
    rows: list[Row] = []
    for span in shard.spans:
        for batch in read_span(span, shard.columns):
            wanted = batch if new is None else batch.filter(pa.array(new[place : place + batch.num_rows]))
            place += batch.num_rows
            rows.extend(make(wanted, shard.columns, len(rows)))
    return rows


def chosen(shard: InputShard, config: Config) -> np.ndarray | None:
    """Return which of the rows of a shard's spans count, bool [n]; None where all do."""
    if not shard.choice:
        return None
    length = sum(span.stop - span.start for span in shard.spans)
    return read_choice(config.out, shard.choice, shard.first, shard.first + length)


def read_span(span: Span, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield record batches (at most READ_ROWS rows) of the span's rows."""
    try:
        with storage.open_read(span.path, MetadataError, cache="none") as raw:
            file = pq.ParquetFile(raw, buffer_size=READ_BUFFER, pre_buffer=False)
            if file.metadata.num_rows < span.stop:
                raise MetadataError(
                    f"{span.path} has {file.metadata.num_rows} rows, but had more when the run was planned. "
                    "Restore the file, or begin a new output folder."
                )
            names = [name for name in columns.values() if name in file.schema_arrow.names]
            groups, position = _groups(file.metadata, span)
            for batch in file.iter_batches(READ_ROWS, row_groups=groups, columns=names, use_threads=False):
                start, stop = max(span.start - position, 0), min(span.stop - position, batch.num_rows)
                if start < stop:
                    yield batch.slice(start, stop - start)
                position += batch.num_rows
                if position >= span.stop:
                    break
    except L2IError:
        raise
    except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
        raise _unreadable(span.path, problem) from problem


def _groups(metadata: pq.FileMetaData, span: Span) -> tuple[list[int], int]:
    """Return the row groups that hold the span's rows, and the number of the first row in them."""
    groups: list[int] = []
    first = position = 0
    for index in range(metadata.num_row_groups):
        size = metadata.row_group(index).num_rows
        if position < span.stop and position + size > span.start:
            if not groups:
                first = position
            groups.append(index)
        position += size
    return groups, first


def _find_files(metadata: str) -> list[tuple[str, str, int]]:
    """Return (name relative to the folder, URL, size) of the parquet files, sorted by name."""
    if not metadata:
        raise MetadataError("metadata is not set. Give a parquet file, a folder that holds some, or a glob.")
    with storage.explained("read", metadata, MetadataError):
        fs, path = storage.filesystem(metadata)
        if fs.isfile(path):
            found, base = {path: fs.info(path)}, posixpath.dirname(path)
        elif fs.isdir(path):
            found, base = fs.find(path, detail=True), path
            found = {key: entry for key, entry in found.items() if _is_parquet(posixpath.relpath(key, base))}
        else:
            found = fs.glob(path, detail=True) if any(sign in path for sign in "*?[") else {}
            found = {key: entry for key, entry in found.items() if entry["type"] == "file"}
            base = posixpath.commonpath([posixpath.dirname(key) for key in found]) if found else path
        local = storage.is_local(metadata)
        files = [
            (posixpath.relpath(key, base), key if local else fs.unstrip_protocol(key), int(entry["size"]))
            for key, entry in found.items()
        ]
    if not files:
        raise MetadataError(
            f"no parquet file found at {metadata}. Give a parquet file, a folder that holds some, or a glob such as "
            "'metadata/*.parquet'."
        )
    return sorted(files)


def _is_parquet(name: str) -> bool:
    """Whether a file of a metadata folder is input; names that begin with "." or "_" are other tools' business."""
    return name.endswith((".parquet", ".parq")) and not any(part.startswith((".", "_")) for part in name.split("/"))


def _check_tars(paths: list[str]) -> None:
    """img2dataset's parquet and tar stand beside each other, with one name."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = set(storage.list_names(folder, ".tar", MetadataError))
        if tar_of(name) not in folders[folder]:
            raise MetadataError(
                f"{path} has no {tar_of(name)} beside it. source img2dataset_shards reads the output folder of "
                "img2dataset with output_format webdataset; to fetch the URLs instead, set source: urls."
            )


def tar_of(path: str) -> str:
    """Return the path of the tar that belongs to one of img2dataset's parquet files."""
    return path.removesuffix(".parquet").removesuffix(".parq") + ".tar"


def _read_footer(path: str, size: int) -> tuple[pq.FileMetaData, str]:
    """Return a parquet file's metadata and its footer's sha256, reading only the end of the file."""
    try:
        with storage.explained("read", path, MetadataError):
            fs, inner = storage.filesystem(path)
            tail = fs.cat_file(inner, start=max(0, size - FOOTER_GUESS), end=size)
            if len(tail) < 12 or tail[-4:] != b"PAR1":
                raise MetadataError(f"{path} is no parquet file, or its end is missing. Fetch it again or remove it.")
            length = int.from_bytes(tail[-8:-4], "little") + 8
            if length > size:
                raise MetadataError(f"{path} is damaged: its footer is longer than the file. Fetch it again.")
            if length > len(tail):
                tail = fs.cat_file(inner, start=size - length, end=size)
        footer = tail[-length:]
        return pq.read_metadata(pa.BufferReader(b"PAR1" + footer)), hashlib.sha256(footer).hexdigest()
    except L2IError:
        raise
    except Exception as problem:  # pyarrow raises more than ArrowException on damaged files
        raise _unreadable(path, problem) from problem


def _arrow_schema(metadata: pq.FileMetaData, path: str) -> pa.Schema:
    try:
        return metadata.schema.to_arrow_schema()
    except Exception as problem:
        raise _unreadable(path, problem) from problem


def _merge(columns: dict[str, str], here: dict[str, str], path: str) -> None:
    """Add a file's columns to the plan's; a file may lack optional ones, but not call them otherwise."""
    for name, column in here.items():
        if columns.setdefault(name, column) != column:
            raise MetadataError(
                f"{path} calls the {name} column {column!r}, the files before it {columns[name]!r}. Run metadata of "
                "different shape into different output folders, or rename the columns."
            )


def _pack(files: list[dict[str, Any]], columns: dict[str, str], rows: int, per_shard: int) -> list[InputShard]:
    """Pack the first ``rows`` rows into shards of ``per_shard`` rows (0: a shard per file)."""
    shards: list[InputShard] = []
    spans: list[Span] = []
    room, left = per_shard, rows

    def close() -> None:
        nonlocal spans, room
        if spans:
            count = sum(span.stop - span.start for span in spans)
            shards.append(InputShard(len(shards), tuple(spans), columns, count))
        spans, room = [], per_shard

    for file in files:
        start, end = 0, min(file["rows"], left)
        left -= end
        while start < end:
            stop = min(end, start + room) if per_shard else end
            spans.append(Span(file["path"], start, stop))
            room, start = room - (stop - start), stop
            if not per_shard or not room:
                close()
    close()
    return shards


def _grown(growth: Growth, number: int, taken: int) -> Iterator[InputShard]:
    """Yield the shards of a growth; taken: shards before it."""
    for place, (start, stop, rows) in enumerate(growth.cuts):
        spans, begin = [], 0
        for file in growth.files:
            end = begin + file["rows"]
            if begin < stop and end > start:
                spans.append(Span(file["path"], max(start - begin, 0), min(stop, end) - begin))
            begin = end
        yield InputShard(taken + place, tuple(spans), growth.columns, rows, choice_name(number), start)


def _unreadable(path: str, problem: Exception) -> MetadataError:
    text = " ".join(str(problem).split())[:200] or type(problem).__name__
    return MetadataError(f"{path} cannot be read as parquet: {text}. Fetch it again, or remove it from the metadata.")
