"""Who may talk to the review app: the checks before any request is answered, and the headers on every answer."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # a sample that is taken down must not live on in a browser
}
OPEN = frozenset({"/", "/login.js", "/app.css", "/icon.svg", "/api/login"})  # answered without the token
MIN_TOKEN = 16  # characters of a token that a person chose


class Guard:
    """ASGI middleware. Refuses

    - a Host that is not this server's: another site's name that was pointed at this address (DNS rebinding);
    - requests that another site's page makes: by Sec-Fetch-Site, and for anything but reading by Origin, which must
      be there and be this server's;
    - websockets, which the app has none of;
    - where ``token`` is set, requests without its cookie.
    """

    def __init__(self, app: ASGIApp, token: str = "", hosts: Iterable[str] = (), any_address: bool = False) -> None:
        self.app, self.token = app, token
        self.hosts = frozenset(host.lower() for host in hosts)
        self.any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        scope.setdefault("state", {})["known"] = self._known(scope)
        problem = self._problem(scope)
        if problem:
            await _refuse(*problem, _with_headers(send))
            return
        await self.app(scope, receive, _with_headers(send))

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and sentence where a request is refused."""
        host, fetched = _one(scope, b"host"), _one(scope, b"sec-fetch-site")
        if host is None or not self._ours(host):
            return 421, "This server does not answer to that name; see --allow-host."
        reading = scope["method"] in ("GET", "HEAD")
        opened = reading and scope["path"] == "/" and _one(scope, b"sec-fetch-mode") == "navigate"
        if fetched not in (None, "", "same-origin", "none") and not opened:
            return 403, "Requests from other sites are refused."
        if not reading:
            scheme, _, place = (_one(scope, b"origin") or "").lower().partition("://")
            if scheme not in ("http", "https") or place != host.lower():
                return 403, "Requests from other sites are refused."
            if (_one(scope, b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
                return 415, "Send application/json."
        if scope["path"] not in OPEN and not scope["state"]["known"]:
            return 401, "The token is missing or wrong. Open the page with the link that the server printed."
        return None

    def _ours(self, host: str) -> bool:
        """Whether a Host header names this server. Numeric addresses cannot be pointed elsewhere by a look-up."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            return self.any_address and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _known(self, scope: Scope) -> bool:
        if not self.token:
            return True
        given = cookies(_one(scope, b"cookie") or "").get(cookie_name(scope), "")
        return hmac.compare_digest(given.encode(), session(self.token).encode())


def same(given: str, token: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def session(token: str) -> str:
    """Return the cookie that stands for a token: it proves knowledge of the token without holding it."""
    return hmac.new(token.encode(), b"l2i review", hashlib.sha256).hexdigest()


def cookie_name(scope: Scope) -> str:
    """Return the cookie's name: with the port, since browsers share cookies between ports of a host."""
    return f"l2i-review-{(scope.get('server') or ('', 0))[1]}"


def cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


def own_names(host: str) -> set[str]:
    """Return the names under which a server bound to ``host`` may be asked for."""
    names = {"localhost", "127.0.0.1", "::1", host.lower()}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return names - {"", "0.0.0.0", "::"}


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _one(scope: Scope, name: bytes) -> str | None:
    """Return a header's value, None where it is absent or given more than once."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *ours]
        await send(message)

    return wrapped


async def _refuse(status: int, text: str, send: Send) -> None:
    body = json.dumps({"error": text}).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
