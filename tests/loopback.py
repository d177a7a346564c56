"""A web server on loopback that serves given bodies and counts what was asked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class Loopback:
    """Serves ``bodies`` (path -> bytes) on 127.0.0.1; ``asked`` counts GETs by path; ``pause`` delays each body."""

    def __init__(self, bodies: dict[str, bytes], pause: float = 0.0, headers: dict[str, str] | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self.bodies = bodies
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                asked[self.path] += 1
                self.answer(with_body=True)

            def answer(self, with_body: bool) -> None:
                body = bodies.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                if self.path.endswith("/"):
                    self.send_header("Content-Type", "text/html")
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body and body:
                    time.sleep(pause)
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Loopback:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
