"""img2dataset's output as a source: ``NNNNN.tar`` with the images, ``NNNNN.parquet`` with a line for every row."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.errors import L2IError, MetadataError
from l2i_builder.fetch.fetcher import Fetched
from l2i_builder.ingest.planning import InputShard, Span, chosen, tar_of
from l2i_builder.sample import UNKNOWN, Reason
from l2i_builder.source.source import Source
from l2i_builder.source.stream import Stream

_FACTS = ("key", "status", "error_message")
_IMAGE_SUFFIXES = ("jpg", "png", "webp", "jpeg")  # img2dataset's encode_format, and a spelling of other tools
_DONE = "success"
_HTTP_ERROR = re.compile(r"HTTP Error (\d{3})\b")

# What img2dataset 1.47 writes as error_message (its own words, urllib's, http.client's and the resolver's), in the
# order in which it is looked for.
_MESSAGES = (
    ("x-robots-tag", Reason.OPTED_OUT),
    ("hash mismatch", Reason.HASH_MISMATCH),
    ("infinite loop", Reason.TOO_MANY_REDIRECTS),
    ("timed out", Reason.TIMEOUT),
    ("name or service not known", Reason.DNS_ERROR),
    ("name resolution", Reason.DNS_ERROR),
    ("no address associated", Reason.DNS_ERROR),
    ("nodename nor servname", Reason.DNS_ERROR),
    ("getaddrinfo failed", Reason.DNS_ERROR),
    ("certificate", Reason.TLS_ERROR),
    ("ssl", Reason.TLS_ERROR),
    ("incompleteread", Reason.BODY_TRUNCATED),
    ("unknown url type", Reason.BAD_SCHEME),
    ("no host given", Reason.BAD_URL),
    ("nonnumeric port", Reason.BAD_URL),
    ("control characters", Reason.BAD_URL),
    ("codec can't encode", Reason.BAD_URL),
    ("invalid ipv6", Reason.BAD_URL),
    ("label empty or too long", Reason.BAD_URL),
    ("label too long", Reason.BAD_URL),
    ("refused", Reason.CONNECT_ERROR),
    ("reset by peer", Reason.CONNECT_ERROR),
    ("unreachable", Reason.CONNECT_ERROR),
    ("no route to host", Reason.CONNECT_ERROR),
    ("closed connection without response", Reason.CONNECT_ERROR),
    ("remote end closed", Reason.CONNECT_ERROR),
    ("badstatusline", Reason.CONNECT_ERROR),
    ("urlopen error", Reason.CONNECT_ERROR),
    # status failed_to_resize
    ("image too small", Reason.TOO_SMALL),
    ("image area too large", Reason.TOO_MANY_PIXELS),
    ("aspect ratio too large", Reason.BAD_ASPECT),
    ("image decoding error", Reason.DECODE_ERROR),
)


class ShardSource(Source):
    """Reads img2dataset's output folder (``output_format: webdataset``): a shard is one tar and its parquet.

    Members are read one by one and never extracted. Rows that img2dataset could not have keep its message as
    detail. The images are as it stored them, possibly resized: sizes and SHA-256 in the ledger are of these.
    """

    async def feed(self, stream: Stream, shard: InputShard) -> None:
        """Deliver the tar's members in row order."""
        wanted = {position for position, _ in stream.wanted()}
        new, line, start = chosen(shard, self.config), 0, 0
        for span in shard.spans:
            facts = await asyncio.to_thread(_read_facts, span)
            if new is not None:
                line, here = line + len(facts), new[line : line + len(facts)]
                facts = [fact for fact, is_new in zip(facts, here, strict=True) if is_new]
            with ExitStack() as stack:
                opening = open_members(tar_of(span.path), self.config.fetch.max_bytes)
                members = await asyncio.to_thread(stack.enter_context, opening)
                for position, (key, status, message) in enumerate(facts, start):
                    if position not in wanted:
                        continue
                    if status != _DONE:
                        stream.deliver(position, explain(status, message))
                        continue
                    await stream.room()
                    stream.deliver(position, await asyncio.to_thread(members.read, key))
            start += len(facts)


