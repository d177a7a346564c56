"""A web of numbered pictures on loopback: what all benchmarks that fetch are served by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing.connection import Connection

HOST = "photos.test"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def ok(body: bytes) -> bytes:
    """Return the whole answer that carries a JPEG."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nCache-Control: max-age=86400\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def serve_numbers(pipe: Connection, answer: Callable[[int], tuple[bytes, bool]], latency: float) -> None:
    """Serve ``/<number>.jpg`` until killed; sends the port through ``pipe``.

    answer: number -> the bytes to send, and whether to hang up after them. latency: seconds before each answer.
    """

    class Server(asyncio.Protocol):
        transport: asyncio.Transport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            for request in data.split(b"\r\n\r\n")[:-1]:  # a request fits one segment on loopback
                sent, last = answer(int(request.split(b" ", 2)[1].strip(b"/.jpg")))
                last = last or b"\r\nconnection: close" in request.lower()
                asyncio.get_running_loop().call_later(latency, self.answer, sent, last)

        def answer(self, sent: bytes, last: bool) -> None:
            self.transport.write(sent)
            if last:
                self.transport.close()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())
