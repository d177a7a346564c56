"""The fetcher against a hostile web: real HTTP(S) on loopback, every kind of bad answer, and its reason."""

import asyncio
import contextlib
import email.utils
import hashlib
import random
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
from hostile_web import HOST, HTML, JPEG, PAGES, HostileWeb, answer, drip, in_turn, redirect, silent, then_close
from throwaway_tls import Authority

from l2i_builder import fetch as fetch_module
from l2i_builder.config import Fetch
from l2i_builder.errors import ConfigError
from l2i_builder.fetch import Fetched, Fetcher
from l2i_builder.guard import Guard
from l2i_builder.sample import UNKNOWN, Reason

SETTINGS = {"retries": 0, "timeout": 10.0, "max_bytes": 100_000}


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with HostileWeb() as web:
        yield web


def fetch_all(web: HostileWeb, urls: list[str], *, lookup=None, ssl_context=None, **settings) -> list[Fetched]:
    """Fetch one after another with one fetcher. The only names that exist are those of ``connect_to``."""
    config = Fetch(**{"connect_to": web.connect_to, **SETTINGS, **settings})

    async def main() -> list[Fetched]:
        async with Fetcher(config, lookup=lookup or nobody, ssl_context=ssl_context) as fetcher:
            return [await fetcher.fetch(url) for url in urls]

    return asyncio.run(main())


def fetch(web: HostileWeb, url: str, **settings) -> Fetched:
    return fetch_all(web, [web.url(url) if url.startswith("/") else url], **settings)[0]


async def nobody(host: str, port: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "no such host")


def names(table: dict[str, str]) -> Callable:
    """A look-up that knows these hosts: name -> addresses."""

    async def lookup(host: str, port: int) -> list[str]:
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return table[host].split()

    return lookup


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


BAD_ANSWERS = {
    Reason.HTTP_4XX: ["/404", "/410", "/403", "/999"],
    Reason.RATE_LIMITED: ["/429"],
    Reason.HTTP_5XX: ["/500", "/503"],
    Reason.EMPTY_BODY: ["/empty", "/204", "/empty-gzip"],
    Reason.BODY_TRUNCATED: ["/cut", "/cut-chunks", "/reset-body", "/206"],
    Reason.BODY_TOO_LARGE: [
        "/endless",
        "/endless-chunks",
        "/announced-huge",
        "/gzip-bomb",
        "/gzip-bomb-chunked",
        "/deflate-bomb",
    ],
    Reason.BAD_ENCODING: [
        "/corrupt-gzip",
        "/not-gzip",
        "/cut-gzip",
        "/gzip-and-more",
        "/gzip-twice",
        "/brotli",
        "/bad-chunk",
        "/bad-second-chunk",
    ],
    Reason.CONNECT_ERROR: [
        "/closed",
        "/reset",
        "/cut-headers",
        "/not-http",
        "/shoutcast",
        "/bad-length",
        "/two-lengths",
        "/nul-header",
        "/huge-headers",
        "/many-headers",
        "/101",
    ],
    Reason.NOT_IMAGE: ["/html", "/html-as-jpeg", "/html-latin1", "/json", "/text", "/304", "/nowhere"],
    Reason.TOO_MANY_REDIRECTS: ["/loop", "/ping", "/chain/6"],
    Reason.BAD_SCHEME: ["/to-file"],
    Reason.URL_CREDENTIALS: ["/to-credentials"],
    Reason.SSRF_BLOCKED: ["/to-loopback", "/to-metadata", "/to-mapped", "/to-decimal"],
    Reason.DNS_ERROR: ["/to-private-name"],
    Reason.BAD_URL: ["/to-nonsense", "/to-long"],
    Reason.OPTED_OUT: ["/noai", "/noai-us", "/content-usage"],
}
SLOW_ANSWERS = ["/silent", "/slow-headers", "/slow-body", "/slow-chunks", "/endless-hints"]
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

    def test_a_host_that_misbehaved_is_fetched_from_again(self, web):
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


