"""Files in the local file system, object stores and memory, through fsspec.

Every write is atomic: a reader sees the old file, the new one, or none. Errors come out as the class the caller
names (``error=``), with a sentence that says what to do next.
"""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from l2i_builder.errors import L2IError, OutputError

AT_ONCE = 512  # small files read together
BLOCK = 4 * 2**20  # bytes of a ranged read from an object store
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


def is_local(url: str) -> bool:
    """Whether the URL is a path of this machine's file system."""
    return "://" not in url or url.startswith(("file://", "local://"))


def join(base: str, *parts: str) -> str:
    """Join URL or path segments with single slashes."""
    for part in parts:
        base = base if base.endswith("/") or not base else base + "/"
        base += part.strip("/")
    return base


def exists(url: str, error: type[L2IError] = OutputError) -> bool:
    """Whether a file or folder is there."""
    with explained("look for", url, error):
        fs, path = filesystem(url)
        return bool(fs.exists(path))


def read_bytes(url: str, error: type[L2IError] = OutputError) -> bytes:
    """Return a file's content."""
    with explained("read", url, error):
        fs, path = filesystem(url)
        return bytes(fs.cat_file(path, **_in_one(url)))


def read_each(folder: str, names: Sequence[str], error: type[L2IError] = OutputError) -> Iterator[bytes | L2IError]:
    """Yield the content of each of a folder's files, or, as an ``error``, why it cannot be read.

    Much quicker than file by file where there are many: object stores are asked for ``AT_ONCE`` of them at a time.
    """
    fs, path = filesystem(folder)
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        with explained("read", folder, error):
            paths = [join(path, name) for name in some]
            contents = fs.cat_ranges(paths, None, None, on_error="return", **_in_one(folder))
        for name, content in zip(some, contents, strict=True):
            try:
                with explained("read", join(folder, name), error):
                    if isinstance(content, Exception):
                        raise content
                yield bytes(content)
            except error as problem:
                yield problem


def _in_one(url: str) -> dict[str, Any]:
    """Options with which a whole file is one request: s3fs asks for its size before, to read large ones in parts."""
    return {"max_concurrency": 1} if url.startswith(("s3://", "s3a://")) else {}


def write_bytes(url: str, data: bytes, error: type[L2IError] = OutputError) -> None:
    """Write a file atomically: a synced temporary and a rename locally, a single put in an object store."""
    if is_local(url):
        with create(url, error) as file:
            file.write(data)
        return
    with explained("write", url, error):
        fs, path = filesystem(url)
        fs.pipe_file(path, data)


@contextmanager
def create(url: str, error: type[L2IError] = OutputError) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes ``url`` when the block ends, and leaves nothing if it raises.

    Local files are written beside their destination and renamed; others are spooled to the temporary folder and
    uploaded. Errors of the block's own code pass through unchanged, except OSErrors.
    """
    with explained("write", url, error, (OSError,)):
        if is_local(url):
            destination = local_path(url)
            destination.parent.mkdir(parents=True, exist_ok=True)
            temporary = destination.with_name(f".{destination.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        else:
            handle, name = tempfile.mkstemp(prefix="l2i-")
            os.close(handle)
            temporary = Path(name)
        try:
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if is_local(url):
                temporary.replace(destination)
                _sync_folder(destination.parent)
            else:
                upload(temporary, url, error)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def upload(local: str | os.PathLike[str], url: str, error: type[L2IError] = OutputError) -> None:
    """Copy a local file to ``url`` atomically."""
    if not is_local(url):
        with explained("write", url, error):
            fs, path = filesystem(url)
            fs.put_file(str(local), path)
        return
    with create(url, error) as target, Path(local).open("rb") as source:
        while block := source.read(BLOCK):
            target.write(block)


def list_names(folder: str, suffix: str = "", error: type[L2IError] = OutputError) -> list[str]:
    """Return the sorted base names of a folder's files that end in ``suffix``; [] if it is absent. One listing."""
    return sorted(name for name in list_sizes(folder, error) if name.endswith(suffix))


def list_sizes(folder: str, error: type[L2IError] = OutputError) -> dict[str, int]:
    """Return base name -> bytes of a folder's files; {} if it is absent. One listing."""
    return {name: int(entry["size"] or 0) for name, entry in _list(folder, error).items()}


