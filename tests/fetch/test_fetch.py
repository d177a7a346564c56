"""The fetcher against a hostile web: real HTTP on loopback, every kind of bad answer, and its reason."""

import asyncio
import gzip
import hashlib
import random
from collections.abc import Iterator

import pytest
from bad_inputs import BAD_ANSWERS, SLOW_ANSWERS
from fetching import fetch, fetch_all
from hostile_web import HOST, HTML, JPEG, PAGES, HostileWeb, answer, drip, redirect, then_close

from l2i_builder.config import Fetch
from l2i_builder.fetch import fetcher as fetch_module
from l2i_builder.fetch.fetcher import Fetched, Fetcher
from l2i_builder.sample import UNKNOWN, Reason


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with HostileWeb() as web:
        yield web


class TestGoodAnswers:
    def test_a_body_arrives_with_all_that_is_known_of_it(self, web):
        assert fetch(web, "/ok.jpg") == Fetched(
            data=JPEG,
            status=200,
            content_type="image/jpeg",
            sha256=hashlib.sha256(JPEG).hexdigest(),
            size=len(JPEG),
        )

    @pytest.mark.parametrize(
        "path",
        [
            *("/chunked", "/until-close", "/gzip", "/deflate", "/raw-deflate", "/identity", "/wrong-type"),
            *("/early-hints", "/long-header", "/moved", "/to-umlaut", "/chain/5", "/ok.jpg?a=b&c"),
        ],
    )
    def test_all_ways_of_sending_it_give_the_same_bytes(self, web, path):
        fetched = fetch(web, path)
        assert (fetched.reason, fetched.data, fetched.status) == (None, JPEG, 200)

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_large_bodies_too(self, encoding):
        body = JPEG + bytes(3_000_000)
        sent = gzip.compress(body, mtime=0) if encoding == "gzip" else body
        with HostileWeb({"/large": answer(sent, 200, f"Content-Encoding: {encoding}")}) as web:
            fetched = fetch(web, "/large", max_bytes=len(body))
        assert (fetched.reason, fetched.data == body) == (None, True)
        assert fetched.sha256 == hashlib.sha256(body).hexdigest()

    def test_the_request_says_who_asks_and_nothing_else(self, web):
        fetch(web, "/ok.jpg", user_agent="mybot/1.0 (+https://example.org)")
        headers = web.visits[-1].headers
        assert headers.pop("host") == HOST
        assert headers.pop("user-agent") == "mybot/1.0 (+https://example.org)"
        assert headers.pop("accept-encoding") == "identity, gzip;q=0.5"
        assert set(headers) <= {"accept", "connection"}

    def test_escapes_go_over_the_wire_as_they_are(self, web):
        fetch(web, "/%7Ea%2fb?sig=%2B+%20&x=a|b#fragment")
        assert web.visits[-1].path == "/%7Ea%2fb?sig=%2B+%20&x=a%7Cb"

    @pytest.mark.parametrize(
        ("header", "noted"),
        [
            ("Content-Type: Image/JPEG; charset=binary", "image/jpeg"),
            ("Content-Type: image/jpeg\r\nContent-Type: image/png", "image/jpeg"),
            ("Content-Type: \x1b[31m\xe9\x07", "?[31m??"),
            ("Content-Type: " + "x" * 500, "x" * 100),
            ("Content-Type:", ""),
        ],
    )
    def test_the_media_type_is_fit_for_a_ledger(self, header, noted):
        with HostileWeb({"/a": answer(JPEG, 200, header)}) as web:
            fetched = fetch(web, "/a")
        assert (fetched.content_type, fetched.data) == (noted, JPEG)

    def test_a_location_said_twice_is_taken_once(self):
        pages = {"/a": answer(b"", 302, "Location: /ok.jpg", "Location: /404")}
        with HostileWeb(pages) as web:
            assert fetch(web, "/a").data == JPEG

    def test_cookies_are_not_sent_back(self, web):
        fetch_all(web, [web.url("/cookie"), web.url("/ok.jpg")])
        assert "cookie" not in web.visits[-1].headers

    def test_connections_to_a_host_met_again_are_kept(self):
        with HostileWeb() as web:
            fetched = fetch_all(web, [web.url("/ok.jpg")] * 10)
            assert [one.reason for one in fetched] == [None] * 10
            assert web.connections == 2  # a first visit closes its own: most hosts are met once


