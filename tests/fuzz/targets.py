"""What strangers' bytes are fed to, and what may come of it: a value or a typed refusal, never another exception."""

from __future__ import annotations

import asyncio
import io
import ssl
import zlib
from collections.abc import Callable

import numpy as np

from l2i_builder.config import Image as ImageConfig
from l2i_builder.decode.decoder import DecodeRefusal, decode
from l2i_builder.errors import MetadataError, OutputError
from l2i_builder.fetch.body import decode_body, looks_like_text
from l2i_builder.fetch.guard import Refusal, check_target, redact
from l2i_builder.fetch.http1 import Answer, Connection
from l2i_builder.fetch.optout import opt_out
from l2i_builder.fetch.robots_rules import Rules
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output.features import read_features
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import RunManifest, ShardManifest
from l2i_builder.output.shards import decode_triplet, read_members
from l2i_builder.output.tombstones import Takedowns

SMALL = ImageConfig(size=32, min_size=1, max_pixels=1_000_000)
MAX_BYTES = 100_000


class _Pipe(asyncio.Transport):
    """A transport whose other end is this test."""

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


async def _answer(raw: bytes, cuts: list[int]) -> Answer | type[Exception]:
    connection = Connection()
    connection.connection_made(_Pipe())
    asking = asyncio.ensure_future(connection.request(b"GET", lambda answer: answer.status == 200, MAX_BYTES))
    await asyncio.sleep(0)
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        if connection.transport is not None and end > start:
            connection.data_received(raw[start:end])
    if not asking.done():
        connection.connection_lost(None)
    try:
        return await asking
    except (Refusal, ssl.SSLError) as refusal:
        return type(refusal)


def http_answer(data: bytes) -> None:
    """An answer off the wire, as a whole and in pieces: the verdict may not depend on how it was cut."""
    draw = np.random.default_rng(zlib.crc32(data))
    cuts = sorted(int(cut) for cut in draw.integers(0, len(data) + 1, 5))

    async def both() -> tuple[Answer | type[Exception], ...]:
        return await _answer(data, []), await _answer(data, cuts)

    whole, pieces = asyncio.run(both())
    if isinstance(whole, Answer) and isinstance(pieces, Answer):
        assert (whole.status, whole.headers, whole.body) == (pieces.status, pieces.headers, pieces.body)
        assert len(whole.body) <= MAX_BYTES
        opt_out(whole.headers, "fuzz")
        try:
            body = decode_body(whole.body, whole.headers.get("content-encoding", ""), MAX_BYTES)
        except Refusal:
            return
        looks_like_text(body)
        image(body)
    else:
        assert whole == pieces, f"{whole} as a whole, {pieces} in pieces"


def image(data: bytes) -> None:
    """A body that claims to be an image."""
    try:
        decoded = decode(data, SMALL)
    except DecodeRefusal:
        return
    assert decoded.image.shape == (32, 32, 3)
    assert decoded.image.dtype == np.uint8


def url(data: bytes) -> None:
    """A URL of the metadata."""
    text = data.decode("utf-8", "surrogateescape")
    redact(text)
    try:
        target = check_target(text)
    except Refusal:
        return
    again = check_target(str(target))
    assert str(again) == str(target)


def tar(data: bytes) -> None:
    """A shard, and the triplets in it."""
    try:
        for key, members in read_members("fuzz.tar", io.BytesIO(data)):
            decode_triplet(key, members, "fuzz.tar")
    except OutputError:
        return


def parquet(data: bytes) -> None:
    """A ledger, or a file of features."""
    import fsspec

    fsspec.filesystem("memory").pipe_file("/fuzz.parquet", data)
    for read in (read_ledger, read_features):
        try:
            read("memory://fuzz.parquet")
        except OutputError:
            continue


def manifest(data: bytes) -> None:
    """Manifests of a run, of a shard, the input plan, and the log of takedowns."""
    for read in (RunManifest.from_json, ShardManifest.from_json, InputPlan.from_json, Takedowns.from_jsonl):
        try:
            read(data)
        except (OutputError, MetadataError):
            continue


def robots(data: bytes) -> None:
    """A robots.txt; its last line is the path that is asked for."""
    text, _, path = data.decode("utf-8-sig", "replace").rpartition("\n")
    found = Rules(text, "l2i-builder")
    assert found.allow(f"/{path}") in (True, False)
    assert 0 <= found.delay < 10**6


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (http_answer, image, url, robots, tar, parquet, manifest)
}
