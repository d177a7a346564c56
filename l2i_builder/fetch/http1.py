"""HTTP/1.1 (RFC 9112) as a fetcher needs it: a GET at a time on a connection, its answer read under a cap.

Fetching is mostly waiting; what is left is the cost of a request, and a general client's request objects,
cookies, streams and timers are most of it. Guard, digest and all, a fetch over this one takes about half the CPU
time of bare aiohttp (``benchmarks/fetch_throughput.py``), and what it says of a broken answer does not depend on
how the bytes were cut into packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from typing import cast

from l2i_builder.fetch.guard import Refusal
from l2i_builder.sample import Reason

_OVERHEAD = 64 * 1024  # bytes of chunk framing let pass, beside as much as the cap again
MAX_HEAD = 128 * 1024  # bytes of status line and headers, interim answers and trailers included
_MAX_HEADERS = 500
_MAX_HEADS = 32  # of interim answers, such as 103 Early Hints, and of the answer itself
_MAX_LINE = 16 * 1024  # bytes of a chunk's size and extensions, and of all trailers
_IDLE, _HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE = range(5)
_SIZE, _CRLF, _TRAILERS = 0, -1, -2  # what a chunked body goes on with where no chunk is open
_START = b"HTTP/1."
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) +([1-9][0-9]{2})(?:[ \t][^\r\n]*)?\r?\n")
_DIGITS = re.compile(r"[0-9]{1,18}")
_FRAMING = {
    _SIZE: re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n"),
    _CRLF: re.compile(rb"\r?\n"),
    _TRAILERS: re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n"),
}


class Answer:
    """An answer: ``status``; ``headers``, names in lower case, values in latin-1, those of repeated names on lines
    of their own; ``body`` as sent, without chunk framing, b"" where it was not wanted."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        self.body = b""


