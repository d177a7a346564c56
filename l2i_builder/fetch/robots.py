"""robots.txt: asked for once per host, remembered, and obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.robotparser import RobotFileParser

from l2i_builder.fetch.guard import Refusal, Target
from l2i_builder.fetch.politeness import HostGate
from l2i_builder.sample import Reason

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309 asks for at least so much; what follows is not read
_REMEMBERED = 20_000  # origins
_MAX_DELAY = 30.0  # seconds; a longer Crawl-delay would be a refusal in disguise

Verdict = RobotFileParser | Refusal
ReadRobots = Callable[[str], Awaitable[tuple[bytes, Refusal | None]]]


class RobotsCache:
    """Answers whether a host's robots.txt lets us fetch a URL.

    read: URL -> (body, why it could not be read). agent: our product token.

    Rules are those of ``urllib.robotparser``: the first matching line decides, no wildcards. As RFC 9309 has
    it, a robots.txt that is not there (4xx) allows everything, and one that cannot be reached (5xx, timeout,
    no connection, ...) nothing: the row then carries that failure, and may be tried again in a later run.
    """

    def __init__(self, read: ReadRobots, agent: str) -> None:
        self._read = read
        self._agent = agent
        self._verdicts: dict[str, asyncio.Task[Verdict]] = {}

    async def check(self, target: Target, gate: HostGate) -> None:
        """Raise Refusal if the URL may not be fetched: opted_out, or why robots.txt could not be read."""
        origin = f"{target.scheme}://{target.authority}"
        task = self._verdicts.get(origin)
        if task is None:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts = {name: other for name, other in self._verdicts.items() if not other.done()}
            task = self._verdicts[origin] = asyncio.create_task(self._ask(origin))
        verdict = await asyncio.shield(task)  # others wait for it too
        if isinstance(verdict, Refusal):
            self._verdicts.pop(origin, None)  # a failure is not remembered: the next URL asks again
            raise Refusal(verdict.reason, verdict.detail)
        delay = verdict.crawl_delay(self._agent)
        if delay:
            gate.slow_down(min(float(delay), _MAX_DELAY))
        if not verdict.can_fetch(self._agent, str(target)):
            raise Refusal(Reason.OPTED_OUT, "robots.txt: disallow")

    async def _ask(self, origin: str) -> Verdict:
        body, refusal = await self._read(f"{origin}/robots.txt")
        rules = RobotFileParser()
        if refusal and refusal.reason is not Reason.HTTP_4XX:
            return Refusal(refusal.reason, f"robots.txt: {refusal.detail}")
        rules.parse([] if refusal else body.decode("utf-8-sig", "replace").splitlines())
        return rules

    async def close(self) -> None:
        """Stop asking."""
        for task in self._verdicts.values():
            task.cancel()
        await asyncio.gather(*self._verdicts.values(), return_exceptions=True)
