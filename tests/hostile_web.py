"""A small web on loopback that does what the real one does to crawlers. Every answer is written by hand, byte by
byte, so that it can be wrong in any way.

    with HostileWeb() as web:
        config = Fetch(connect_to=web.connect_to)
        ... fetch web.url("/slow-body") ...

``PAGES`` lists what it serves; ``HostileWeb({"/mine": answer(b"...")})`` adds to it.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

HOST = "web.test"


def _jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = _jpeg()  # a real photograph as far as a decoder can tell, about 5 KB
HTML = b"<!DOCTYPE html>\n<html><body>This image is no longer available</body></html>"


@dataclass
class Visit:
    """One request: its head as received, and the connection to answer on."""

    path: str
    head: bytes
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


Act = Callable[[Visit], Awaitable[None]]  # answers as it likes; the connection is closed after it
Page = bytes | Act  # bytes: a whole answer, after which the connection is kept


def answer(body: bytes = JPEG, status: int = 200, *headers: str, length: int | None = None) -> bytes:
    """Return a whole answer. length: what Content-Length says; the truth by default, negative = nothing."""
    lines = [f"HTTP/1.1 {status} Whatever", *headers]
    if not any(header.lower().startswith("content-type:") for header in headers):
        lines.append("Content-Type: image/jpeg")
    if length is None or length >= 0:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(body: bytes, *headers: str) -> bytes:
    """Return an answer in chunks, without its last one."""
    head = answer(b"", 200, "Transfer-Encoding: chunked", *headers, length=-1)
    return head + b"%x\r\n" % len(body) + body + b"\r\n"


def redirect(location: str, status: int = 302) -> bytes:
    return answer(b"", status, f"Location: {location}")


def then_close(raw: bytes) -> Act:
    """Write so much, and hang up."""

    async def act(visit: Visit) -> None:
        visit.writer.write(raw)
        await visit.writer.drain()

    return act


def then_reset(raw: bytes) -> Act:
    """Write so much, and reset the connection."""

    async def act(visit: Visit) -> None:
        visit.writer.write(raw)
        await visit.writer.drain()
        await asyncio.sleep(0.05)  # a reset overtakes what is not yet read
        sock = visit.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return act


def drip(raw: bytes, piece: bytes = b"x", every: float = 0.05) -> Act:
    """Write ``raw``, then ``piece`` again and again until the client hangs up. every: seconds."""

    async def act(visit: Visit) -> None:
        visit.writer.write(raw)
        while not visit.writer.is_closing():
            visit.writer.write(piece)
            await visit.writer.drain()
            await asyncio.sleep(every)

    return act


def in_pieces(*raws: bytes) -> Act:
    """Write piece by piece, so that each is read by itself, and wait for the client to hang up."""

    async def act(visit: Visit) -> None:
        for raw in raws:
            visit.writer.write(raw)
            await visit.writer.drain()
            await asyncio.sleep(0.05)
        await visit.reader.read()

    return act


async def silent(visit: Visit) -> None:
    """Take the request and say nothing until the client hangs up."""
    await visit.reader.read()


def in_turn(*pages: Page) -> Act:
    """Answer the first request with the first page, and so on; the last one again and again."""
    left = list(pages)

    async def act(visit: Visit) -> None:
        page = left.pop(0) if len(left) > 1 else left[0]
        await (then_close(page) if isinstance(page, bytes) else page)(visit)

    return act


async def _chain(visit: Visit) -> None:
    """/chain/3 leads to /chain/2, and so on to an image."""
    left = int(visit.path.rpartition("/")[2])
    await then_close(redirect(f"/chain/{left - 1}") if left else answer())(visit)


_GZIPPED = gzip.compress(JPEG, mtime=0)
_GZIP = "Content-Encoding: gzip"
_RAW_DEFLATE = zlib.compressobj(wbits=-15)

PAGES: dict[str, Page] = {
    # as it should be
    "/ok.jpg": answer(),
    "/chunked": chunked(JPEG) + b"0\r\n\r\n",
    "/until-close": then_close(answer(length=-1)),
    "/gzip": answer(_GZIPPED, 200, _GZIP),
    "/deflate": answer(zlib.compress(JPEG), 200, "Content-Encoding: deflate"),
    "/raw-deflate": answer(_RAW_DEFLATE.compress(JPEG) + _RAW_DEFLATE.flush(), 200, "Content-Encoding: deflate"),
    "/identity": answer(JPEG, 200, "Content-Encoding: identity"),
    "/wrong-type": answer(JPEG, 200, "Content-Type: text/html"),
    "/early-hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(),
    "/long-header": answer(JPEG, 200, "Content-Security-Policy: " + "x" * 20_000),
    "/cookie": answer(JPEG, 200, "Set-Cookie: id=1; Path=/"),
    # statuses
    "/404": answer(HTML, 404, "Content-Type: text/html"),
    "/410": answer(b"", 410),
    "/403": answer(HTML, 403),
    "/429": answer(b"", 429),
    "/500": answer(HTML, 500),
    "/503": answer(b"", 503),
    "/999": answer(b"", 999),
    "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/206": answer(JPEG, 206, f"Content-Range: bytes 0-{len(JPEG) - 1}/99999"),
    "/304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "/101": answer(b"", 101, "Connection: upgrade", "Upgrade: websocket"),
    # slowness
    "/silent": silent,
    "/slow-headers": drip(b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "/slow-body": drip(answer(b"", length=50_000)),
    "/slow-chunks": drip(chunked(b"x"), b"1\r\nx\r\n"),
    "/endless-hints": drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.5),
    # sizes
    "/endless": drip(answer(b"", length=-1), b"x" * 65536, 0),
    "/endless-chunks": drip(chunked(b"x"), b"10000\r\n" + b"x" * 65536 + b"\r\n", 0),
    "/announced-huge": drip(answer(b"", length=10**12)),
    "/huge-headers": drip(b"HTTP/1.1 200 OK\r\nX-Huge: ", b"x" * 65536, 0),
    "/many-headers": drip(b"HTTP/1.1 200 OK\r\n", b"X-Many: x\r\n" * 1000, 0),
    "/gzip-bomb": answer(gzip.compress(bytes(20_000_000), mtime=0), 200, _GZIP),
    "/gzip-bomb-chunked": chunked(gzip.compress(bytes(20_000_000), mtime=0), _GZIP) + b"0\r\n\r\n",
    "/deflate-bomb": answer(zlib.compress(bytes(20_000_000)), 200, "Content-Encoding: deflate"),
    "/empty": answer(b""),
    "/empty-gzip": answer(gzip.compress(b"", mtime=0), 200, _GZIP),
    # broken off
    "/cut": then_close(answer(JPEG[:2000], length=len(JPEG))),
    "/cut-chunks": then_close(chunked(JPEG)),
    "/cut-headers": then_close(b"HTTP/1.1 200 OK\r\nContent-Type: image/jp"),
    "/closed": then_close(b""),
    "/reset": then_reset(b""),
    "/reset-body": then_reset(answer(JPEG[:2000], length=len(JPEG))),
    # encodings
    "/corrupt-gzip": answer(_GZIPPED[:500] + b"\xaa" * 100 + _GZIPPED[600:], 200, _GZIP),
    "/not-gzip": answer(JPEG, 200, _GZIP),
    "/cut-gzip": answer(_GZIPPED[:-20], 200, _GZIP),
    "/gzip-and-more": answer(_GZIPPED + b"more", 200, _GZIP),
    "/gzip-twice": answer(gzip.compress(_GZIPPED), 200, "Content-Encoding: gzip, gzip"),
    "/brotli": answer(JPEG, 200, "Content-Encoding: br"),
    # not HTTP
    "/not-http": then_close(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "/shoutcast": then_close(b"ICY 200 OK\r\n\r\n" + JPEG),
    "/bad-length": answer(JPEG, 200, "Content-Length: -5", length=-1),
    "/two-lengths": answer(JPEG, 200, "Content-Length: 5"),
    "/bad-chunk": answer(b"", 200, "Transfer-Encoding: chunked", length=-1) + b"zz\r\nabc\r\n",
    "/bad-second-chunk": in_pieces(chunked(b"abc"), b"zz\r\nabc\r\n"),
    "/nul-header": answer(JPEG, 200, "X-Nul: a\0b"),
    # not an image
    "/html": answer(HTML, 200, "Content-Type: text/html"),
    "/html-as-jpeg": answer(HTML),
    "/html-latin1": answer("<p>Bild gelöscht</p>".encode("latin-1")),
    "/json": answer(b'{"error": "gone"}', 200, "Content-Type: application/json"),
    "/text": answer(b"Not found\n", 200, "Content-Type: text/plain"),
    # redirects
    "/moved": redirect("/ok.jpg", 301),
    "/loop": redirect("/loop"),
    "/ping": redirect("/pong"),
    "/pong": redirect("/ping", 307),
    "/nowhere": answer(b"", 302),
    "/to-file": redirect("file:///etc/passwd"),
    "/to-credentials": redirect(f"http://user:secret@{HOST}/ok.jpg"),
    "/to-loopback": redirect("http://127.0.0.1/ok.jpg"),
    "/to-metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "/to-mapped": redirect("http://[::ffff:169.254.169.254]/"),
    "/to-decimal": redirect("http://2130706433/"),
    "/to-private-name": redirect("http://intranet.test/"),
    "/to-nonsense": redirect("http://[/"),
    "/to-long": redirect("/" + "x" * 10_000),
    "/to-umlaut": redirect("/b\xfccher.jpg"),  # latin-1 on the wire
    "/b%C3%BCcher.jpg": answer(),
    # opt-outs
    "/noai": answer(JPEG, 200, "X-Robots-Tag: noai, noimageai"),
    "/noai-others": answer(JPEG, 200, "X-Robots-Tag: otherbot: noai, noindex"),
    "/noai-us": answer(JPEG, 200, "X-Robots-Tag: otherbot: noarchive, l2i-builder: noimageai"),
    "/content-usage": answer(JPEG, 200, "Content-Usage: search=y, train-ai=n"),
}


class HostileWeb:
    """Serves ``PAGES`` and ``pages`` from a thread of its own, at ``http(s)://<any host>`` through connect_to.

    tls: the server's context. greeting: said to every new connection, which is then closed. Attributes: ``port``;
    ``visits``, the requests in order; ``visited``, an event that the first one sets; ``connections``, how many
    were opened, and ``open``, how many still are; ``most_at_once``, the largest number of requests being answered
    at the same time.
    """

    def __init__(
        self, pages: Mapping[str, Page] | None = None, tls: ssl.SSLContext | None = None, greeting: bytes = b""
    ) -> None:
        self.pages = {**PAGES, **(pages or {})}
        self.tls = tls
        self.greeting = greeting
        self.port = self.connections = self.open = self.most_at_once = 0
        self.visits: list[Visit] = []
        self.visited = threading.Event()
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    @property
    def connect_to(self) -> dict[str, str]:
        return {HOST: self.address}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str, host: str = HOST) -> str:
        return f"{'https' if self.tls else 'http'}://{host}{path}"

    def drained(self) -> bool:
        """Return whether all connections were closed, waiting for it a while."""
        for _ in range(500):
            if not self.open:
                return True
            time.sleep(0.01)
        return False

    def paths(self) -> list[str]:
        return [visit.path for visit in self.visits]

    def __enter__(self) -> HostileWeb:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self.tls, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        answering = asyncio.all_tasks() - {asyncio.current_task()}
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await asyncio.sleep(0.01)  # for the transports to close

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            writer.write(self.greeting)
            while not self.greeting and await self._request(reader, writer):
                pass
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client left
        except asyncio.CancelledError:  # the test is over
            writer.transport.abort()
        finally:
            self.open -= 1
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection is kept."""
        head = await reader.readuntil(b"\r\n\r\n")
        visit = Visit(head.split(b" ", 2)[1].decode("latin-1"), head, reader, writer)
        self.visits.append(visit)
        self.visited.set()
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            path = visit.path.partition("?")[0]
            page = self.pages.get(path, _chain if path.startswith("/chain/") else self.pages["/404"])
            await (then_close(page) if isinstance(page, bytes) else page)(visit)
        finally:
            self._now -= 1
        return isinstance(page, bytes) and visit.headers.get("connection", "") != "close"