class TestAddressGuard:
    """Private addresses are out of reach by every road; the server on loopback sees no request."""

    def refused(self, web: HostileWeb, url: str, **options) -> bool:
        before = len(web.visits), web.connections
        fetched = fetch(web, url, **options)
        return fetched.reason is Reason.SSRF_BLOCKED and (len(web.visits), web.connections) == before

    def test_the_servers_own_address(self, web):
        assert self.refused(web, f"http://{web.address}/ok.jpg")

    @pytest.mark.parametrize("found", ["127.0.0.1", "8.8.8.8 127.0.0.1", "127.0.0.1 8.8.8.8", "::1", "10.0.0.1"])
    def test_a_name_for_it(self, web, found):
        assert self.refused(web, f"http://evil.test:{web.port}/ok.jpg", lookup=names({"evil.test": found}))

    def test_another_host_at_a_connect_to_address(self, web):
        lookup = names({"evil.test": "127.0.0.1", f"x.{HOST}": "127.0.0.1"})
        for host in ("evil.test", f"x.{HOST}"):
            assert self.refused(web, f"http://{host}:{web.port}/ok.jpg", lookup=lookup)

    def test_connect_to_with_a_port_is_for_that_port(self, web):
        connect_to = {f"{HOST}:8000": web.address}
        assert fetch(web, f"http://{HOST}:8000/ok.jpg", connect_to=connect_to).reason is None
        assert fetch(web, f"http://{HOST}:8001/ok.jpg", connect_to=connect_to).reason is Reason.DNS_ERROR

    def test_an_address_let_through_by_name(self, web):
        connect_to = {web.address: web.address}
        assert fetch(web, f"http://{web.address}/ok.jpg", connect_to=connect_to).reason is None

    def test_a_redirect_from_a_public_host_to_a_private_one(self, web):
        fetched = fetch(web, "/to-private-name", lookup=names({"intranet.test": "192.168.0.10"}))
        assert (fetched.reason, fetched.status) == (Reason.SSRF_BLOCKED, 302)

    def test_an_answer_that_changes_between_two_requests(self, web, monkeypatch):
        # Loopback stands in for a public address here, so that the first request gets somewhere.
        monkeypatch.setattr("l2i_builder.guard.is_public", lambda ip: ip == "127.0.0.1")
        monkeypatch.setattr("l2i_builder.guard._TTL", 0)
        found = ["127.0.0.1", "10.0.0.1"]

        async def rebinding(host: str, port: int) -> list[str]:
            return [found.pop(0)]

        urls = [f"http://evil.test:{web.port}/ok.jpg"] * 2
        reasons = [one.reason for one in fetch_all(web, urls, lookup=rebinding)]
        assert reasons == [None, Reason.SSRF_BLOCKED]

    def test_one_look_up_serves_check_and_connection(self, web, monkeypatch):
        monkeypatch.setattr("l2i_builder.guard.is_public", lambda ip: ip == "127.0.0.1")
        asked = []

        async def lookup(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

        assert fetch(web, f"http://evil.test:{web.port}/ok.jpg", lookup=lookup).reason is None
        assert asked == ["evil.test"]

    def test_the_socket_is_refused_even_if_the_look_up_is_fooled(self, web, monkeypatch):
        async def fooled(self: Guard, host: str, port: int) -> list[tuple[str, int]]:
            return [("127.0.0.1", port)]

        monkeypatch.setattr(Guard, "resolve", fooled)
        assert self.refused(web, f"http://evil.test:{web.port + 1}/ok.jpg", connect_to={})


class TestConnecting:
    def test_no_such_host(self, web):
        assert fetch(web, "http://nowhere.test/").reason is Reason.DNS_ERROR

    def test_refused(self, web):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]  # bound, but nobody listens
            fetched = fetch(web, f"http://{HOST}/", connect_to={HOST: f"127.0.0.1:{port}"})
        assert (fetched.reason, fetched.detail) == (Reason.CONNECT_ERROR, "connection: ECONNREFUSED")

    def test_a_look_up_without_end(self, web):
        async def never(host: str, port: int) -> list[str]:
            await asyncio.sleep(3600)
            return []

        assert fetch(web, "http://slow.test/", lookup=never, timeout=0.2).reason is Reason.TIMEOUT

    def test_a_connection_without_end(self, web):
        with socket.socket() as full, contextlib.ExitStack() as stack:
            full.bind(("127.0.0.1", 0))
            full.listen(0)  # its queue is filled, so that the next one waits for ever
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            connect_to = {HOST: f"127.0.0.1:{full.getsockname()[1]}"}
            fetched = fetch(web, f"http://{HOST}/", connect_to=connect_to, connect_timeout=0.2)
        assert (fetched.reason, fetched.detail) == (Reason.TIMEOUT, "no connection in time")