class Members:
    """The images of a tar by key. Reads forward, and back only where the keys come in another order."""

    def __init__(self, tar: tarfile.TarFile, name: str, max_bytes: int) -> None:
        self._tar, self._name, self._max_bytes = tar, name, max_bytes
        self._passed: dict[str, tarfile.TarInfo] = {}

    def read(self, key: str) -> Fetched:
        """Return the image, or a reason for its absence. Raises OSError where the storage gives out."""
        member = self._find(key)
        if member is None:
            return _missing(f"{self._name} ends without the image {key} that its parquet promises")
        if member.size > self._max_bytes:
            return Fetched(reason=Reason.BODY_TOO_LARGE, detail=f"{member.size} bytes, more than fetch.max_bytes")
        try:
            file = self._tar.extractfile(member)
            return received(file.read() if file else b"")
        except tarfile.ReadError:
            return _missing(f"{self._name} ends within the image {key}")

    def _find(self, key: str) -> tarfile.TarInfo | None:
        while key not in self._passed:
            try:
                member = self._tar.next()
            except tarfile.ReadError:  # cut short
                return None
            if member is None:
                return None
            stem, _, suffix = member.name.rpartition("/")[2].partition(".")
            if member.isreg() and suffix.lower() in _IMAGE_SUFFIXES:
                self._passed[stem] = member
        return self._passed[key]


@contextmanager
def open_members(url: str, max_bytes: int) -> Iterator[Members]:
    """Open a tar for reading images by key. Raises MetadataError where it is missing or no tar at all."""
    with storage.open_read(url, MetadataError) as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closed below
        except tarfile.ReadError as error:
            raise MetadataError(f"{url} is no tar ({error}). Fetch it again, or remove it and its parquet.") from error
        with tar:
            yield Members(tar, url.rpartition("/")[2], max_bytes)


def explain(status: str, message: str) -> Fetched:
    """Return img2dataset's failure as ours: the reason its message stands for, the message itself as detail."""
    detail = " ".join(re.sub(r"(nonnumeric port).*", r"\1", message).split())  # it may quote a password
    lower = message.lower()
    found = next((reason for words, reason in _MESSAGES if words in lower), None)
    http = _HTTP_ERROR.search(message)
    code = int(http[1]) if http else UNKNOWN
    if found is None and http:
        found = Reason.RATE_LIMITED if code == 429 else Reason.HTTP_5XX if code >= 500 else Reason.HTTP_4XX
    if found is None:
        found = Reason.DECODE_ERROR if status == "failed_to_resize" else Reason.STAGE_ERROR
    return Fetched(status=code, reason=found, detail=f"img2dataset: {status or 'no status'}: {detail}")


def received(data: bytes, expected_sha256: str = "") -> Fetched:
    """Return a body that came by another way than our fetcher, held to the same promises."""
    fetched = Fetched(data, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    if not data:
        fetched.reason, fetched.detail = Reason.EMPTY_BODY, "no bytes in the body"
    elif expected_sha256 and fetched.sha256 != expected_sha256:
        fetched.reason, fetched.detail = Reason.HASH_MISMATCH, "not the content that the metadata's digest names"
        fetched.data = b""
    return fetched


def _read_facts(span: Span) -> list[tuple[str, str, str]]:
    """Return (key, status, error message) of the span's rows. Raises MetadataError."""
    try:
        with storage.open_read(span.path, MetadataError, cache="none") as file:
            return _columns(file, span)
    except L2IError:
        raise
    except Exception as error:  # pyarrow raises more than ArrowException on damaged files
        raise MetadataError(f"{span.path} cannot be read as parquet: {error}. Fetch it again.") from error


def _columns(file: IO[bytes], span: Span) -> list[tuple[str, str, str]]:
    parquet = pq.ParquetFile(file)
    missing = [name for name in _FACTS if name not in parquet.schema_arrow.names]
    if missing:
        raise MetadataError(
            f"{span.path} has no column {missing[0]!r}: it was not written by img2dataset. "
            "For plain metadata set source: urls."
        )
    table = parquet.read(columns=list(_FACTS), use_threads=False).slice(span.start, span.stop - span.start)
    columns = ([str(value or "") for value in table[name].to_pylist()] for name in _FACTS)
    return list(zip(*columns, strict=True))


def _missing(detail: str) -> Fetched:
    return Fetched(reason=Reason.BODY_TRUNCATED, detail=detail)
