"""Fetching a URL from the open web: guarded, bounded in time and bytes, polite, and never raising.

Whatever a server does ends in a Fetched: a body, or a Reason with a detail that is the same in every run.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import hashlib
import random
import resource
import ssl
import time
import urllib.request
from dataclasses import dataclass
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from l2i_builder.body import looks_like_text, malformed_chunks, read_body
from l2i_builder.config import Fetch
from l2i_builder.errors import ConfigError
from l2i_builder.guard import BlockedAddress, Guard, Lookup, Refusal, check_url
from l2i_builder.optout import agent_token, opt_out
from l2i_builder.politeness import HostGate, Politeness
from l2i_builder.robots import MAX_ROBOTS_BYTES, RobotsCache
from l2i_builder.sample import UNKNOWN, Reason

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BACKOFF = 0.5  # seconds before the second attempt, doubling, give or take half
_KEEPALIVE = 5.0  # seconds an idle connection is kept
_DNS_TTL = 60  # seconds a checked look-up is used
_MAX_HEADER = 32768  # bytes of one header line; some servers send very long policies
_CLOSE = {"Connection": "close"}


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
        self._ssl = ssl_context
        self._agent = agent_token(config.user_agent)
        self._proxies = urllib.request.getproxies() if config.use_proxy_env else {}
        hosts = {URL(proxy).host or "" for name, proxy in self._proxies.items() if name in ("http", "https")}
        self._proxy_hosts = frozenset(hosts)
        self._guard = Guard(config.connect_to, hosts, lookup, threads=config.concurrency)
        self._politeness = Politeness(config.per_host, config.per_host_rate)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._robots = RobotsCache(self._read_robots, self._agent) if config.respect_robots_txt else None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        connector = aiohttp.TCPConnector(
            resolver=self._guard,
            socket_factory=self._guard.open_socket,
            ssl=self._ssl or True,
            limit=0,  # ours are counted per host before they come here
            keepalive_timeout=_KEEPALIVE,
            ttl_dns_cache=_DNS_TTL,
            dns_cache_max_size=10_000,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={
                "User-Agent": self._config.user_agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity, gzip;q=0.5",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout),
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._robots:
            await self._robots.close()
        if self._session:
            await self._session.close()
            self._session = None
        await self._guard.close()

    async def fetch(self, url: str, expected_sha256: str = "") -> Fetched:
        """Return what became of a URL. Never raises for anything the web does.

        expected_sha256: hex digest that the metadata promises; another body is hash_mismatch.
        """
        if self._session is None:
            raise RuntimeError("a Fetcher is used inside `async with`")
        fetched = await self._try(url)
        return fetched if fetched.reason else _judge(fetched, expected_sha256.strip().lower())

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
        """Follow redirects to an answer and read it into ``fetched``. Raises Refusal, or what aiohttp raises.

        The deadline covers the look-ups, connections and bodies of all hops, but no waiting for a host's turn.
        """
        loop = asyncio.get_running_loop()
        left = self._config.timeout
        for hop in range(self._config.max_redirects + 1):
            try:
                target = check_url(url, self._config.max_url_bytes, self._guard.exempt)
            except Refusal as refusal:
                raise Refusal(refusal.reason, f"redirect: {refusal.detail}") if hop else refusal from None
            gate = self._politeness.gate(target.raw_host or "")
            if self._robots and not robots:
                await self._robots.check(target, gate)
            async with gate, self._slots:
                start = loop.time()
                async with asyncio.timeout(left):
                    answer = await self._send(target, gate)
                    try:
                        fetched.status = answer.status
                        if answer.status not in _REDIRECTS or "Location" not in answer.headers:
                            await self._read(answer, gate, fetched, robots)
                            return
                        url = _join(target, answer.headers["Location"])
                    finally:
                        answer.close()  # keeps the connection if the body was read to its end
                left = max(0.0, left - (loop.time() - start))
        raise Refusal(Reason.TOO_MANY_REDIRECTS, f"more than {self._config.max_redirects} redirects")

    async def _send(self, target: URL, gate: HostGate) -> aiohttp.ClientResponse:
        """Return the answer to a GET, its body unread."""
        assert self._session is not None
        # Most hosts are met once: a connection kept for them would only use up file descriptors.
        keep = gate.visit(_KEEPALIVE)
        proxy = self._proxy(target) if self._proxies else None
        return await self._session.get(target, allow_redirects=False, headers=None if keep else _CLOSE, proxy=proxy)

    def _proxy(self, target: URL) -> str | None:
        """Return the proxy for a URL. It resolves and connects by itself: its operator guards those addresses."""
        host = target.raw_host or ""
        if self._guard.pinned(host, target.port or 0) or urllib.request.proxy_bypass(host):
            if host in self._proxy_hosts:
                raise Refusal(Reason.SSRF_BLOCKED, "the URL names a proxy of this network")
            return None
        return self._proxies.get(target.scheme)

    async def _read(self, answer: aiohttp.ClientResponse, gate: HostGate, fetched: Fetched, robots: bool) -> None:
        """Read an answer that is no redirect into ``fetched``. Raises Refusal, or what aiohttp raises."""
        headers, status = answer.headers, answer.status
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        fetched.content_type = kind.encode("ascii", "replace").decode()[:100]
        if not 200 <= status < 300:
            raise self._status_refusal(status, headers.get("Retry-After", ""), gate)
        if robots:
            fetched.data = await read_body(answer, MAX_ROBOTS_BYTES, truncate=True)
            return
        fetched.opt_out = opt_out(headers, self._agent)
        if fetched.opt_out and self._config.respect_opt_out:
            raise Refusal(Reason.OPTED_OUT, fetched.opt_out)
        if status == 206:
            raise Refusal(Reason.BODY_TRUNCATED, "HTTP 206, a part of the body that was not asked for", retry=0)
        fetched.data = await read_body(answer, self._config.max_bytes)

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


def _judge(fetched: Fetched, expected_sha256: str) -> Fetched:
    """Refuse a complete answer whose body is not what it should be."""
    data = fetched.data
    fetched.size, fetched.sha256 = len(data), hashlib.sha256(data).hexdigest()
    if not data:
        fetched.reason, fetched.detail = Reason.EMPTY_BODY, "no bytes in the body"
    elif expected_sha256 and fetched.sha256 != expected_sha256:
        fetched.reason, fetched.detail = Reason.HASH_MISMATCH, "not the content that the metadata's digest names"
    elif looks_like_text(data):
        fetched.reason, fetched.detail = Reason.NOT_IMAGE, "the body is text or markup"
    if fetched.reason:
        fetched.data = b""
    return fetched


def _join(base: URL, location: str) -> str:
    """Return the absolute URL of a Location header, whose bytes may be in any encoding."""
    try:
        location = location.encode("utf-8", "surrogateescape").decode()
    except UnicodeDecodeError:
        location = location.encode("utf-8", "surrogateescape").decode("latin-1")
    try:
        return urljoin(str(base), location.strip())
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
    """Return the reason behind an exception of aiohttp or of the system."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Refusal(Reason.TIMEOUT, "no connection in time", retry=0)
    if isinstance(error, TimeoutError):
        return Refusal(Reason.TIMEOUT, "no complete answer in time", retry=0)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Refusal(Reason.TLS_ERROR, f"certificate: {getattr(error.certificate_error, 'verify_message', '')}")
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return Refusal(Reason.TLS_ERROR, f"TLS: {getattr(cause, 'reason', None) or 'handshake failed'}")
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, BlockedAddress):
        return Refusal(Reason.SSRF_BLOCKED, "the host resolves to an address that is not public")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Refusal(Reason.BODY_TRUNCATED, "the body ends before its announced length", retry=0)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Refusal(Reason.CONNECT_ERROR, "closed without an answer", retry=0)
    if isinstance(error, aiohttp.ClientResponseError):
        if "chunk" in error.message:  # head and body came in one piece
            return malformed_chunks()
        return Refusal(Reason.CONNECT_ERROR, "the answer is not HTTP", retry=0)
    if isinstance(error, OSError):
        name = errno.errorcode.get(error.errno or 0, "no connection")
        return Refusal(Reason.CONNECT_ERROR, f"connection: {name}", retry=0)
    if isinstance(error, aiohttp.InvalidURL):
        return Refusal(Reason.BAD_URL, "URL cannot be requested")
    return Refusal(Reason.STAGE_ERROR, f"unexpected {type(error).__name__}")
