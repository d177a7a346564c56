"""Where pixels come from: input shards in, batches of decoded rows out, in row order.

Three sources, by ``config.source``: the project's own fetcher, img2dataset's output shards, and img2dataset's
downloader. All decode with the same decoder, refuse duplicates alike and lose no row.
"""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TypeVar

from l2i_builder.config import Config
from l2i_builder.decode.pool import DecoderPool
from l2i_builder.fetch.fetcher import Fetcher
from l2i_builder.ingest.planning import InputShard, read_rows
from l2i_builder.safety.blocklists import Blocklists
from l2i_builder.safety.pdq import DECODER as PDQ_DECODER
from l2i_builder.safety.screen import Screen
from l2i_builder.sample import Batch, Row
from l2i_builder.source.canvases import Canvases
from l2i_builder.source.stream import Stream

T = TypeVar("T")

# Rows begun per request slot. A row that waits for its turn at a busy host takes no slot, so more rows than slots
# must be under way to keep the slots filled.
ROWS_PER_SLOT = 2


def make_source(config: Config) -> Source:
    """Make the source that ``config.source`` names, with its decoder processes. Raises L2IError."""
    if config.source == "img2dataset_shards":
        from l2i_builder.source.img2dataset_shards import ShardSource

        return ShardSource(config)
    if config.source == "img2dataset":
        from l2i_builder.source.img2dataset_downloader import DownloaderSource

        return DownloaderSource(config)
    return UrlSource(config)


class Source(ABC):
    """Streams batches of an input shard. An event loop in a thread of its own lives as long as the source."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._blocklists = Blocklists(config.safety)
        side = config.image.size
        self._canvases = Canvases((config.cluster.batch_rows, side, side, 3))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="source", daemon=True)
        self._thread.start()
        executor = ThreadPoolExecutor(thread_name_prefix="source")
        self._loop.set_default_executor(executor)
        self._resources = AsyncExitStack()
        self._resources.callback(executor.shutdown)
        self.close = weakref.finalize(self, _close, self._loop, self._thread, self._resources)
        try:
            # Inside the loop's thread: Linux ties the children's lives to the thread that starts them.
            self._pool: DecoderPool = self._run(self._open())
        except BaseException:
            self.close()
            raise

    @abstractmethod
    async def feed(self, stream: Stream, shard: InputShard) -> None:
        """Bring a body for every row that ``stream.wanted()`` names."""

    def batches(self, shard: InputShard) -> Iterator[Batch]:
        """Yield the shard's batches: rows [i*B, (i+1)*B) with B = ``cluster.batch_rows``, whatever became of them.

        Rows that are still in play have a slot in ``image`` (uint8 [N, S, S, 3]). Closing the iterator stops what is
        under way. Raises L2IError for what the user must mend; everything else ends in a row's reason.
        """
        yield from self.batches_of(read_rows(shard, self.config), shard)

    def batches_of(self, rows: list[Row], shard: InputShard) -> Iterator[Batch]:
        """Like ``batches``, for rows that have been read already; sets their fields."""
        screen = Screen.of(self.config, self._blocklists)
        screen.rows(rows)
        stream = self._run(self._stream(rows, shard, screen))
        try:
            while (batch := self._run(stream.next())) is not None:
                yield batch
        finally:
            self._run(stream.close())

    async def _open(self) -> DecoderPool:
        image = self.config.image
        workers = image.workers or max(1, math.ceil(self.config.cluster.fetcher_cpus))
        hashing = (PDQ_DECODER,) if self._blocklists.wants_pdq else ()
        pool = DecoderPool(image, workers, *hashing)
        self._resources.callback(pool.close)
        return pool

    async def _stream(self, rows: list[Row], shard: InputShard, screen: Screen) -> Stream:
        return Stream(rows, self.config, self._pool, lambda stream: self.feed(stream, shard), screen, self._canvases)

    def _run(self, work: Coroutine[object, object, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt of the caller
            raise


class UrlSource(Source):
    """Fetches every row's URL with the guarded fetcher. ``make_fetcher``: another one, with its interface."""

    def __init__(self, config: Config, make_fetcher: Callable[..., Fetcher] = Fetcher) -> None:
        self._make_fetcher = make_fetcher
        super().__init__(config)

    async def _open(self) -> DecoderPool:
        self._fetcher = await self._resources.enter_async_context(self._make_fetcher(self.config.fetch))
        return await super()._open()

    async def feed(self, stream: Stream, shard: InputShard) -> None:
        """Fetch in row order, ``fetch.concurrency`` requests at a time."""
        slots = asyncio.Semaphore(ROWS_PER_SLOT * self.config.fetch.concurrency)
        async with asyncio.TaskGroup() as group:
            for position, row in stream.wanted():
                await slots.acquire()
                await stream.room()
                group.create_task(self._fetch(stream, position, row, slots))

    async def _fetch(self, stream: Stream, position: int, row: Row, slots: asyncio.Semaphore) -> None:
        try:
            stream.deliver(position, await self._fetcher.fetch(row.url, row.expected_sha256))
        except Exception as error:
            stream.fail(position, error)
        finally:
            slots.release()


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, resources: AsyncExitStack) -> None:
    if threading.current_thread() is thread:  # the last reference was dropped there: it cannot wait for itself
        threading.Thread(target=_close, args=(loop, thread, resources)).start()
        return
    asyncio.run_coroutine_threadsafe(resources.aclose(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
