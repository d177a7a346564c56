"""robots.txt, asked of a real server on loopback: obeyed, remembered, and what its absence means."""

import asyncio

import pytest
from hostile_web import HOST, JPEG, HostileWeb, Page, answer, in_turn, redirect, silent

from l2i_builder.config import Fetch
from l2i_builder.fetch import fetcher as fetch_module
from l2i_builder.fetch import robots as robots_module
from l2i_builder.fetch.fetcher import Fetched, Fetcher
from l2i_builder.fetch.guard import check_target
from l2i_builder.fetch.politeness import HostGate
from l2i_builder.sample import Reason

TEXT = "Content-Type: text/plain"


def rules(*lines: str) -> bytes:
    return answer("\n".join(lines).encode(), 200, TEXT)


def fetch(
    robots: Page, *paths: str, pages: dict[str, Page] | None = None, **settings
) -> tuple[list[Fetched], list[str]]:
    """Fetch paths, all at once, from a web with this robots.txt; return the outcomes and what was asked for."""

    async def main(web: HostileWeb) -> list[Fetched]:
        config = Fetch(**{"connect_to": web.connect_to, "respect_robots_txt": True, "retries": 0, **settings})
        async with Fetcher(config) as fetcher:
            return await asyncio.gather(*(fetcher.fetch(web.url(path)) for path in paths))

    with HostileWeb({"/robots.txt": robots, **(pages or {})}) as web:
        return asyncio.run(main(web)), web.paths()


class TestRules:
    def test_what_is_disallowed_is_not_asked_for(self):
        robots = rules("User-agent: *", "Disallow: /private/")
        (secret, public), asked = fetch(robots, "/private/a.jpg", "/ok.jpg")
        assert (secret.reason, secret.detail, secret.data) == (Reason.OPTED_OUT, "robots.txt: disallow", b"")
        assert public.data == JPEG
        assert sorted(asked) == ["/ok.jpg", "/robots.txt"]

    @pytest.mark.parametrize(
        ("lines", "allowed"),
        [
            (["User-agent: *", "Disallow: /"], False),
            (["User-agent: *", "Disallow:"], True),
            (["User-agent: otherbot", "Disallow: /"], True),
            (["User-agent: l2i-builder", "Disallow: /", "", "User-agent: *", "Disallow:"], False),
            (["User-agent: *", "Disallow: /", "", "User-agent: L2I-Builder", "Allow: /"], True),
            (["\ufeffUser-agent: *", "Disallow: /"], False),
            (["User-agent: *", "Disallow: /*.jpg$"], False),
            (["User-agent: *", "Crawl-delay: \u00b2"], True),
            (["User-agent: *", f"Crawl-delay: {'9' * 5000}"], True),
            (["<html>not a robots.txt</html>"], True),
            ([""], True),
        ],
    )
    def test_are_those_for_us(self, lines, allowed):
        (fetched,), _ = fetch(rules(*lines), "/ok.jpg")
        assert (fetched.reason is None) == allowed

    def test_are_asked_for_once(self):
        fetched, asked = fetch(rules("User-agent: *", "Disallow: /x"), *["/ok.jpg"] * 10)
        assert {one.reason for one in fetched} == {None}
        assert asked.count("/robots.txt") == 1

    def test_are_forgotten_before_they_fill_the_memory(self, monkeypatch):
        monkeypatch.setattr(robots_module, "_REMEMBERED_BYTES", 100)
        asked: list[str] = []

        async def read(url: str) -> tuple[bytes, None]:
            asked.append(url)
            return b"# " + b"x" * 58, None

        async def main() -> None:
            cache, gate = robots_module.RobotsCache(read, "x"), HostGate(1, 0)
            for host in ("a.test", "b.test", "b.test", "c.test", "b.test"):
                await cache.check(check_target(f"http://{host}/"), gate)

        asyncio.run(main())
        assert [url[7] for url in asked] == ["a", "b", "c", "b"]

    def test_are_not_asked_for_unless_wanted(self):
        (fetched,), asked = fetch(rules("User-agent: *", "Disallow: /"), "/ok.jpg", respect_robots_txt=False)
        assert fetched.data == JPEG
        assert asked == ["/ok.jpg"]

    def test_hold_for_every_step_of_a_redirect(self):
        robots = rules("User-agent: *", "Disallow: /private/")
        (fetched,), asked = fetch(robots, "/short", pages={"/short": redirect("/private/a.jpg")})
        assert fetched.reason is Reason.OPTED_OUT
        assert "/private/a.jpg" not in asked

    def test_may_themselves_be_behind_a_redirect(self):
        pages = {"/r.txt": rules("User-agent: *", "Disallow: /")}
        (fetched,), _ = fetch(redirect("/r.txt"), "/ok.jpg", pages=pages)
        assert fetched.reason is Reason.OPTED_OUT

    def test_beyond_the_cap_are_not_read(self):
        robots = rules("User-agent: *", "Disallow: /first", *["# " + "x" * 98] * 10_000, "Disallow: /")
        (first, last), _ = fetch(robots, "/first", "/ok.jpg", max_bytes=1000_000)
        assert (first.reason, last.reason) == (Reason.OPTED_OUT, None)

    def test_a_crawl_delay_spaces_requests(self, monkeypatch):
        waits = []
        sleep = asyncio.sleep

        async def note(seconds: float) -> None:
            waits.append(seconds)
            await sleep(0)

        monkeypatch.setattr(asyncio, "sleep", note)
        robots = rules("User-agent: *", "Crawl-delay: 20", "Disallow:")
        fetched, _ = fetch(robots, "/ok.jpg", "/ok.jpg", timeout=60)
        assert {one.reason for one in fetched} == {None}
        assert [wait for wait in waits if wait > 15] == pytest.approx([20], abs=4)


