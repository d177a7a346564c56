"""``urllib.request.urlopen`` behind the address guard, with caps and deadlines: for img2dataset's downloader.

By itself it opens ``file:`` and ``data:`` URLs, connects anywhere, reads without bound, and its timeout starts
anew with every packet.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from l2i_builder.config import Fetch
from l2i_builder.fetch.guard import BlockedAddress, Guard, Refusal, check_url, is_public
from l2i_builder.fetch.optout import agent_token, opt_out
from l2i_builder.sample import UNKNOWN, Reason

_CHUNK = 65536
_TICK = 0.25  # seconds between two looks for overdue connections


@dataclass(slots=True)
class Answer:
    """What the last answer for a URL said."""

    status: int = UNKNOWN
    content_type: str = ""
    opt_out: str = ""


class GuardedOpener:
    """Opens URLs as ``urlopen`` does, for several threads at once, and raises Refusal where it will not.

    config: the ``fetch`` section; ``per_host``, ``connect_to``, ``max_bytes``, ``max_redirects``, ``max_url_bytes``,
    ``respect_opt_out``, ``timeout`` (total, for one attempt) and ``connect_timeout`` hold. deadline: seconds from now
    after which nothing is opened any more. ``answers``: URL -> Answer.
    """

    def __init__(self, config: Fetch, deadline: float, ssl_context: ssl.SSLContext | None = None) -> None:
        self.config = config
        self.answers: dict[str, Answer] = defaultdict(Answer)
        self.guard = Guard(config.connect_to, lookup=_no_lookup)
        self._agent = agent_token(config.user_agent)
        self._end = time.monotonic() + deadline
        self._final: dict[str, Refusal] = {}  # what another attempt would not change
        self._hosts: dict[str, threading.BoundedSemaphore] = {}
        self._open: dict[socket.socket, float] = {}  # -> when it must be done
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        context = ssl_context or ssl.create_default_context()
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(self),
            _Http(self, context),
        ):
            self._opener.add_handler(handler)
        self._reaper = threading.Thread(target=self._reap, name="deadlines", daemon=True)
        self._reaper.start()

    def urlopen(self, request: Request, timeout: float) -> Body:
        """Open a request. Raises Refusal, and OSError (URLError among them). ``timeout`` gives way to ours."""
        url = request.full_url
        if url in self._final:
            raise self._final[url]
        end = time.monotonic() + self.config.timeout
        try:
            target = check_url(url, self.config.max_url_bytes, self.guard.exempt)
            with self._turn(target.raw_host or ""), self._in_time(end):
                return self._read(url, self._opener.open(self.sent(target, end), timeout=self.config.timeout), end)
        except urllib.error.HTTPError as error:
            with error:
                refusal = _status_refusal(error.code)
                self.answers[url].status = error.code
        except http.client.IncompleteRead:
            refusal = Refusal(Reason.BODY_TRUNCATED, "the body ends before its announced length", retry=0)
        except http.client.RemoteDisconnected:
            refusal = Refusal(Reason.CONNECT_ERROR, "closed without an answer", retry=0)
        except http.client.HTTPException:
            refusal = Refusal(Reason.CONNECT_ERROR, "the answer is not HTTP", retry=0)
        except Refusal as raised:
            refusal = raised
        if refusal.retry is None:
            self._final[url] = refusal
        raise refusal

    def sent(self, target: URL, end: float, hops: int = 0) -> urllib.request.Request:
        """Return the request for a checked URL. end: when its answer must be complete; hops: redirects before it."""
        request: Any = urllib.request.Request(str(target), headers={"User-Agent": self.config.user_agent})
        request.end, request.hops = end, hops
        return request

    def cancel(self) -> None:
        """Break off whatever is under way, and refuse the rest."""
        self._end = 0.0

    def close(self) -> None:
        """Free what the opener holds; after its last call has returned."""
        self._stopped.set()
        self._reaper.join()

    def connect(self, host: str, port: int, end: float) -> socket.socket:
        """Return a socket to a checked address. Raises Refusal: dns_error, ssrf_blocked; OSError."""
        pin = self.guard.pinned(host, port)
        try:
            found = socket.getaddrinfo(*(pin or (host, port)), type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise Refusal(Reason.DNS_ERROR, "no such host", 0 if error.errno == socket.EAI_AGAIN else None) from None
        if not pin and not all(is_public(str(info[4][0])) for info in found):
            raise Refusal(Reason.SSRF_BLOCKED, "the host resolves to an address that is not public")
        problem: OSError = OSError("no address")
        for info in found:
            try:
                connection = self.guard.open_socket(info)
                self._open[connection] = end
                connection.settimeout(max(0.01, min(self.config.connect_timeout, end - time.monotonic())))
                connection.connect(info[4])
                connection.settimeout(self.config.timeout)
                return connection
            except BlockedAddress as error:
                raise Refusal(Reason.SSRF_BLOCKED, str(error)) from None
            except OSError as error:
                problem = error
        raise problem

    def secure(self, raw: socket.socket, context: ssl.SSLContext, host: str, end: float) -> ssl.SSLSocket:
        """Return the socket with TLS on it, its handshake under the deadline too."""
        secured = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
        self._open[secured] = end
        secured.do_handshake()
        return secured

    def _read(self, url: str, response: Any, end: float) -> Body:
        headers = CIMultiDictProxy(CIMultiDict(response.headers.items()))
        answer = self.answers[url]
        answer.status = response.status
        answer.content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()[:100]
        answer.opt_out = opt_out(headers, self._agent)
        with response:
            if answer.opt_out and self.config.respect_opt_out:
                raise Refusal(Reason.OPTED_OUT, answer.opt_out)
            if response.status == 206:
                raise Refusal(Reason.BODY_TRUNCATED, "HTTP 206, a part of the body that was not asked for", retry=0)
            data = bytearray()
            while piece := response.read1(_CHUNK):
                data += piece
                if len(data) > self.config.max_bytes:
                    raise Refusal(Reason.BODY_TOO_LARGE, f"more than {self.config.max_bytes} bytes")
            if self._late(end):  # its socket was shut, which looks like an end
                raise TimeoutError
            if response.length:
                raise Refusal(Reason.BODY_TRUNCATED, "the body ends before its announced length", retry=0)
        return Body(bytes(data), response.headers)

    @contextlib.contextmanager
    def _turn(self, host: str) -> Iterator[None]:
        with self._lock:
            gate = self._hosts.setdefault(host, threading.BoundedSemaphore(self.config.per_host))
        with gate:
            yield

    @contextlib.contextmanager
    def _in_time(self, end: float) -> Iterator[None]:
        """Turn whatever a shut socket leads to into a timeout."""
        late = Refusal(Reason.TIMEOUT, "no complete answer in time", retry=0)
        if self._late(end):
            raise late
        try:
            yield
        except (OSError, http.client.HTTPException, Refusal) as error:
            if isinstance(error, TimeoutError) or self._late(end):
                raise late from error
            raise

    def _late(self, end: float) -> bool:
        return time.monotonic() >= min(end, self._end)

    def _reap(self) -> None:
        while not self._stopped.wait(_TICK):
            for connection, end in list(self._open.items()):
                if connection.fileno() < 0:
                    del self._open[connection]
                elif self._late(end):
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Request:
    """What img2dataset makes of a URL before it opens it. Its headers are not used: ours are."""

    full_url: str
    data: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Body:
    """A whole answer, in the shape of ``urlopen``'s: a context manager with ``headers`` and ``read``."""

    def __init__(self, data: bytes, headers: Any) -> None:
        self._data, self.headers = data, headers

    def read(self) -> bytes:
        return self._data

    def __enter__(self) -> Body:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._data = b""


