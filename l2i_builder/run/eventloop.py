"""Running a coroutine to its end from anywhere: a script, a thread, or a notebook's cell."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what ``work()`` returns. A notebook's cell runs inside a loop already: there it gets a thread.

    KeyboardInterrupt cancels the work, and goes on once it has cleaned up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    loop, ended = asyncio.new_event_loop(), threading.Event()

    async def told() -> T:
        try:
            return await work()
        finally:
            ended.set()

    thread = threading.Thread(target=loop.run_forever, name="l2i-driver", daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(told(), loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        ended.wait()
        raise
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
