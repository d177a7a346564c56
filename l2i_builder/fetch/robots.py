"""robots.txt: asked for once per host, remembered, and obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from l2i_builder.fetch.guard import Refusal, Target
from l2i_builder.fetch.politeness import HostGate
from l2i_builder.fetch.robots_rules import Rules
from l2i_builder.sample import Reason

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309 asks for at least so much; what follows is not read
_REMEMBERED = 20_000  # origins
_REMEMBERED_BYTES = 16 * 2**20  # of their files; as rules they take up to ten times as much
_MAX_DELAY = 30.0  # seconds; a longer Crawl-delay would be a refusal in disguise

Verdict = Rules | Refusal
ReadRobots = Callable[[str], Awaitable[tuple[bytes, Refusal | None]]]


class RobotsCache:
    """Answers whether a host's robots.txt lets us fetch a URL.

    read: URL -> (body, why it could not be read). agent: our product token.

    As RFC 9309 has it, a robots.txt that is not there (4xx) allows everything, and one that cannot be reached (5xx,
    timeout, no connection, ...) nothing: the row then carries that failure, and may be tried again in a later run.
    """

    def __init__(self, read: ReadRobots, agent: str) -> None:
        self._read = read
        self._agent = agent
        self._verdicts: dict[str, asyncio.Task[Verdict]] = {}
        self._bytes = 0

    async def check(self, target: Target, gate: HostGate) -> None:
        """Raise Refusal if the URL may not be fetched: opted_out, or why robots.txt could not be read."""
        origin = f"{target.scheme}://{target.authority}"
        task = self._verdicts.get(origin)
        if task is None:
            if len(self._verdicts) >= _REMEMBERED or self._bytes >= _REMEMBERED_BYTES:
                self._bytes = 0
                self._verdicts = {name: other for name, other in self._verdicts.items() if not other.done()}
            task = self._verdicts[origin] = asyncio.create_task(self._ask(origin))
        verdict = await asyncio.shield(task)  # others wait for it too
        if isinstance(verdict, Refusal):
            self._verdicts.pop(origin, None)  # a failure is not remembered: the next URL asks again
            raise Refusal(verdict.reason, verdict.detail)
        if verdict.delay:
            gate.slow_down(min(verdict.delay, _MAX_DELAY))
        if not verdict.allow(target.path):
            raise Refusal(Reason.OPTED_OUT, "robots.txt: disallow")

    async def _ask(self, origin: str) -> Verdict:
        body, refusal = await self._read(f"{origin}/robots.txt")
        if refusal and refusal.reason is not Reason.HTTP_4XX:
            return Refusal(refusal.reason, f"robots.txt: {refusal.detail}")
        self._bytes += len(body)
        if len(body) >= MAX_ROBOTS_BYTES:
            body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]  # half a line may forbid more than the whole
        return await asyncio.to_thread(Rules, body.decode("utf-8-sig", "replace"), self._agent)

    async def close(self) -> None:
        """Stop asking."""
        for task in self._verdicts.values():
            task.cancel()
        await asyncio.gather(*self._verdicts.values(), return_exceptions=True)
