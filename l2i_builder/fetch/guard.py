"""What may be fetched: URL checks, and the guard that stands between a name and a connection.

Rows come from strangers. A URL, a redirect or a DNS answer may point into the network the builder runs in
(server-side request forgery), so addresses are judged where they are used: every answer of a look-up before
it is handed on, and once more when the socket is made. Nothing is looked up twice, so an answer that changes
between check and connect (DNS rebinding) has nothing to change.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from yarl import URL

from l2i_builder.errors import ConfigError
from l2i_builder.fetch.addresses import is_public
from l2i_builder.sample import Reason

_REMEMBERED = 20_000  # look-ups
_TTL = 60.0  # seconds a checked answer is used
Lookup = Callable[[str, int], Awaitable[list[str]]]  # host, port -> addresses; raises socket.gaierror

_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]*):", re.IGNORECASE)
_AUTHORITY = re.compile(r"//([^/?#]+)([^#]*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE = re.compile(r"[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
# What may stand before a scheme: blanks, quotes, brackets, control characters, a byte order mark.
_LEAD = r"\A([^\w/?#@%*]*+"
_USERINFO = re.compile(_LEAD + r"(?:https?:|[a-z][a-z0-9+.\-]*+:(?=/))?/*+)[^/?#]*@", re.IGNORECASE)
# A colon that no port follows: the authority was cut inside a password, e.g. http://user:pass/word@host/
_CUT_USERINFO = re.compile(_LEAD + r"[a-z][a-z0-9+.\-]*+:/*+)[^/?#@\[]*:(?![0-9]*+(?:[/?#]|\Z))[^@]*@", re.IGNORECASE)
# Of a URL inside another one, or behind some word, e.g. view-source:http://…, /web/http://…, ?url=http%3A%2F%2F…
_INNER_USERINFO = re.compile(
    r"((?::|%3A|\uff1a)(?:/|%2F){2,}+)(?:(?!%2F|%3F|%23)[^/?#])+(?:@|%40|\uff20)", re.IGNORECASE
)


class Refusal(Exception):
    """A URL, address or answer that is refused. ``detail`` is the same in every run. ``retry``: seconds to wait
    before another attempt, which may end differently; 0 = as long as usual, None = it would end the same."""

    def __init__(self, reason: Reason, detail: str, retry: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.retry = reason, detail, retry


class BlockedAddress(OSError):
    """Raised instead of making a socket to an address that is not public."""


class Target(NamedTuple):
    """A checked URL in parts: host in lower-case ASCII, IPv6 without brackets; path as in the request line."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host, and port if it is not the scheme's, as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def redact(url: str) -> str:
    """Return the URL with user name and password, if any, as ``***@``, also those of URLs within it. Never raises; not
    a validity check."""
    if "@" not in url and "%40" not in url and "\uff20" not in url:  # also keeps _CUT_USERINFO from trying every colon
        return url
    hidden = _CUT_USERINFO.sub(r"\1***@", _INNER_USERINFO.sub(r"\1***@", url), count=1)
    hidden = _USERINFO.sub(r"\1***@", hidden, count=1)
    return hidden if hidden == url else redact(hidden)  # what is hidden may have stood between two that belong together


def check_url(url: str, max_bytes: int = 8192, exempt: Collection[str] = ()) -> URL:
    """Return the URL as it will be requested; see ``check_target``."""
    return URL(str(check_target(url, max_bytes, exempt)), encoded=True)