class TestAbsence:
    @pytest.mark.parametrize("status", [404, 403, 410])
    def test_no_robots_txt_allows_everything(self, status):
        (fetched,), _ = fetch(answer(b"", status), "/ok.jpg")
        assert fetched.data == JPEG

    def test_an_empty_one_too(self):
        (fetched,), _ = fetch(answer(b"", 200, TEXT), "/ok.jpg")
        assert fetched.data == JPEG

    @pytest.mark.parametrize(
        ("robots", "reason", "detail"),
        [
            (answer(b"", 503), Reason.HTTP_5XX, "robots.txt: HTTP 503"),
            (answer(b"", 429), Reason.RATE_LIMITED, "robots.txt: HTTP 429"),
            (silent, Reason.TIMEOUT, "robots.txt: no complete answer in time"),
            (redirect("http://127.0.0.1/"), Reason.SSRF_BLOCKED, None),
            (redirect("/robots.txt"), Reason.TOO_MANY_REDIRECTS, "robots.txt: more than 5 redirects"),
        ],
    )
    def test_one_that_cannot_be_read_stands_in_the_way(self, robots, reason, detail):
        (fetched,), asked = fetch(robots, "/ok.jpg", timeout=1.5)
        assert fetched.reason is reason
        assert detail in (fetched.detail, None)
        assert "/ok.jpg" not in asked

    def test_a_failure_is_tried_again_and_not_remembered(self, monkeypatch):
        monkeypatch.setattr(fetch_module, "_BACKOFF", 0.001)
        broken = answer(b"", 503)
        (fetched,), _ = fetch(in_turn(broken, broken, rules("User-agent: *", "Disallow:")), "/ok.jpg", retries=2)
        assert fetched.data == JPEG

        async def main(web: HostileWeb) -> list[Fetched]:
            async with Fetcher(Fetch(connect_to=web.connect_to, respect_robots_txt=True, retries=0)) as fetcher:
                return [await fetcher.fetch(web.url("/ok.jpg")) for _ in range(2)]

        with HostileWeb({"/robots.txt": in_turn(broken, rules("User-agent: *", "Disallow:"))}) as web:
            assert [one.reason for one in asyncio.run(main(web))] == [Reason.HTTP_5XX, None]


def test_cancelling_one_fetch_does_not_take_the_rules_from_the_others():
    async def late(visit) -> None:
        await asyncio.sleep(0.2)
        visit.writer.write(rules("User-agent: *", "Disallow:"))
        await visit.writer.drain()

    async def main(web: HostileWeb) -> bytes:
        async with Fetcher(Fetch(connect_to=web.connect_to, respect_robots_txt=True, retries=0)) as fetcher:
            first, second = (asyncio.create_task(fetcher.fetch(web.url("/ok.jpg", HOST))) for _ in range(2))
            await asyncio.to_thread(web.visited.wait, 10)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return (await second).data

    with HostileWeb({"/robots.txt": late}) as web:
        assert asyncio.run(main(web)) == JPEG