BAD_PAGES = [(path, reason) for reason, paths in BAD_ANSWERS.items() for path in paths]


class TestBadAnswers:
    @pytest.mark.parametrize(("path", "reason"), BAD_PAGES)
    def test_has_the_reason(self, web, path, reason):
        fetched = fetch(web, path)
        assert (fetched.reason, fetched.data) == (reason, b"")
        assert fetched.detail.isprintable()
        assert fetched.detail

    @pytest.mark.parametrize("path", SLOW_ANSWERS)
    def test_slowness_ends_at_the_deadline(self, web, path):
        fetched = fetch(web, path, timeout=0.3)
        assert (fetched.reason, fetched.data) == (Reason.TIMEOUT, b"")

    def test_the_deadline_is_for_all_steps_of_a_redirect_together(self):
        async def slow_step(visit) -> None:
            await asyncio.sleep(0.3)
            await then_close(redirect(f"/step/{int(visit.path[6:]) + 1}"))(visit)

        pages = {f"/step/{number}": slow_step for number in range(5)} | {"/step/5": answer()}
        with HostileWeb(pages) as web:
            assert fetch(web, "/step/0", timeout=0.8).reason is Reason.TIMEOUT
            assert len(web.visits) < 5
            assert fetch(web, "/step/0", timeout=30).data == JPEG

    def test_every_page_of_the_hostile_web_is_in_a_table(self):
        good = {path for path, page in PAGES.items() if path not in {path for path, _ in BAD_PAGES}}
        assert good - set(SLOW_ANSWERS) == {
            *("/ok.jpg", "/chunked", "/until-close", "/gzip", "/deflate", "/raw-deflate", "/identity", "/wrong-type"),
            *("/early-hints", "/long-header", "/cookie", "/moved", "/pong", "/to-umlaut", "/b%C3%BCcher.jpg"),
            "/noai-others",
        }

    @pytest.mark.parametrize(("path", "reason"), BAD_PAGES)
    def test_is_told_the_same_way_twice(self, web, path, reason):
        del reason
        one, two = fetch_all(web, [web.url(path)] * 2)
        assert one == two

    def test_a_refused_body_is_still_described(self, web):
        fetched = fetch(web, "/html")
        assert (fetched.size, fetched.sha256) == (len(HTML), hashlib.sha256(HTML).hexdigest())
        assert (fetched.status, fetched.content_type) == (200, "text/html")

    def test_the_cap_is_the_largest_body_that_passes(self, web):
        assert fetch(web, "/ok.jpg", max_bytes=len(JPEG)).reason is None
        assert fetch(web, "/ok.jpg", max_bytes=len(JPEG) - 1).reason is Reason.BODY_TOO_LARGE
        assert fetch(web, "/gzip", max_bytes=len(JPEG) + 100).reason is None
        assert fetch(web, "/gzip", max_bytes=len(JPEG) - 1).reason is Reason.BODY_TOO_LARGE

    def test_a_host_that_misbehaved_is_fetched_from_again(self, web, monkeypatch):
        monkeypatch.setattr(fetch_module, "_BACKOFF", 0.001)
        urls = [web.url(path) for path, _ in BAD_PAGES if path not in ("/429", "/503")]
        fetched = fetch_all(web, [url for bad in urls for url in (bad, web.url("/ok.jpg"))], retries=1)
        assert {one.reason for one in fetched[1::2]} == {None}

    def test_random_bytes_never_raise(self):
        generator = random.Random(0)
        pages = {}
        for number in range(150):
            raw = bytearray(generator.choice([answer(), PAGES["/chunked"], PAGES["/gzip"], redirect("/ok.jpg")]))
            for _ in range(generator.randint(1, 12)):
                raw[generator.randrange(min(len(raw), 200))] = generator.randrange(256)
            pages[f"/{number}"] = then_close(bytes(raw))
        with HostileWeb(pages) as web:
            fetched = fetch_all(web, [web.url(path) for path in pages], timeout=1)
        assert {one.reason for one in fetched} <= {None, *Reason} - {Reason.STAGE_ERROR}
        assert all(one.data == b"" for one in fetched if one.reason)
        assert len({one.reason for one in fetched}) > 3