def check_target(url: str, max_bytes: int = 8192, exempt: Collection[str] = ()) -> Target:
    """Return the parts of the URL as it will be requested: host in lower-case ASCII, characters a request line
    cannot hold percent-encoded, everything else, existing escapes included, as it stands.

    max_bytes: longest URL, in UTF-8 bytes. exempt: hosts or host:ports that may be private addresses
    (``fetch.connect_to``). Raises Refusal: bad_scheme, bad_url, url_credentials, ssrf_blocked.
    """
    url = url.strip(" ")
    if not url:
        raise Refusal(Reason.BAD_URL, "empty URL")
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    if match and scheme not in _PORTS:
        if not redact(url).lower().startswith(scheme):
            scheme = "***"  # a user name, as in "user:password@host"
        raise Refusal(Reason.BAD_SCHEME, f"scheme {scheme[:40]}, only http and https are fetched")
    try:
        size = len(url) if url.isascii() else len(url.encode())
    except UnicodeEncodeError:
        raise Refusal(Reason.BAD_URL, "lone surrogate in the URL") from None
    if size > max_bytes:
        raise Refusal(Reason.BAD_URL, f"URL longer than {max_bytes} bytes")
    if _CONTROL.search(url):
        raise Refusal(Reason.BAD_URL, "control character in the URL")
    parts = _AUTHORITY.match(url, match.end()) if match else None
    if parts is None:
        raise Refusal(Reason.BAD_URL, "no scheme and host; a URL starts with http://host or https://host")
    authority, path = parts[1], parts[2]
    if "@" in authority:
        raise Refusal(Reason.URL_CREDENTIALS, "user name or password in the URL")
    host, port = _split_port(authority)
    port = port or _PORTS[scheme]
    host = _check_host(host, port, exempt)
    if _UNSAFE.search(path):
        path = _UNSAFE.sub(_percent, path)
    return Target(scheme, host, port, path if path.startswith("/") else f"/{path}")


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def _split_port(authority: str) -> tuple[str, int]:
    """Return host and port (0 = the scheme's) of an authority without user info."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority, 0
    if not port:
        return host, 0
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise Refusal(Reason.BAD_URL, "port is not a number from 1 to 65535")
    return host, int(port)


def _check_host(host: str, port: int, exempt: Collection[str]) -> str:
    """Return a host as it goes into the request, or raise Refusal. Names are judged when they are looked up."""
    if host.startswith("["):
        try:
            address = str(ipaddress.IPv6Address(host[1:-1] if host.endswith("]") else ""))
        except ValueError:
            raise Refusal(Reason.BAD_URL, "host is not an IPv6 address") from None
        return _check_address(address, port, exempt)
    host = host.lower()
    if not host.isascii():  # after IDNA, for full-width digits and dots become plain ones
        try:
            host = URL.build(scheme="http", host=host).raw_host or ""
        except ValueError:
            raise Refusal(Reason.BAD_URL, "host is not a valid international name") from None
    if len(host) > 254 or not _NAME.fullmatch(host):
        raise Refusal(Reason.BAD_URL, "host is not a valid name")
    if not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return host
    address = _numeric_address(host.removesuffix("."))
    _check_address(address, port, exempt)
    if address != host:
        raise Refusal(Reason.BAD_URL, "IPv4 address in an unusual spelling")
    return host


def _check_address(address: str, port: int, exempt: Collection[str]) -> str:
    if not is_public(address) and address not in exempt and _join(address, port) not in exempt:
        raise Refusal(Reason.SSRF_BLOCKED, "the URL names an address that is not public")
    return address


def _numeric_address(host: str) -> str:
    """Return the dotted address that a numeric host stands for (WHATWG URL, "IPv4 parser"): parts in decimal,
    octal (0…) or hex (0x…), the last one filling what is left."""
    parts = host.split(".")
    try:
        numbers = [_number(part) for part in parts]
        if len(numbers) > 4 or any(number > 255 for number in numbers[:-1]):
            raise ValueError
        value = sum(number << 8 * (3 - i) for i, number in enumerate(numbers[:-1]))
        if numbers[-1] >= 256 ** (5 - len(numbers)):
            raise ValueError
    except ValueError:
        raise Refusal(Reason.BAD_URL, "host ends in a number but is not an IPv4 address") from None
    return str(ipaddress.IPv4Address(value + numbers[-1]))


def _number(part: str) -> int:
    if not _NUMBER.fullmatch(part):
        raise ValueError
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8) if part.startswith("0") and part != "0" else int(part)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Guard:
    """Resolver and socket factory of the fetcher's connections.

    connect_to: exact host or host:port -> IP:port, connected to without a look-up (like ``curl --connect-to``);
    the only private addresses that can be reached, and only under that host. trusted: host names that may
    resolve to private addresses (the operator's proxies). lookup: replaces the system's resolver.
    Raises ConfigError on entries that cannot be used.
    """

    def __init__(
        self,
        connect_to: Mapping[str, str] | None = None,
        trusted: Collection[str] = (),
        lookup: Lookup | None = None,
        threads: int = 32,
    ) -> None:
        self._pins = dict(_pin(host, target) for host, target in (connect_to or {}).items())
        self._open = set(self._pins.values())  # private addresses a socket may be made to
        self._trusted = frozenset(trusted)
        self._pool = ThreadPoolExecutor(threads, "lookup") if lookup is None else None
        self._lookup = lookup or self._system_lookup
        self._answers: dict[tuple[str, int], tuple[float, asyncio.Task[list[str]]]] = {}  # -> loop time, answer

    def pinned(self, host: str, port: int) -> tuple[str, int] | None:
        """Return the IP and port that ``connect_to`` gives for a host, or None."""
        host = host.rstrip(".")
        return self._pins.get(_join(host, port)) or self._pins.get(host)

    @property
    def exempt(self) -> Collection[str]:
        """The hosts and host:ports of ``connect_to``."""
        return self._pins.keys()

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        """Return the addresses and ports to connect to for a host. Raises Refusal: dns_error, ssrf_blocked."""
        pin = self.pinned(host, port)
        if pin:
            return [pin]
        now = asyncio.get_running_loop().time()
        until, answer = self._answers.get((host, port), (now, None))
        if answer is None or (answer.done() and (until <= now or answer.exception())):
            if len(self._answers) >= _REMEMBERED:
                del self._answers[next(iter(self._answers))]  # the oldest
            answer = asyncio.create_task(self._ask(host, port))
            answer.add_done_callback(_seen)
            self._answers[host, port] = now + _TTL, answer
        return [(address, port) for address in await asyncio.shield(answer)]  # others wait for it too

    def open_socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for an address about to be connected to. Raises BlockedAddress if it is not public."""
        family, kind, protocol, _, (address, port, *_) = addr_info
        if (address, port) not in self._open and not is_public(address):
            raise BlockedAddress("the address is not public")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Stop looking up."""
        for _, answer in self._answers.values():
            answer.cancel()
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, host: str, port: int) -> list[str]:
        """Look a host up and judge all that is found."""
        try:
            found = [host] if _is_address(host) else await self._lookup(host, port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise Refusal(Reason.DNS_ERROR, "look-up failed", retry=0) from None
            raise Refusal(Reason.DNS_ERROR, "no such host") from None
        except UnicodeError:
            raise Refusal(Reason.BAD_URL, "host is not a valid name") from None
        if not found:
            raise Refusal(Reason.DNS_ERROR, "no such host")
        if host in self._trusted:
            self._open.update((address, port) for address in found)
        elif not all(map(is_public, found)):  # one private answer among public ones is an attack too
            raise Refusal(Reason.SSRF_BLOCKED, "the host resolves to an address that is not public")
        return found

    async def _system_lookup(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        infos = await loop.run_in_executor(
            self._pool, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        )
        return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _seen(answer: asyncio.Task[list[str]]) -> None:
    """Take note of a failure that nobody may be waiting for any more."""
    if not answer.cancelled():
        answer.exception()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _pin(host: str, target: str) -> tuple[str, tuple[str, int]]:
    """Return a checked entry of ``connect_to``."""
    address, _, port = target.rpartition(":")
    try:
        address = str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError
    except ValueError:
        raise ConfigError(f"fetch.connect_to: {target!r} is not IP:port, e.g. 127.0.0.1:8080 or [::1]:8080") from None
    host = host.lower()
    try:
        name, given = _split_port(host)
        literal = str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except Refusal as refusal:
        raise ConfigError(f"fetch.connect_to: {host!r}: {refusal.detail}") from None
    except ValueError:
        return host.rstrip("."), (address, number)
    # An address in a URL is never looked up, so it cannot be sent elsewhere: only let through.
    if (literal, given) != (address, number):
        raise ConfigError(f"fetch.connect_to: an address can only stand for itself: {target!r}: {target!r}")
    return _join(address, number), (address, number)
