"""One input shard on its way from bodies to batches: in row order, with a bounded look-ahead.

Bodies arrive in any order and wait encoded; only the next few batches are decoded ahead of the consumer. So one
slow server holds up the batches behind it, but neither the requests nor the memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from l2i_builder.config import Config
from l2i_builder.decode.decoder import Decoded, DecodeRefusal
from l2i_builder.decode.pool import DecoderPool
from l2i_builder.errors import L2IError
from l2i_builder.fetch.fetcher import Fetched
from l2i_builder.safety.screen import Screen
from l2i_builder.sample import Batch, Reason, Row
from l2i_builder.source.canvases import Canvas, Canvases

AHEAD = 2  # batches decoded before they are asked for
WAITING_BYTES = 256 * 2**20  # bodies that wait to be decoded; above it no further row is begun


@dataclass(slots=True)
class _Outcome:
    """What came of a row, kept apart from it until it is known whether an earlier row has the same content."""

    fetched: Fetched | None = None
    decoded: Decoded | None = None
    refusal: tuple[Reason, str, str] | None = None  # reason, stage, detail


class Stream:
    """Takes bodies from ``feed``, gives batches. Lives in one event loop.

    ``feed(stream)`` brings a body for each of ``stream.wanted()`` with ``deliver`` or ``fail``, in any order, and
    calls ``room`` before it begins another row. A second row with the key of an earlier one is never wanted: a key
    is stored once. With ``fetch.dedup``, so is content: whatever arrives first, the first *row* has it.
    """

    def __init__(
        self,
        rows: list[Row],
        config: Config,
        pool: DecoderPool,
        feed: Callable[[Stream], Awaitable[None]],
        screen: Screen,
        canvases: Canvases,
    ) -> None:
        self._rows, self._config, self._pool, self._screen = rows, config, pool, screen
        self._canvases = canvases
        loop = asyncio.get_running_loop()
        self._bodies: list[asyncio.Future[Fetched]] = [loop.create_future() for _ in rows]
        self._first: dict[str, int] = {}  # sha256 -> first row, of those that have arrived, that has it
        self._waiting = 0
        self._freed = asyncio.Event()
        self._started = self._ended = time.perf_counter()
        self._idle = 0.0  # seconds the feed waited for room
        self._accounted = [0.0, pool.busy_seconds]  # fetch and decode seconds that batches have been given
        self._next = self._settled = 0  # rows handed to the decoders; rows handed out
        self._decoding: deque[asyncio.Task[tuple[list[_Outcome], Canvas]]] = deque()  # a task a batch
        self._refuse_repeated_keys()
        self._feed: asyncio.Future[None] = asyncio.ensure_future(feed(self))
        self._feed.add_done_callback(self._settle)

    # what a feed uses

    def wanted(self) -> Iterator[tuple[int, Row]]:
        """Yield (position, row) of the rows that need a body, in order."""
        return ((position, row) for position, row in enumerate(self._rows) if row.kept)

    async def room(self) -> None:
        """Return once the bodies that wait leave room for another."""
        start = time.perf_counter()
        while self._waiting > WAITING_BYTES:
            self._freed.clear()
            await self._freed.wait()
        self._idle += time.perf_counter() - start

    def deliver(self, position: int, fetched: Fetched) -> None:
        """Bring a row's body, or why there is none."""
        if self._bodies[position].done():  # the stream has been closed
            return
        if fetched.reason is None:
            self._waiting += len(fetched.data)
            self._first[fetched.sha256] = min(position, self._first.get(fetched.sha256, position))
        self._bodies[position].set_result(fetched)

    def fail(self, position: int, error: Exception) -> None:
        """Report what nobody expected; errors that are the user's to mend end the stream."""
        if isinstance(error, L2IError) and not self._bodies[position].done():
            self._bodies[position].set_exception(error)
        else:
            self.deliver(position, Fetched(reason=Reason.STAGE_ERROR, detail=_describe(error)))

    # what the consumer uses

    async def next(self) -> Batch | None:
        """Return the next batch, None after the last. Raises L2IError, and what ended the feed."""
        size = self._config.cluster.batch_rows
        while self._next < len(self._rows) and len(self._decoding) <= AHEAD:
            self._decoding.append(asyncio.create_task(self._outcomes(range(self._next, self._next + size))))
            self._next = min(self._next + size, len(self._rows))
        if not self._decoding:
            return None
        return self._batch(*await self._decoding.popleft())

    async def close(self) -> None:
        """Stop whatever is under way."""
        tasks: list[asyncio.Future] = [self._feed, *self._decoding]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._bodies, return_exceptions=True)

    # between the two

    def _refuse_repeated_keys(self) -> None:
        first: dict[str, int] = {}
        for position, row in enumerate(self._rows):
            owner = first.setdefault(row.key, position)
            if owner != position:
                row.refuse(Reason.DUPLICATE, "fetch", f"same URL and caption as row {owner} of this shard")

    def _settle(self, feed: asyncio.Future[None]) -> None:
        """Leave no row waiting when the feed ends."""
        self._ended = time.perf_counter()
        for position, body in enumerate(self._bodies):
            if body.done():
                continue
            if feed.cancelled() or not self._rows[position].kept:
                body.cancel()
            elif error := feed.exception():
                body.set_exception(error)
            else:
                self.deliver(position, Fetched(reason=Reason.STAGE_ERROR, detail="the source says nothing of it"))

    async def _outcomes(self, positions: range) -> tuple[list[_Outcome], Canvas]:
        positions = positions[: len(self._rows) - positions.start]
        canvas = Canvas(self._canvases)
        return await asyncio.gather(*(self._outcome(position, canvas) for position in positions)), canvas

    async def _outcome(self, position: int, canvas: Canvas) -> _Outcome:
        if not self._rows[position].kept:
            return _Outcome()
        body = await self._bodies[position]
        if body.reason is not None:
            return _Outcome(body, refusal=(body.reason, "fetch", body.detail))
        try:
            if self._config.fetch.dedup and self._first[body.sha256] < position:
                return _Outcome(body)  # a duplicate for certain: spare the decoder
            if refusal := self._screen.body(body.data, body.sha256):
                return _Outcome(body, refusal=refusal)
            decoded = await self._pool.decode(body.data, partial(canvas.place, position))
            if refusal := self._screen.picture(decoded.pdq):
                return _Outcome(body, refusal=refusal)
            return _Outcome(body, decoded)
        except DecodeRefusal as problem:
            return _Outcome(body, refusal=(problem.reason, "decode", problem.detail))
        except L2IError:
            raise
        except Exception as error:
            return _Outcome(body, refusal=(Reason.STAGE_ERROR, "decode", _describe(error)))
        finally:
            self._waiting -= len(body.data)
            body.data = b""
            self._freed.set()

    def _batch(self, outcomes: list[_Outcome], canvas: Canvas) -> Batch:
        """Settle the rows of a batch; called in row order, when every earlier row has arrived."""
        start = self._settled
        self._settled += len(outcomes)
        rows = self._rows[start : self._settled]
        live = []
        for slot, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
            if outcome.fetched is None:
                continue
            _record_body(row, outcome.fetched)
            if self._is_repeated(row, start + slot, outcome.fetched):
                continue
            if outcome.refusal is not None:
                row.refuse(*outcome.refusal)
            elif outcome.decoded is not None:
                _record_image(row, outcome.decoded)
                live.append(slot)
        batch = Batch(rows, np.array(live, dtype=np.int64), shard_rows=len(self._rows))
        batch.image = canvas.images([start + slot for slot in live])
        self._account(batch, outcomes)
        return batch

    def _is_repeated(self, row: Row, position: int, fetched: Fetched) -> bool:
        if fetched.reason is not None or not self._config.fetch.dedup:
            return False
        owner = self._first[fetched.sha256]
        if owner != position:
            row.refuse(Reason.DUPLICATE, "fetch", f"same content as row {owner} of this shard")
        return owner != position

    def _account(self, batch: Batch, outcomes: list[_Outcome]) -> None:
        """Note busy seconds since the last batch: of the feed, and of the decoders as a share of them all."""
        now = self._ended if self._feed.done() else time.perf_counter()
        totals = [now - self._started - self._idle, self._pool.busy_seconds]
        fetch, decode = (total - before for total, before in zip(totals, self._accounted, strict=True))
        self._accounted = totals
        batch.seconds.update(fetch=fetch, decode=decode / self._pool.workers)
        batch.images.update(fetch=sum(outcome.fetched is not None for outcome in outcomes), decode=len(batch))


def _record_body(row: Row, fetched: Fetched) -> None:
    row.status, row.content_type, row.bytes = fetched.status, fetched.content_type, fetched.size
    row.sha256, row.opt_out = fetched.sha256, fetched.opt_out


def _record_image(row: Row, decoded: Decoded) -> None:
    row.format, row.image_notes = decoded.format, ",".join(decoded.notes)
    row.original_width, row.original_height = decoded.width, decoded.height


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
