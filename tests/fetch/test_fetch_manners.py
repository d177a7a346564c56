"""The fetcher's manners: trying again, waiting when asked to, limits, cancelling, configuration."""

import asyncio
import email.utils
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from fetching import fetch, fetch_all
from hostile_web import JPEG, PAGES, HostileWeb, answer, in_turn, silent, then_close

from l2i_builder.config import Fetch
from l2i_builder.errors import ConfigError
from l2i_builder.fetch import fetcher as fetch_module
from l2i_builder.fetch.fetcher import Fetched, Fetcher
from l2i_builder.sample import Reason


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with HostileWeb() as web:
        yield web


class TestRetries:
    @pytest.fixture(autouse=True)
    def no_backoff(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch_module, "_BACKOFF", 0.001)

    @pytest.mark.parametrize("path", ["/503", "/429", "/cut", "/206"])
    def test_transient_failures_are_tried_again(self, path):
        with HostileWeb({"/sometimes": in_turn(PAGES[path], PAGES[path], answer())}) as web:
            assert fetch(web, "/sometimes", retries=2).data == JPEG
            assert len(web.visits) == 3

    def test_only_so_often(self):
        with HostileWeb() as web:
            assert fetch(web, "/503", retries=2).reason is Reason.HTTP_5XX
            assert len(web.visits) == 3

    def test_after_silence_too(self):
        with HostileWeb({"/sometimes": in_turn(silent, answer())}) as web:
            assert fetch(web, "/sometimes", retries=1, timeout=1).data == JPEG

    @pytest.mark.parametrize("path", ["/404", "/html", "/noai", "/corrupt-gzip", "/endless", "/empty", "/to-loopback"])
    def test_what_would_end_the_same_is_not(self, path):
        with HostileWeb() as web:
            fetch(web, path, retries=5)
            assert len(web.visits) == 1

    @pytest.mark.parametrize(("error", "asked"), [(socket.EAI_AGAIN, 3), (socket.EAI_NONAME, 1)])
    def test_look_ups_that_failed_but_not_hosts_that_are_not_there(self, web, error, asked):
        count = 0

        async def lookup(host: str, port: int) -> list[str]:
            nonlocal count
            count += 1
            raise socket.gaierror(error, "x")

        assert fetch(web, "http://a.test/", lookup=lookup, retries=2).reason is Reason.DNS_ERROR
        assert count == asked

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_is_honoured(self, status, monkeypatch):
        waits = self.count_waits(monkeypatch)
        page = in_turn(answer(b"", status, "Retry-After: 7"), answer())
        with HostileWeb({"/later": page}) as web:
            assert fetch(web, "/later", retries=1).data == JPEG
        assert max(waits) == 7

    def test_retry_after_as_a_date(self, monkeypatch):
        waits = self.count_waits(monkeypatch)
        later = email.utils.formatdate(time.time() + 15, usegmt=True)
        with HostileWeb({"/later": in_turn(answer(b"", 429, f"Retry-After: {later}"), answer())}) as web:
            assert fetch(web, "/later", retries=1).data == JPEG
        assert max(waits) == pytest.approx(15, abs=5)

    @pytest.mark.parametrize("asked", ["21", "99999999999", "Fri, 31 Dec 2999 23:59:59 GMT"])
    def test_nobody_waits_longer_than_configured(self, asked, monkeypatch):
        waits = self.count_waits(monkeypatch)
        with HostileWeb({"/later": answer(b"", 429, f"Retry-After: {asked}")}) as web:
            assert fetch(web, "/later", retries=3, max_retry_after=20).reason is Reason.RATE_LIMITED
            assert len(web.visits) == 1
        assert max(waits, default=0) <= 20

    @pytest.mark.parametrize(
        "asked", ["soon", "-1", "", "Thu, 01 Jan 1970 00:00:00 GMT", "Xyz, 99 Foo 2020 99:99:99 GMT"]
    )
    def test_a_retry_after_that_says_nothing(self, asked):
        with HostileWeb({"/later": in_turn(answer(b"", 429, f"Retry-After: {asked}"), answer())}) as web:
            assert fetch(web, "/later", retries=1).data == JPEG

    def test_the_whole_host_is_left_alone_meanwhile(self, monkeypatch):
        waits = self.count_waits(monkeypatch)
        with HostileWeb({"/later": answer(b"", 429, "Retry-After: 9")}) as web:
            fetch_all(web, [web.url("/later"), web.url("/ok.jpg")])
        assert waits == pytest.approx([9], abs=1)

    def count_waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Wait for nothing, but write down for how long."""
        waits: list[float] = []
        sleep = asyncio.sleep

        async def note(seconds: float, *rest: object) -> None:
            if seconds > 1:
                waits.append(seconds)
                seconds = 0
            await sleep(seconds)

        monkeypatch.setattr(asyncio, "sleep", note)
        return waits


class TestManners:
    def at_once(self, hosts: int, **settings) -> int:
        async def main(web: HostileWeb) -> None:
            config = Fetch(connect_to={f"h{i}.test": web.address for i in range(hosts)}, **settings)
            async with Fetcher(config) as fetcher:
                urls = [web.url("/a", f"h{i % hosts}.test") for i in range(24)]
                reasons = {one.reason for one in await asyncio.gather(*map(fetcher.fetch, urls))}
                assert reasons == {None}

        async def slow(visit) -> None:
            await asyncio.sleep(0.05)
            await then_close(answer())(visit)

        with HostileWeb({"/a": slow}) as web:
            asyncio.run(main(web))
            return web.most_at_once

    def test_requests_at_once_to_one_host(self):
        assert self.at_once(1, per_host=3, concurrency=20) == 3

    def test_requests_at_once_altogether(self):
        assert self.at_once(8, per_host=3, concurrency=5) == 5

    def test_waiting_for_ones_turn_is_not_slowness(self):
        async def slow(visit) -> None:
            await asyncio.sleep(0.3)
            await then_close(answer())(visit)

        async def main(web: HostileWeb) -> list[Fetched]:
            async with Fetcher(Fetch(connect_to=web.connect_to, per_host=1, timeout=2, retries=0)) as fetcher:
                return await asyncio.gather(*(fetcher.fetch(web.url("/a")) for _ in range(8)))

        with HostileWeb({"/a": slow}) as web:
            assert {one.reason for one in asyncio.run(main(web))} == {None}


class TestCancelling:
    @pytest.mark.parametrize("path", ["/silent", "/slow-body"])
    def test_passes_through_and_frees_the_hosts_turn(self, path):
        async def main(web: HostileWeb) -> bytes:
            config = Fetch(connect_to=web.connect_to, per_host=1, concurrency=1)
            async with Fetcher(config) as fetcher:
                task = asyncio.create_task(fetcher.fetch(web.url(path)))
                await asyncio.to_thread(web.visited.wait, 10)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                return (await fetcher.fetch(web.url("/ok.jpg"))).data

        with HostileWeb() as web:
            assert asyncio.run(main(web)) == JPEG

    def test_leaving_the_fetcher_closes_its_connections(self):
        with HostileWeb() as web:
            fetch_all(web, [web.url("/ok.jpg")] * 3)
            assert web.drained()


class TestConfiguration:
    @pytest.mark.parametrize("agent", ["me\r\nX: y", "mé", "a\0b"])
    def test_a_user_agent_that_cannot_be_sent(self, agent):
        with pytest.raises(ConfigError, match=r"fetch\.user_agent"):
            Fetcher(Fetch(user_agent=agent))

    def test_a_concurrency_the_system_has_no_room_for(self, monkeypatch):
        monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
        with pytest.raises(ConfigError, match=r"fetch\.concurrency"):
            Fetcher(Fetch(concurrency=1000))

    def test_room_for_sockets_is_made_where_it_may_be(self, monkeypatch):
        asked = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
        Fetcher(Fetch(concurrency=128))
        assert asked == [(1536, 4096)]

    def test_is_used_inside_async_with(self):
        with pytest.raises(RuntimeError, match="async with"):
            asyncio.run(Fetcher(Fetch(connect_to={"a.test": "127.0.0.1:9"})).fetch("http://a.test/"))