def list_times(folder: str, error: type[L2IError] = OutputError) -> dict[str, float]:
    """Return base name -> when a folder's files were last written, in seconds since the epoch (0 where the storage
    does not say); {} if it is absent. One listing."""
    return {name: _written(entry) for name, entry in _list(folder, error).items()}


def _list(folder: str, error: type[L2IError]) -> dict[str, dict[str, Any]]:
    with explained("list", folder, error):
        fs, path = filesystem(folder)
        try:
            entries = fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
    files = ((str(entry["name"]).rstrip("/").rpartition("/")[2], entry) for entry in entries if entry["type"] == "file")
    return {name: entry for name, entry in files if name}


def _written(entry: dict[str, Any]) -> float:
    """When a file was written; file systems have different names for it."""
    value = next((entry[key] for key in _TIMES if entry.get(key)), 0.0)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)


def open_read(url: str, error: type[L2IError] = OutputError, cache: str = "readahead") -> IO[bytes]:
    """Open a seekable binary file. ``cache`` is fsspec's: "readahead" for streaming, "none" for scattered reads."""
    with explained("read", url, error):
        fs, path = filesystem(url)
        return fs.open(path, "rb", block_size=BLOCK, cache_type=cache)


def delete(url: str, error: type[L2IError] = OutputError) -> None:
    """Remove a file; an absent one is fine."""
    with explained("delete", url, error):
        fs, path = filesystem(url)
        with suppress(FileNotFoundError):
            fs.rm_file(path)


def move(source: str, target: str, error: type[L2IError] = OutputError) -> None:
    """Move a file within one file system; the target is replaced atomically."""
    with explained("move", source, error):
        if is_local(source):
            destination = local_path(target)
            destination.parent.mkdir(parents=True, exist_ok=True)
            local_path(source).replace(destination)
            _sync_folder(destination.parent)
            return
        fs, path = filesystem(source)
        fs.cp_file(path, filesystem(target)[1])
        fs.rm_file(path)


def local_path(url: str) -> Path:
    """Return the absolute path of a local URL, ``~`` expanded."""
    return Path(url.removeprefix("file://").removeprefix("local://")).expanduser().absolute()


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it.

    Listings are never cached: other processes write the same folders. ``AWS_ENDPOINT_URL`` is passed on, so that
    a change of it is not hidden by fsspec's cache of file systems.
    """
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("s3://", "s3a://")):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options["endpoint_url"] = endpoint
    if is_local(url):
        url = str(local_path(url))
    fs, path = fsspec.core.url_to_fs(url, **options)
    return fs, path


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_FILE_SYSTEM_MODULES = (
    *("botocore", "aiobotocore", "s3fs", "fsspec", "gcsfs", "adlfs", "aiohttp", "google", "azure"),
    *("huggingface_hub", "httpx", "httpx2", "requests"),
)


@contextmanager
def explained(
    action: str,
    url: str,
    error: type[L2IError],
    kinds: tuple[type[Exception], ...] = (OSError, ImportError, ValueError),
) -> Iterator[None]:
    """Turn what a file system raises into ``error`` with advice; anything else passes through."""
    try:
        yield
    except L2IError:
        raise
    except Exception as problem:
        foreign = type(problem).__module__.partition(".")[0] in _FILE_SYSTEM_MODULES
        if not foreign and not isinstance(problem, kinds):
            raise
        raise error(f"cannot {action} {url}: {_reason(problem)}. {_advice(problem)}") from problem


def _reason(problem: Exception) -> str:
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return " ".join(str(text).split())[:300].rstrip(".")


def _advice(problem: Exception) -> str:
    if isinstance(problem, FileNotFoundError):
        return "Check the path."
    if isinstance(problem, (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)):
        return "Check the path and its permissions."
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space, then run again: finished shards are kept."
    if isinstance(problem, ImportError):
        return "Install the fsspec package of this kind of storage (for example gcsfs for gs://)."
    if isinstance(problem, ValueError):
        return "Use a local path, s3://, gs:// or another URL that fsspec knows."
    return "Check the address, the credentials (for s3://: AWS_* variables) and the network, then run again."