class TestBadUrls:
    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("", Reason.BAD_URL),
            ("http://web.test/a\r\nX: y", Reason.BAD_URL),
            ("http://web.test/" + "a" * 9000, Reason.BAD_URL),
            ("http://web.test/\ud800", Reason.BAD_URL),
            ("file:///etc/passwd", Reason.BAD_SCHEME),
            ("data:image/png;base64,AAAA", Reason.BAD_SCHEME),
            ("http://user:password@web.test/", Reason.URL_CREDENTIALS),
            ("http://169.254.169.254/latest/meta-data/", Reason.SSRF_BLOCKED),
            ("http://[::ffff:127.0.0.1]/", Reason.SSRF_BLOCKED),
            ("http://0x7f000001/", Reason.SSRF_BLOCKED),
        ],
    )
    def test_is_refused_without_a_request(self, web, url, reason):
        before = len(web.visits)
        fetched = fetch(web, url, retries=3)
        assert (fetched.reason, fetched.status) == (reason, UNKNOWN)
        assert len(web.visits) == before

    def test_the_password_is_nowhere_in_the_outcome(self, web):
        for url in ("http://user:secret@web.test/", web.url("/to-credentials")):
            assert "secret" not in repr(fetch(web, url))


class TestContent:
    GOOD = hashlib.sha256(JPEG).hexdigest()

    @pytest.mark.parametrize("promised", [GOOD, GOOD.upper(), f" {GOOD} ", ""])
    def test_the_promised_content(self, web, promised):
        assert self.promised(web, promised).data == JPEG

    @pytest.mark.parametrize("promised", ["0" * 64, GOOD[:-1], "nonsense"])
    def test_other_content(self, web, promised):
        fetched = self.promised(web, promised)
        assert (fetched.reason, fetched.data) == (Reason.HASH_MISMATCH, b"")
        assert (fetched.sha256, fetched.size) == (self.GOOD, len(JPEG))

    def promised(self, web: HostileWeb, sha256: str) -> Fetched:
        async def main() -> Fetched:
            async with Fetcher(Fetch(connect_to=web.connect_to)) as fetcher:
                return await fetcher.fetch(web.url("/gzip"), sha256)

        return asyncio.run(main())


class TestOptOut:
    def test_is_refused_by_its_headers_before_the_body_is_read(self):
        page = drip(answer(b"", 200, "X-Robots-Tag: noai", length=50_000))
        with HostileWeb({"/mine": page}) as web:
            fetched = fetch(web, "/mine")
        assert (fetched.reason, fetched.detail) == (Reason.OPTED_OUT, "x-robots-tag: noai")
        assert (fetched.opt_out, fetched.status) == ("x-robots-tag: noai", 200)

    def test_is_noted_even_where_it_is_not_respected(self, web):
        fetched = fetch(web, "/content-usage", respect_opt_out=False)
        assert (fetched.data, fetched.opt_out) == (JPEG, "content-usage: train-ai=n")

    def test_of_others_is_not_ours(self, web):
        assert fetch(web, "/noai-others").data == JPEG
        assert fetch(web, "/noai-others", user_agent="OtherBot/2.0").reason is Reason.OPTED_OUT

    def test_of_a_redirect_is_not_the_images(self):
        pages = {"/short": answer(b"", 302, "Location: /ok.jpg", "X-Robots-Tag: noindex")}
        with HostileWeb(pages) as web:
            assert fetch(web, "/short").data == JPEG
