"""A small web on loopback: serves the sample's photographs, and misbehaves the way the real web does."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

_TLS_HANDSHAKE = b"\x16"
_PIECES = 8  # a slow body comes in so many pieces


class SampleWeb:
    """Context manager: serves a sample folder on a free port of 127.0.0.1, from a thread.

    ``connect_to`` maps every host name of the sample to an address, for ``config.fetch.connect_to``: nothing is
    looked up and nothing leaves the machine. Only processes on the same machine reach it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        web = json.loads((self.folder / "web.json").read_text(encoding="utf-8"))
        self._server = _Server(self.folder, web["routes"])
        # Bound but not listening: connecting is refused, and nobody else can take the port meanwhile.
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{self._server.server_port}"
        refused = f"127.0.0.1:{self._closed.getsockname()[1]}"
        self.connect_to = dict.fromkeys(web["hosts"], address) | dict.fromkeys(web["closed"], refused)

    def __enter__(self) -> SampleWeb:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="sample-web", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._closed.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, folder: Path, routes: dict[str, dict]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.routes = folder, routes
        self._asked: dict[str, int] = {}
        self._lock = threading.Lock()

    def asked(self, path: str) -> int:
        """Count a request for ``path``; returns how often it was asked for before."""
        with self._lock:
            self._asked[path] = self._asked.get(path, 0) + 1
            return self._asked[path] - 1

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):  # clients that hang up are no news
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    """Answers by ``web.json``: a route has status, type, headers, file, and how to misbehave.

    fail_first: answer so many requests with 429 first; seconds: stretch the body over that time; promise: announce
    that many bytes more than are sent.
    """

    protocol_version = "HTTP/1.1"
    timeout = 30.0
    server: _Server

    def handle_one_request(self) -> None:
        if self.rfile.peek(1)[:1] == _TLS_HANDSHAKE:  # type: ignore[attr-defined]
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            self.close_connection = True
            return
        super().handle_one_request()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        if route is None:
            self._answer(404, {"Content-Type": "text/plain"}, b"not found\n")
        elif self.server.asked(path) < route.get("fail_first", 0):
            self._answer(429, {"Content-Type": "text/plain", "Retry-After": "1"}, b"slow down\n")
        else:
            body = (self.server.folder / route["file"]).read_bytes() if "file" in route else b""
            headers = {"Content-Type": route.get("type", "text/plain"), **route.get("headers", {})}
            self._answer(route.get("status", 200), headers, body, route.get("promise", 0), route.get("seconds", 0))

    def _answer(self, status: int, headers: dict[str, str], body: bytes, promise: int = 0, seconds: float = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + promise))
        self.end_headers()
        if seconds:
            size = -(-len(body) // _PIECES)
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])
                time.sleep(seconds / _PIECES)
        else:
            self.wfile.write(body)
        if promise:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a run's output belongs to the run."""
