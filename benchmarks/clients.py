"""HTTP clients alone: what fetching costs without decoding, for ``fetch_throughput``."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

HOST = "photos.test"
WARM_UP = 32  # requests before the clock starts: imports and first connections


@dataclass(frozen=True)
class Task:
    port: int  # of the server, on loopback
    images: int
    concurrency: int


@contextmanager
def refusing() -> Iterator[int]:
    """A port of loopback where connections are refused, and that nobody else can take meanwhile."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


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


def compare(
    args: argparse.Namespace, serving: Callable[[int, float, bool], AbstractContextManager[int]]
) -> list[dict[str, object]]:
    """Measure ``args.clients`` by turns, the least CPU time of each: the least disturbed run is the one to compare."""
    lines: list[dict[str, object]] = []
    print(f"{'client':<12} {'latency ms':>10} {'images/s':>9} {'CPU-ms/image':>13} {'KB/image':>9}")
    for latency in args.latency_ms:
        with serving(args.side, latency / 1000, False) as port:
            task = Task(port, args.images, args.concurrency)
            for name in args.clients:
                CLIENTS[name](Task(port, WARM_UP, args.concurrency))
            runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in args.clients}
            for _ in range(args.repeat):
                for name in args.clients:
                    runs[name].append(measure(CLIENTS[name], task))
        for name, results in runs.items():
            wall, cpu, size = min(results, key=lambda run: run[1])
            count = args.images
            print(
                f"{name:<12} {latency:>10g} {count / wall:>9.0f} {cpu / count * 1e3:>13.3f} {size / count / 1e3:>9.1f}"
            )
            lines.append(
                {"client": name, "latency_ms": latency, "per_second": count / wall, "cpu_ms": cpu / count * 1e3}
            )
    return lines
