"""Fetching a URL from the open web: guarded, bounded in time and bytes, polite, and never raising.

Whatever a server does ends in a Fetched: a body, or a Reason with a detail that is the same in every run.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import hashlib
import random
import re
import resource
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urljoin

from l2i_builder.config import Fetch
from l2i_builder.errors import ConfigError
from l2i_builder.fetch.body import decode_body, looks_like_text
from l2i_builder.fetch.connections import KEEPALIVE, Connections, environment_proxies
from l2i_builder.fetch.guard import BlockedAddress, Guard, Lookup, Refusal, Target, check_target
from l2i_builder.fetch.http1 import Answer
from l2i_builder.fetch.optout import agent_token, opt_out
from l2i_builder.fetch.politeness import HostGate, Politeness
from l2i_builder.fetch.robots import MAX_ROBOTS_BYTES, RobotsCache
from l2i_builder.sample import UNKNOWN, Reason

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BACKOFF = 0.5  # seconds before the second attempt, doubling, give or take half
_IN_THREAD = 2**20  # bytes of a body from which hashing and inflating leave the event loop


@dataclass(slots=True)
class Fetched:
    """What became of a URL. ``data`` is the decoded body, empty whenever there is a reason."""

    data: bytes = b""
    status: int = UNKNOWN  # HTTP status of the last answer
    content_type: str = ""  # lower case, without parameters
    sha256: str = ""  # of the decoded body, also where it is then refused
    opt_out: str = ""  # signals seen, whether respected or not; "" when none
    reason: Reason | None = None
    detail: str = ""
    size: int = UNKNOWN  # bytes of the decoded body, also where it is then refused


class Fetcher:
    """Fetches URLs; an async context manager, used from one event loop.

    config: the ``fetch`` section. ssl_context: other roots of trust than the system's. lookup: replaces the
    system's resolver. Raises ConfigError for a user agent or ``connect_to`` entry that cannot be used.
    """

    def __init__(
        self, config: Fetch, *, ssl_context: ssl.SSLContext | None = None, lookup: Lookup | None = None
    ) -> None:
        if not config.user_agent.isascii() or not config.user_agent.isprintable():
            raise ConfigError("fetch.user_agent must be printable ASCII on one line")
        _make_room_for_sockets(config.concurrency)
        self._config = config
        self._agent = agent_token(config.user_agent)
        proxies = environment_proxies() if config.use_proxy_env else {}
        trusted = {proxy.host for proxy in proxies.values()}
        self._guard = Guard(config.connect_to, trusted, lookup, threads=config.concurrency)
        self._connections = Connections(self._guard, ssl_context, config.connect_timeout, proxies)
        self._politeness = Politeness(config.per_host, config.per_host_rate)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._robots = RobotsCache(self._read_robots, self._agent) if config.respect_robots_txt else None
        self._headers = (
            f"User-Agent: {config.user_agent}\r\nAccept: image/*,*/*;q=0.5\r\nAccept-Encoding: identity, gzip;q=0.5\r\n"
        ).encode()
        self._headers_once = self._headers + b"Connection: close\r\n"
        self._entered = False

    async def __aenter__(self) -> Fetcher:
        self._entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered = False
        if self._robots:
            await self._robots.close()
        await self._connections.close()
        await self._guard.close()

    async def fetch(self, url: str, expected_sha256: str = "") -> Fetched:
        """Return what became of a URL. Never raises for anything the web does.

        expected_sha256: hex digest that the metadata promises; another body is hash_mismatch.
        """
        if not self._entered:
            raise RuntimeError("a Fetcher is used inside `async with`")
        fetched = await self._try(url)
        if fetched.reason:
            return fetched
        fetched.size = len(fetched.data)
        if fetched.size < _IN_THREAD:
            fetched.sha256 = _digest(fetched.data)
        else:
            fetched.sha256 = await asyncio.to_thread(_digest, fetched.data)
        return _judge(fetched, expected_sha256.strip().lower())

    async def _try(self, url: str, robots: bool = False) -> Fetched:
        """Return the outcome of the last of as many attempts as it takes. robots: the URL is a robots.txt."""
        for attempt in range(self._config.retries + 1):
            fetched = Fetched()
            try:
                await self._follow(url, fetched, robots)
                return fetched
            except Refusal as refusal:
                found = refusal
            except Exception as error:  # whatever the web does, the row gets a reason
                found = _explain(error)
            fetched.reason, fetched.detail, fetched.data = found.reason, found.detail, b""
            if found.retry is None or attempt == self._config.retries:
                break
            await asyncio.sleep(found.retry or _BACKOFF * 2**attempt * random.uniform(0.5, 1.5))
        return fetched

    async def _follow(self, url: str, fetched: Fetched, robots: bool) -> None:
        """Follow redirects to an answer and read it into ``fetched``. Raises Refusal or OSError.

        The deadline covers the look-ups, connections and bodies of all hops, but no waiting for a host's turn.
        """
        loop = asyncio.get_running_loop()
        left = self._config.timeout
        for hop in range(self._config.max_redirects + 1):
            try:
                target = check_target(url, self._config.max_url_bytes, self._guard.exempt)
            except Refusal as refusal:
                raise Refusal(refusal.reason, f"redirect: {refusal.detail}") if hop else refusal from None
            gate = self._politeness.gate(target.host)
            if self._robots and not robots:
                await self._robots.check(target, gate)
            async with gate, self._slots:
                start = loop.time()
                async with asyncio.timeout(left):
                    answer = await self._ask(target, gate, fetched, robots)
                left = max(0.0, left - (loop.time() - start))
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                await self._read(answer, gate, fetched, robots)
                return
            url = _join(target, answer.headers["location"].partition("\n")[0])
        raise Refusal(Reason.TOO_MANY_REDIRECTS, f"more than {self._config.max_redirects} redirects")

    async def _ask(self, target: Target, gate: HostGate, fetched: Fetched, robots: bool) -> Answer:
        """Return the answer to one request, with its body if that may be used."""

        def wanted(answer: Answer) -> bool:
            fetched.status = answer.status
            fetched.content_type = _content_type(answer.headers.get("content-type", ""))
            if not 200 <= answer.status < 300 or answer.status == 206:
                return False
            if robots:
                return True
            fetched.opt_out = opt_out(answer.headers, self._agent)
            return not (fetched.opt_out and self._config.respect_opt_out)

        # Most hosts are met once: a connection kept for them would only use up file descriptors.
        headers = self._headers if gate.visit(KEEPALIVE) else self._headers_once
        max_bytes = MAX_ROBOTS_BYTES if robots else self._config.max_bytes
        return await self._connections.get(target, headers, wanted, max_bytes, truncate=robots)

    async def _read(self, answer: Answer, gate: HostGate, fetched: Fetched, robots: bool) -> None:
        """Take over the body of an answer that is no redirect. Raises Refusal."""
        if not 200 <= answer.status < 300:
            raise self._status_refusal(answer.status, answer.headers.get("retry-after", ""), gate)
        if fetched.opt_out and self._config.respect_opt_out:
            raise Refusal(Reason.OPTED_OUT, fetched.opt_out)
        if answer.status == 206:
            raise Refusal(Reason.BODY_TRUNCATED, "HTTP 206, a part of the body that was not asked for", retry=0)
        max_bytes = MAX_ROBOTS_BYTES if robots else self._config.max_bytes
        encoding = answer.headers.get("content-encoding", "")
        if encoding and len(answer.body) >= _IN_THREAD // 1000:  # what it may grow to
            fetched.data = await asyncio.to_thread(decode_body, answer.body, encoding, max_bytes)
        else:
            fetched.data = decode_body(answer.body, encoding, max_bytes)

    def _status_refusal(self, status: int, retry_after: str, gate: HostGate) -> Refusal:
        """Return why an answer without success is refused; holds the host back if it asks for that."""
        detail = f"HTTP {status}"
        if status == 429 or 500 <= status < 600:
            wait = _seconds(retry_after)
            gate.hold(min(wait, self._config.max_retry_after))
            retry = wait if wait <= self._config.max_retry_after else None
            return Refusal(Reason.RATE_LIMITED if status == 429 else Reason.HTTP_5XX, detail, retry)
        if 300 <= status < 400:
            return Refusal(Reason.NOT_IMAGE, f"{detail}, and nowhere to go on to")
        if status < 200:
            return Refusal(Reason.CONNECT_ERROR, f"{detail} that was not asked for")
        return Refusal(Reason.HTTP_4XX, detail)

    async def _read_robots(self, url: str) -> tuple[bytes, Refusal | None]:
        fetched = await self._try(url, robots=True)
        return fetched.data, Refusal(fetched.reason, fetched.detail) if fetched.reason else None


def _make_room_for_sockets(concurrency: int) -> None:
    """Raise the process's soft limit of open files where it would turn into failed connections.

    Idle connections count too; those of busy hosts are kept for some seconds. Raises ConfigError if the hard
    limit forbids even the requests in flight.
    """
    wanted = 8 * concurrency + 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if room < concurrency + 128:
        raise ConfigError(
            f"fetch.concurrency {concurrency} needs more open files than `ulimit -Hn` allows ({hard}): lower it"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _judge(fetched: Fetched, expected_sha256: str) -> Fetched:
    """Refuse a complete answer whose body is not what it should be."""
    if not fetched.data:
        fetched.reason, fetched.detail = Reason.EMPTY_BODY, "no bytes in the body"
    elif expected_sha256 and fetched.sha256 != expected_sha256:
        fetched.reason, fetched.detail = Reason.HASH_MISMATCH, "not the content that the metadata's digest names"
    elif looks_like_text(fetched.data):
        fetched.reason, fetched.detail = Reason.NOT_IMAGE, "the body is text or markup"
    if fetched.reason:
        fetched.data = b""
    return fetched


def _content_type(header: str) -> str:
    """Return the media type of a Content-Type header, fit for a ledger."""
    kind = re.split(r"[;\n]", header, maxsplit=1)[0].strip().lower()[:100]
    return kind if kind.isascii() and kind.isprintable() else re.sub(r"[^ -~]", "?", kind)


def _join(base: Target, location: str) -> str:
    """Return the absolute URL of a Location header, whose bytes may be in any encoding."""
    with contextlib.suppress(UnicodeDecodeError):  # then it is latin-1
        location = location.encode("latin-1").decode()
    try:
        return urljoin(str(base), location)
    except ValueError:
        raise Refusal(Reason.BAD_URL, "redirect: not a URL") from None


def _seconds(retry_after: str) -> float:
    """Return the seconds a Retry-After header asks for, given as a number or a date; 0 when there is none."""
    retry_after = retry_after.strip()
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        moment = email.utils.parsedate_to_datetime(retry_after)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _explain(error: Exception) -> Refusal:
    """Return the reason behind an exception of the system."""
    if isinstance(error, TimeoutError):
        return Refusal(Reason.TIMEOUT, "no complete answer in time", retry=0)
    if isinstance(error, BlockedAddress):
        return Refusal(Reason.SSRF_BLOCKED, "the host resolves to an address that is not public")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal(Reason.TLS_ERROR, f"certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return Refusal(Reason.TLS_ERROR, f"TLS: {error.reason or 'handshake failed'}")
    if isinstance(error, OSError):
        name = errno.errorcode.get(error.errno or 0, "failed")
        return Refusal(Reason.CONNECT_ERROR, f"connection: {name}", retry=0)
    return Refusal(Reason.STAGE_ERROR, f"unexpected {type(error).__name__}")