class Connection(asyncio.Protocol):
    """A connection to a server or proxy; one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answered = False  # the head of an answer to the last request has arrived
        self._state = _IDLE
        self._keep = False  # whether the server will take another request
        self._answer: asyncio.Future[Answer] | None = None
        self._head = Answer(0, {})
        self._pieces: list[bytes] = []

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self._keep and self._state == _IDLE and self.transport is not None and not self.transport.is_closing()

    async def request(
        self,
        raw: bytes,
        wanted: Callable[[Answer], bool],
        max_bytes: int,
        truncate: bool = False,
        tunnel: bool = False,
    ) -> Answer:
        """Send a request and return its answer.

        raw: the request, byte for byte. wanted: called with the head, tells whether to read the body. max_bytes:
        largest body, as sent; truncate: stop there instead of refusing. tunnel: the request is a CONNECT, whose
        success has no body. Raises Refusal: connect_error, body_truncated, body_too_large, bad_encoding;
        ssl.SSLError. Unless the answer was read to its end, the connection is closed, also when cancelled.
        """
        if self.transport is None:
            raise _no_answer()
        self._wanted, self._max_bytes, self._truncate, self._tunnel = wanted, max_bytes, truncate, tunnel
        self._state, self._keep, self.answered = _HEAD, False, False
        self._buffer, self._searched, self._head_left, self._heads_left = b"", 0, MAX_HEAD, _MAX_HEADS
        self._size = self._framing = 0
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(raw)
        try:
            return await self._answer
        finally:
            self._answer, self._wanted, self._head, self._pieces = None, _unwanted, Answer(0, {}), []  # let go
            if not self.reusable:
                self.close()

    def close(self) -> None:
        """Close at once, also TLS: nothing is left to lose, and some peers never say goodbye."""
        self._state = _IDLE
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            if self._state == _HEAD:
                self._read_head(data)
            elif self._state == _IDLE:
                self.close()  # nobody asked
            else:
                self._read_body(data)
        except Exception as error:
            self._fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._state == _UNTIL_CLOSE and error is None:
            self._finish(keep=False)
        elif isinstance(error, ssl.SSLError):
            self._fail(error)
        elif self._state == _HEAD:
            self._fail(_no_answer())
        else:
            self._fail(Refusal(Reason.BODY_TRUNCATED, "the body ends before its announced length", retry=0))

    def _read_head(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data.lstrip(b"\r\n")
        while self._heads_left:
            if not data.startswith(_START) and not _START.startswith(data):
                raise _not_http()
            found = _HEAD_END.search(data, self._searched)
            end = found.end() if found else len(data)
            if end > self._head_left:
                raise _not_http()
            if not found:
                self._buffer, self._searched = data, max(0, end - 3)
                return
            self._head, http_1_1 = _parse_head(data[:end])
            data, self._searched = data[end:], 0
            self._head_left -= end
            self._heads_left -= 1
            if self._head.status >= 200 or self._head.status == 101:
                self.answered, self._buffer = True, b""
                self._skip = not self._wanted(self._head)
                self._frame(self._head, http_1_1)
                self._begin_body(data)
                return
        raise _not_http()

    def _frame(self, answer: Answer, http_1_1: bool) -> None:
        """Tell how the body ends (RFC 9112, section 6.3), and whether the connection outlives it."""
        coding, length = answer.headers.get("transfer-encoding"), answer.headers.get("content-length")
        self._stays = http_1_1 and "close" not in answer.headers.get("connection", "").lower()
        self._state, self._left = _LENGTH, 0
        if answer.status in (204, 304) or (self._tunnel and answer.status < 300):
            pass  # no body, whatever the headers say
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise Refusal(Reason.BAD_ENCODING, "a Transfer-Encoding that was not offered")
            self._state, self._left, self._stays = _CHUNKED, _SIZE, self._stays and length is None
        elif length is not None:
            lengths = {part.strip() for part in re.split(r"[,\n]", length)}  # repeated ones may be joined
            text = lengths.pop()
            if lengths or not _DIGITS.fullmatch(text):
                raise _not_http()
            self._left = int(text)
        else:
            self._state, self._stays = _UNTIL_CLOSE, False

    def _begin_body(self, data: bytes) -> None:
        if self._skip:
            with contextlib.suppress(Refusal):
                self._read_body(data)  # a short body came with the head: then the connection is kept
            self._finish(keep=False)
        elif self._state == _LENGTH and self._left > self._max_bytes and not self._truncate:
            raise too_large(self._max_bytes)
        else:
            self._read_body(data)

    def _read_body(self, data: bytes) -> None:
        if self._state == _CHUNKED:
            self._read_chunks(self._buffer + data if self._buffer else data)
        elif self._state == _LENGTH:
            if len(data) > self._left:
                data, self._stays = data[: self._left], False  # more than was announced is nobody's
            self._left -= len(data)
            self._take(data)
            if not self._left:
                self._finish(self._stays)
        else:
            self._take(data)

    def _read_chunks(self, data: bytes) -> None:
        position = 0
        while self._state == _CHUNKED and position < len(data):
            if self._left > 0:
                piece = data[position : position + self._left]
                self._take(piece)
                self._left = (self._left - len(piece)) or _CRLF
                position += len(piece)
                continue
            found = _FRAMING[self._left].match(data, position)
            if not found:
                self._check_unfinished(data, position)
                break
            self._framing += found.end() - position
            if self._framing > self._max_bytes + _OVERHEAD and not self._skip:
                raise too_large(self._max_bytes)
            position = found.end()
            if self._left == _TRAILERS:
                self._finish(self._stays and position == len(data))
            elif self._left == _CRLF:
                self._left = _SIZE
            else:
                self._left = int(found[1], 16) or _TRAILERS
                if self._size + self._left > self._max_bytes and not (self._skip or self._truncate):
                    raise too_large(self._max_bytes)
        self._buffer = data[position:]

    def _check_unfinished(self, data: bytes, position: int) -> None:
        """Raise Refusal if the framing at ``position`` is wrong, rather than not yet all there."""
        left = data[position : position + _MAX_LINE]
        if self._left == _CRLF:
            wrong = left != b"\r"
        else:
            wrong = len(left) == _MAX_LINE or (self._left == _SIZE and b"\n" in left)
        if wrong:
            raise Refusal(Reason.BAD_ENCODING, "the chunks of the body are malformed")

    def _take(self, data: bytes) -> None:
        if self._skip:
            return
        self._size += len(data)
        self._pieces.append(data)
        if self._size > self._max_bytes:
            if not self._truncate:
                raise too_large(self._max_bytes)
            self._finish(keep=False)

    def _finish(self, keep: bool) -> None:
        if self._state == _IDLE:
            return
        self._state, self._keep = _IDLE, keep
        pieces = self._pieces
        self._head.body = (pieces[0] if len(pieces) == 1 else b"".join(pieces))[: self._max_bytes]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._head)

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _parse_head(head: bytes) -> tuple[Answer, bool]:
    """Return an answer's status and headers, and whether it is HTTP/1.1 or later. Raises Refusal: connect_error.

    Lenient where clients are: line ends without CR, lines without a colon and folded lines (both left out).
    """
    status = _STATUS.match(head)
    lines = head[status.end() :].decode("latin-1").split("\n") if status else []
    if status is None or b"\0" in head or len(lines) > _MAX_HEADERS:
        raise _not_http()
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and line[0] not in " \t":
            name, value = name.rstrip().lower(), value.strip()
            headers[name] = f"{headers[name]}\n{value}" if name in headers else value
    return Answer(int(status[2]), headers), status[1] == b"1"


def _unwanted(_: Answer) -> bool:
    return False


def too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a body that is larger than the cap."""
    return Refusal(Reason.BODY_TOO_LARGE, f"more than {max_bytes} bytes")


def _no_answer() -> Refusal:
    return Refusal(Reason.CONNECT_ERROR, "closed without an answer", retry=0)


def _not_http() -> Refusal:
    return Refusal(Reason.CONNECT_ERROR, "the answer is not HTTP", retry=0)
