"""Measure fetching: images a second and CPU-milliseconds an image, over loopback HTTP.

    python -m benchmarks.fetch_throughput --images 4000 --latency-ms 0 100 --clients fetcher aiohttp img2dataset

Small JPEGs are served by a process of their own, so that the CPU time counted is the client's alone. Clients
run one after another, ``--repeat`` times, and the least CPU time of each is shown: on a shared machine the
least disturbed run is the one to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.pool import ThreadPool

import numpy as np
from PIL import Image

HOST = "photos.test"
IMAGES = 16  # different bodies, served in turn


@dataclass(frozen=True)
class Task:
    port: int  # of the server, on loopback
    images: int
    concurrency: int


def jpegs(side: int) -> list[bytes]:
    """Return IMAGES JPEG files of side x side pixels, always the same."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(IMAGES):
        pixels = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def serve(pipe: Connection, side: int, latency: float) -> None:
    """Serve until killed; sends the port through ``pipe``. latency: seconds before each answer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nCache-Control: max-age=86400\r\nContent-Length: %d\r\n\r\n"
    answers = [head % len(file) + file for file in jpegs(side)]

    class Server(asyncio.Protocol):
        transport: asyncio.Transport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            for request in data.split(b"\r\n\r\n")[:-1]:  # a request fits one segment on loopback
                number = int(request.split(b" ", 2)[1].strip(b"/.jpg"))
                last = b"\r\nconnection: close" in request.lower()
                asyncio.get_running_loop().call_later(latency, self.answer, answers[number % IMAGES], last)

        def answer(self, answer: bytes, last: bool) -> None:
            self.transport.write(answer)
            if last:
                self.transport.close()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def fetcher(task: Task) -> int:
    """The project's own fetcher, with everything it does in production. Returns the bytes fetched."""
    from l2i_builder.config import Fetch
    from l2i_builder.fetch.fetcher import Fetcher

    config = Fetch(concurrency=task.concurrency, per_host=task.concurrency, connect_to={HOST: f"127.0.0.1:{task.port}"})

    async def main() -> int:
        numbers = iter(range(task.images))
        total = 0

        async def worker(web: Fetcher) -> None:
            nonlocal total
            for number in numbers:
                fetched = await web.fetch(f"http://{HOST}/{number}.jpg")
                if fetched.reason:
                    raise SystemExit(f"{fetched.reason}: {fetched.detail}")
                total += fetched.size

        async with Fetcher(config) as web:
            await asyncio.gather(*(worker(web) for _ in range(task.concurrency)))
        return total

    return asyncio.run(main())


def aiohttp(task: Task) -> int:
    """A bare aiohttp session with nothing around it but the digest: what a client library alone costs."""
    import aiohttp

    async def main() -> int:
        numbers = iter(range(task.images))
        total = 0

        async def worker(session: aiohttp.ClientSession) -> None:
            nonlocal total
            for number in numbers:
                async with session.get(f"http://127.0.0.1:{task.port}/{number}.jpg", allow_redirects=False) as answer:
                    data = await answer.read()
                hashlib.sha256(data).hexdigest()
                total += len(data)

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            await asyncio.gather(*(worker(session) for _ in range(task.concurrency)))
        return total

    return asyncio.run(main())


def img2dataset(task: Task) -> int:
    """img2dataset's download function in a pool of threads, and the digest, as its Downloader does both."""
    from img2dataset.downloader import download_image_with_retry

    def one(number: int) -> int:
        row = (number, f"http://127.0.0.1:{task.port}/{number}.jpg")
        _, stream, error = download_image_with_retry(row, 10, 0, None, ["noai", "noimageai", "noindex", "noimageindex"])
        if error:
            raise SystemExit(error)
        data = stream.read()
        hashlib.sha256(data).hexdigest()
        return len(data)

    with ThreadPool(task.concurrency) as pool:
        return sum(pool.imap_unordered(one, range(task.images)))


CLIENTS: dict[str, Callable[[Task], int]] = {"fetcher": fetcher, "aiohttp": aiohttp, "img2dataset": img2dataset}


def measure(client: Callable[[Task], int], task: Task) -> tuple[float, float, int]:
    """Return wall seconds, CPU seconds and bytes of one run."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    size = client(task)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0, 100])
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--clients", nargs="+", choices=sorted(CLIENTS), default=["fetcher"])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'client':<12} {'latency ms':>10} {'images/s':>9} {'CPU-ms/image':>13} {'KB/image':>9}")
    for latency in arguments.latency_ms:
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        server = context.Process(target=serve, args=(there, arguments.side, latency / 1000), daemon=True)
        server.start()
        task = Task(here.recv(), arguments.images, arguments.concurrency)
        for name in arguments.clients:
            CLIENTS[name](Task(task.port, 2 * IMAGES, task.concurrency))  # imports and first connections
        runs = {name: [] for name in arguments.clients}  # type: dict[str, list[tuple[float, float, int]]]
        for _ in range(arguments.repeat):  # taking turns, so that all meet the same disturbance
            for name in arguments.clients:
                runs[name].append(measure(CLIENTS[name], task))
        server.kill()
        for name, results in runs.items():
            wall, cpu, size = min(results, key=lambda run: run[1])
            count = arguments.images
            print(
                f"{name:<12} {latency:>10g} {count / wall:>9.0f} {cpu / count * 1e3:>13.3f} {size / count / 1e3:>9.1f}"
            )


if __name__ == "__main__":
    main()