class TestTls:
    @pytest.fixture(scope="class")
    def authority(self, tmp_path_factory) -> Authority:
        return Authority(tmp_path_factory.mktemp("tls"))

    def outcome(self, authority: Authority, server: ssl.SSLContext, host: str = HOST) -> Fetched:
        with HostileWeb(tls=server) as web:
            return fetch(web, web.url("/ok.jpg", host), connect_to={host: web.address}, ssl_context=authority.trust())

    def test_a_trusted_certificate(self, authority):
        assert self.outcome(authority, authority.server(HOST)).data == JPEG

    @pytest.mark.parametrize(
        ("named", "days_left", "detail"),
        [(HOST, -1, "certificate: certificate has expired"), ("other.test", 1, "certificate: Hostname mismatch")],
    )
    def test_a_bad_certificate(self, authority, named, days_left, detail):
        fetched = self.outcome(authority, authority.server(named, days_left))
        assert fetched.reason is Reason.TLS_ERROR
        assert fetched.detail.startswith(detail)

    def test_a_stranger(self, authority, tmp_path):
        fetched = self.outcome(authority, Authority(tmp_path).server(HOST))
        assert (fetched.reason, fetched.status) == (Reason.TLS_ERROR, UNKNOWN)

    def test_the_systems_roots_are_used_by_default(self, authority):
        with HostileWeb(tls=authority.server(HOST)) as web:
            assert fetch(web, "/ok.jpg").reason is Reason.TLS_ERROR

    def test_plain_http_where_tls_is_expected(self):
        with HostileWeb(greeting=answer(b"", 400)) as plain:
            fetched = fetch(plain, f"https://{HOST}/ok.jpg")
        assert (fetched.reason, fetched.detail) == (Reason.TLS_ERROR, "TLS: WRONG_VERSION_NUMBER")

    def test_tls_where_plain_http_is_expected(self, authority):
        with HostileWeb(tls=authority.server(HOST)) as web:
            assert fetch(web, f"http://{HOST}/ok.jpg").reason is Reason.CONNECT_ERROR

    def test_a_redirect_to_plain_http_is_followed(self, web, authority):
        pages = {"/down": redirect("http://plain.test/ok.jpg")}
        with HostileWeb(pages, tls=authority.server(HOST)) as secure:
            connect_to = {**secure.connect_to, "plain.test": web.address}
            fetched = fetch(secure, "/down", connect_to=connect_to, ssl_context=authority.trust())
        assert fetched.data == JPEG


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
            assert fetch(web, "/sometimes", retries=1, timeout=0.3).data == JPEG

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
            await asyncio.sleep(0.2)
            await then_close(answer())(visit)

        async def main(web: HostileWeb) -> list[Fetched]:
            async with Fetcher(Fetch(connect_to=web.connect_to, per_host=1, timeout=0.7, retries=0)) as fetcher:
                return await asyncio.gather(*(fetcher.fetch(web.url("/a")) for _ in range(6)))

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


class TestProxies:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)

    @pytest.fixture
    def proxy(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileWeb]:
        with HostileWeb({"http://photos.test/a.jpg": answer(), "photos.test:443": answer(b"", 403)}) as proxy:
            for name in ("http_proxy", "https_proxy"):
                monkeypatch.setenv(name, f"http://proxy.corp:{proxy.port}")
            yield proxy

    CORP = staticmethod(names({"proxy.corp": "127.0.0.1", "photos.test": "8.8.8.8"}))

    def test_of_the_environment_are_not_used(self, web, proxy):
        assert fetch(web, "/ok.jpg").data == JPEG
        assert proxy.connections == 0

    def test_are_used_when_asked_for_though_their_address_is_private(self, proxy):
        fetched = fetch(proxy, "http://photos.test/a.jpg", connect_to={}, use_proxy_env=True, lookup=self.CORP)
        assert fetched.data == JPEG
        assert proxy.paths() == ["http://photos.test/a.jpg"]

    def test_that_refuse_a_tunnel_are_a_connect_error(self, proxy):
        fetched = fetch(proxy, "https://photos.test/a.jpg", connect_to={}, use_proxy_env=True, lookup=self.CORP)
        assert fetched.reason is Reason.CONNECT_ERROR
        assert proxy.visits[0].head.startswith(b"CONNECT photos.test:443 ")

    def test_are_passed_by_for_connect_to(self, web, proxy):
        assert fetch(web, "/ok.jpg", use_proxy_env=True).data == JPEG
        assert proxy.connections == 0

    def test_cannot_be_reached_as_a_website(self, proxy, monkeypatch):
        monkeypatch.setenv("no_proxy", "proxy.corp")
        url = f"http://proxy.corp:{proxy.port}/admin"
        fetched = fetch(proxy, url, connect_to={}, use_proxy_env=True, lookup=self.CORP)
        assert fetched.reason is Reason.SSRF_BLOCKED
        assert proxy.connections == 0

    def test_do_not_open_private_addresses_in_urls(self, proxy):
        fetched = fetch(proxy, "http://169.254.169.254/", connect_to={}, use_proxy_env=True, lookup=self.CORP)
        assert fetched.reason is Reason.SSRF_BLOCKED
        assert proxy.connections == 0

    def test_passwords_of_a_netrc_file_are_not_sent(self, web, tmp_path, monkeypatch):
        (tmp_path / "netrc").write_text(f"machine {HOST} login user password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        fetch(web, "/ok.jpg", use_proxy_env=True)
        assert "authorization" not in web.visits[-1].headers


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