class _Redirects(urllib.request.BaseHandler):
    """Follows redirects to where the guard lets it."""

    def __init__(self, opener: GuardedOpener) -> None:
        self._opener = opener

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        location, config = headers.get("Location"), self._opener.config
        if location is None:
            return None  # the next handler raises HTTPError
        if req.hops >= config.max_redirects:
            raise Refusal(Reason.TOO_MANY_REDIRECTS, f"more than {config.max_redirects} redirects")
        with contextlib.suppress(UnicodeError):  # http.client reads headers as Latin-1
            location = location.encode("latin-1").decode()
        try:
            url = urljoin(req.full_url, location.strip())
        except ValueError:
            raise Refusal(Reason.BAD_URL, "redirect to something that is not a URL") from None
        target = check_url(url, config.max_url_bytes, self._opener.guard.exempt)
        fp.close()
        return self.parent.open(self._opener.sent(target, req.end, req.hops + 1), timeout=req.timeout)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Http(urllib.request.HTTPSHandler):
    """Opens http and https with connections of the opener's making."""

    def __init__(self, opener: GuardedOpener, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._opener, self._tls = opener, context

    def http_open(self, req: Any) -> Any:
        return self.do_open(self._connection(req, None), req)

    def https_open(self, req: Any) -> Any:
        return self.do_open(self._connection(req, self._tls), req)

    http_request = urllib.request.AbstractHTTPHandler.do_request_

    def _connection(self, req: Any, context: ssl.SSLContext | None) -> Any:
        opener = self._opener

        class Connection(http.client.HTTPConnection):
            default_port = 443 if context else 80

            def connect(self) -> None:
                self.sock = opener.connect(self.host, self.port, req.end)
                if context:
                    self.sock = opener.secure(self.sock, context, self.host, req.end)

        return Connection


def _status_refusal(status: int) -> Refusal:
    if 300 <= status < 400:
        return Refusal(Reason.NOT_IMAGE, f"HTTP {status}, and nowhere to go on to")
    if status == 429:
        return Refusal(Reason.RATE_LIMITED, "HTTP 429", retry=0)
    return (
        Refusal(Reason.HTTP_5XX, f"HTTP {status}", retry=0)
        if status >= 500
        else Refusal(Reason.HTTP_4XX, f"HTTP {status}")
    )


async def _no_lookup(host: str, port: int) -> list[str]:
    raise socket.gaierror  # the opener looks up by itself, in its own threads
