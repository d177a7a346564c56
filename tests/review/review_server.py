"""The review app, served on loopback, and requests to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from l2i_builder.labels import LabelStore
from l2i_builder.review.samples import Samples
from l2i_builder.review.server import Address, listen, secured, serve


@dataclass
class Served:
    """A running review app."""

    samples: Samples
    store: LabelStore
    address: Address
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[HTTPResponse, bytes]:
        """Send a request as a page of this server would; ``headers`` replace its own ("" leaves one out)."""
        sent = {"Host": self.host, "Origin": f"http://{self.host}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        for name, value in (sent | {"Content-Length": str(len(data))}).items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def json(self, method: str, path: str, body: Any = None) -> Any:
        answer, content = self.ask(method, path, body)
        assert answer.status == 200, content
        return json.loads(content)


@contextmanager
def serving(
    out: str, folder: Path, token: str = "", allow: tuple[str, ...] = (), host: str = "127.0.0.1"
) -> Iterator[Served]:
    """Serve a run's review app until the block ends; labels go to ``folder``."""
    address = secured(Address(host, 0, token, allow))
    samples = Samples(out)
    samples.open()
    stops: list[Callable[[], None]] = []
    with LabelStore(folder / "labels.sqlite") as store, listen(address) as listening:
        there = threading.Event()

        def ready(stop: Callable[[], None]) -> None:
            stops.append(stop)
            there.set()

        thread = threading.Thread(target=serve, args=(samples, store, address, listening, ready))
        thread.start()
        there.wait(30)
        try:
            yield Served(samples, store, address, listening.getsockname()[1])
        finally:
            stops[0]()
            thread.join(30)
