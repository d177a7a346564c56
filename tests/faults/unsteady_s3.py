"""An object store behind a bad network: a TCP relay that refuses, cuts, stalls and answers 503, now and then."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter

BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class UnsteadyRelay:
    """Relays 127.0.0.1:``port`` to a server; ``trouble`` is the share of connections that something happens to."""

    def __init__(self, target: tuple[str, int], seed: int = 0) -> None:
        self.target, self.trouble, self.seen = target, 0.0, Counter[str]()
        self._draw = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fate = "through"
            if self._draw.random() < self.trouble:
                fate = self._draw.choice(["refuse", "busy", "cut upload", "cut download", "stall"])
            self.seen[fate] += 1
            threading.Thread(target=self._relay, args=(client, fate), daemon=True).start()

    def _relay(self, client: socket.socket, fate: str) -> None:
        with client:
            if fate == "refuse":
                return
            if fate == "busy":
                client.recv(65536)
                client.sendall(BUSY)
                return
            if fate == "stall":
                time.sleep(3)
                return
            with socket.create_connection(self.target) as server:
                limit = {"cut upload": (self._draw.randrange(200, 4000), None), "cut download": (None, 150)}
                up, down = limit.get(fate, (None, None))
                back = threading.Thread(target=_pump, args=(server, client, down), daemon=True)
                back.start()
                _pump(client, server, up)
                back.join()


def _pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    """Copy until the source ends, or ``limit`` bytes went through: then both ends are closed."""
    sent = 0
    try:
        while data := source.recv(65536):
            target.sendall(data if limit is None else data[: limit - sent])
            sent += len(data)
            if limit is not None and sent >= limit:
                break
        for end in (source, target):
            end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
