"""Connections to the hosts that are fetched from: made through the guard, kept for the next request."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

import aiohappyeyeballs
from yarl import URL

from l2i_builder.errors import ConfigError
from l2i_builder.fetch.guard import Guard, Refusal, Target
from l2i_builder.fetch.http1 import Answer, Connection
from l2i_builder.sample import Reason

KEEPALIVE = 5.0  # seconds an idle connection is kept
_FALLBACK = 0.25  # seconds before the next address is tried beside the first (RFC 8305)
_Key = tuple[str, str, int]


class Proxy(NamedTuple):
    """A proxy that requests go through; ``header``: its credentials as a header line, or b""."""

    host: str
    port: int
    header: bytes


def environment_proxies() -> dict[str, Proxy]:
    """Return the proxies of HTTP_PROXY and HTTPS_PROXY by scheme. Raises ConfigError for one of another kind."""
    proxies = {}
    for scheme, text in urllib.request.getproxies().items():
        if scheme not in ("http", "https"):
            continue
        url = URL(text if "://" in text else f"http://{text}")
        if url.scheme != "http" or not url.host:
            raise ConfigError(f"{scheme.upper()}_PROXY must be http://host:port; unset fetch.use_proxy_env otherwise")
        login = base64.b64encode(f"{url.user}:{url.password or ''}".encode()) if url.user else b""
        header = b"Proxy-Authorization: Basic " + login + b"\r\n" if login else b""
        proxies[scheme] = Proxy(url.raw_host or "", url.port or 80, header)
    return proxies


class Connections:
    """Makes, lends and keeps connections.

    guard: resolver and socket factory. tls: roots of trust; None = the system's. connect_timeout: seconds for
    TCP and TLS. proxies: by scheme. A proxy resolves and connects by itself, so private addresses behind names
    are for its operator to refuse; those in URLs are refused before they come here.
    """

    def __init__(
        self, guard: Guard, tls: ssl.SSLContext | None, connect_timeout: float, proxies: dict[str, Proxy]
    ) -> None:
        self._guard = guard
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._proxies = proxies
        self._idle: dict[_Key, list[tuple[float, Connection]]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def get(
        self, target: Target, headers: bytes, wanted: Callable[[Answer], bool], max_bytes: int, truncate: bool = False
    ) -> Answer:
        """Return the answer to a GET; see ``Connection.request``. headers: whole lines, without Host.

        Raises Refusal: dns_error, ssrf_blocked, timeout, connect_error and those of ``Connection.request``;
        OSError, among them BlockedAddress and ssl.SSLError.
        """
        proxy = self._proxy(target) if self._proxies else None
        line, key = target.path, target[:3]
        if proxy and target.scheme == "http":
            line, key, headers = str(target), ("proxy", *proxy[:2]), headers + proxy.header
        raw = b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (line.encode(), target.authority.encode(), headers)
        kept = self._take(key)
        connection = kept or await self._connect(target, proxy)
        try:
            answer = await connection.request(raw, wanted, max_bytes, truncate)
        except Refusal:
            if not kept or kept.answered:
                raise
            # The server had closed it meanwhile, or said something nobody asked for. A new connection tells whether it
            # is this request that ends so: the other idle ones would each be lost to it, one after another.
            connection = await self._connect(target, proxy)
            answer = await connection.request(raw, wanted, max_bytes, truncate)
        if connection.reusable:
            self._keep(key, connection)
        return answer

    async def close(self) -> None:
        """Close the idle connections."""
        if self._sweeper:
            self._sweeper.cancel()
        for idle in self._idle.values():
            for _, connection in idle:
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # lets the transports go

    def _proxy(self, target: Target) -> Proxy | None:
        if self._guard.pinned(target.host, target.port) or urllib.request.proxy_bypass(target.host):
            if any(target.host == proxy.host for proxy in self._proxies.values()):
                raise Refusal(Reason.SSRF_BLOCKED, "the URL names a proxy of this network")
            return None
        return self._proxies.get(target.scheme)

    async def _connect(self, target: Target, proxy: Proxy | None) -> Connection:
        loop = asyncio.get_running_loop()
        secure = target.scheme == "https"
        name = target.host.rstrip(".") if secure else None
        addresses = await self._guard.resolve(*(proxy or target[1:])[:2])
        try:
            async with asyncio.timeout(self._connect_timeout):
                connected = await aiohappyeyeballs.start_connection(
                    [_addr_info(*address) for address in addresses],
                    happy_eyeballs_delay=_FALLBACK,
                    loop=loop,
                    socket_factory=self._guard.open_socket,
                )
                tls = self._trust() if secure and not proxy else None
                _, connection = await loop.create_connection(
                    Connection, sock=connected, ssl=tls, server_hostname=name if tls else None
                )
                if secure and proxy:
                    await self._tunnel(connection, target, proxy)
        except TimeoutError:
            raise Refusal(Reason.TIMEOUT, "no connection in time", retry=0) from None
        return connection

    async def _tunnel(self, connection: Connection, target: Target, proxy: Proxy) -> None:
        """Have the proxy connect to the target, and speak TLS through it."""
        place = f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"
        raw = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (place.encode(), place.encode(), proxy.header)
        answer = await connection.request(raw, lambda _: False, 0, tunnel=True)
        try:
            if not 200 <= answer.status < 300 or connection.transport is None:
                raise Refusal(Reason.CONNECT_ERROR, f"the proxy answers HTTP {answer.status}", retry=0)
            transport = await asyncio.get_running_loop().start_tls(
                connection.transport, connection, self._trust(), server_hostname=target.host.rstrip(".")
            )
        except BaseException:
            connection.close()
            raise
        assert transport is not None
        connection.connection_made(transport)

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _take(self, key: _Key) -> Connection | None:
        """Return an idle connection, the one last used first, or None."""
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()[1]
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _keep(self, key: _Key, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._idle.setdefault(key, []).append((loop.time() + KEEPALIVE, connection))
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEEPALIVE, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for key, idle in list(self._idle.items()):
            for until, connection in idle:
                if until <= now:
                    connection.close()
            left = [kept for kept in idle if kept[0] > now]
            if left:
                self._idle[key] = left
            else:
                del self._idle[key]
        self._sweeper = loop.call_later(KEEPALIVE / 2, self._sweep) if self._idle else None


def _addr_info(address: str, port: int) -> tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)
