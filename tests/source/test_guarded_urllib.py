"""GuardedOpener: urlopen for img2dataset's downloader, behind the address guard."""

import socket
import threading
import time

import pytest
from hostile_web import HOST, HTML, JPEG, HostileWeb, silent
from throwaway_tls import Authority

from l2i_builder.config import Fetch
from l2i_builder.fetch.guard import Refusal
from l2i_builder.sample import Reason
from l2i_builder.source.guarded_urllib import GuardedOpener, Request


@pytest.fixture
def web():
    with HostileWeb() as server:
        yield server


@pytest.fixture
def make_opener(web):
    openers = []

    def make(deadline=60.0, ssl_context=None, **fetch):
        settings = {"connect_to": web.connect_to, "timeout": 5, "max_bytes": 1_000_000, **fetch}
        openers.append(GuardedOpener(Fetch(**settings), deadline, ssl_context))
        return openers[-1]

    yield make
    for opener in openers:
        opener.cancel()
        opener.close()


def refusal(opener, url):
    with pytest.raises(Refusal) as caught:
        opener.urlopen(Request(url), timeout=99)
    return caught.value


@pytest.mark.parametrize("path", ["/ok.jpg", "/chunked", "/until-close", "/moved", "/chain/3", "/to-umlaut"])
def test_images_come_through(web, make_opener, path):
    opener = make_opener()
    with opener.urlopen(Request(web.url(path)), timeout=99) as body:
        assert body.read() == JPEG
        assert body.headers["Content-Type"] == "image/jpeg"
    answer = opener.answers[web.url(path)]
    assert (answer.status, answer.content_type, answer.opt_out) == (200, "image/jpeg", "")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/404", Reason.HTTP_4XX),
        ("/429", Reason.RATE_LIMITED),
        ("/503", Reason.HTTP_5XX),
        ("/206", Reason.BODY_TRUNCATED),
        ("/nowhere", Reason.NOT_IMAGE),
        ("/loop", Reason.TOO_MANY_REDIRECTS),
        ("/chain/6", Reason.TOO_MANY_REDIRECTS),
        ("/to-file", Reason.BAD_SCHEME),
        ("/to-credentials", Reason.URL_CREDENTIALS),
        ("/to-loopback", Reason.SSRF_BLOCKED),
        ("/to-metadata", Reason.SSRF_BLOCKED),
        ("/to-mapped", Reason.SSRF_BLOCKED),
        ("/to-nonsense", Reason.BAD_URL),
        ("/announced-huge", Reason.TIMEOUT),
        ("/endless", Reason.BODY_TOO_LARGE),
        ("/endless-chunks", Reason.BODY_TOO_LARGE),
        ("/cut", Reason.BODY_TRUNCATED),
        ("/cut-chunks", Reason.BODY_TRUNCATED),
        ("/closed", Reason.CONNECT_ERROR),
        ("/not-http", Reason.CONNECT_ERROR),
        ("/many-headers", Reason.CONNECT_ERROR),
        ("/noai", Reason.OPTED_OUT),
        ("/content-usage", Reason.OPTED_OUT),
    ],
)
def test_what_the_web_does_has_its_reason(web, make_opener, path, reason):
    opener = make_opener(timeout=1 if reason is Reason.TIMEOUT else 5)
    assert refusal(opener, web.url(path)).reason is reason


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", Reason.BAD_URL),
        ("no scheme", Reason.BAD_URL),
        ("file:///etc/passwd", Reason.BAD_SCHEME),
        ("data:image/png;base64,AAAA", Reason.BAD_SCHEME),
        ("ftp://web.test/", Reason.BAD_SCHEME),
        ("http://me:secret@web.test/ok.jpg", Reason.URL_CREDENTIALS),
        ("http://169.254.169.254/latest", Reason.SSRF_BLOCKED),
        ("http://[::1]/", Reason.SSRF_BLOCKED),
        ("http://localhost/", Reason.SSRF_BLOCKED),
    ],
)
def test_what_may_not_be_opened_is_not(make_opener, url, reason):
    assert refusal(make_opener(), url).reason is reason


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Reason.DNS_ERROR),
        (["10.0.0.1"], Reason.SSRF_BLOCKED),
        (["93.184.216.34", "127.0.0.1"], Reason.SSRF_BLOCKED),
    ],
    ids=["unknown", "private", "one private of two"],
)
def test_names_are_judged_by_all_their_addresses(make_opener, monkeypatch, addresses, reason):
    def look_up(host, port, **_):
        if isinstance(addresses, OSError):
            raise addresses
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert refusal(make_opener(), "http://somewhere.example/a.jpg").reason is reason


@pytest.mark.parametrize("path", ["/slow-headers", "/slow-body", "/slow-chunks", "/silent"])
def test_one_deadline_covers_the_whole_answer(web, make_opener, path):
    """Every packet of these comes well within any timeout of a single read."""
    assert refusal(make_opener(timeout=1), web.url(path)).reason is Reason.TIMEOUT


def test_the_deadline_of_all_ends_what_is_under_way(web, make_opener):
    assert refusal(make_opener(deadline=1, timeout=1000), web.url("/slow-body")).reason is Reason.TIMEOUT


def test_cancelling_ends_what_is_under_way_and_refuses_the_rest(web, make_opener):
    opener = make_opener(timeout=1000)
    found = []
    ask = lambda: found.append(refusal(opener, web.url("/silent")).reason)  # noqa: E731
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    web.visited.wait(30)
    opener.cancel()
    thread.join(30)
    assert found == [Reason.TIMEOUT]
    assert refusal(opener, web.url("/ok.jpg")).reason is Reason.TIMEOUT
    assert web.paths() == ["/silent"]


def test_what_will_not_change_is_asked_for_once(web, make_opener):
    opener = make_opener()
    for path in ("/404", "/404", "/noai", "/noai", "/503", "/503"):
        refusal(opener, web.url(path))
    assert web.paths() == ["/404", "/noai", "/503", "/503"]


def test_opt_outs_are_noted_where_they_are_not_respected(web, make_opener):
    opener = make_opener(respect_opt_out=False)
    assert opener.urlopen(Request(web.url("/noai")), timeout=99).read() == JPEG
    assert opener.answers[web.url("/noai")].opt_out == "x-robots-tag: noai, noimageai"


def test_it_says_who_is_asking(web, make_opener):
    make_opener(user_agent="l2i-builder/9 (+mailto:me@example.org)").urlopen(Request(web.url("/ok.jpg")), timeout=99)
    assert web.visits[0].headers["user-agent"] == "l2i-builder/9 (+mailto:me@example.org)"


def test_requests_at_once_are_bounded_per_host(make_opener):
    with HostileWeb({"/wait": silent}) as slow:
        opener = make_opener(connect_to=slow.connect_to, per_host=2, timeout=2)
        threads = [threading.Thread(target=refusal, args=(opener, slow.url("/wait")), daemon=True) for _ in range(5)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.01)
        assert slow.most_at_once == 2


def test_tls_is_checked(make_opener, tmp_path):
    authority = Authority(tmp_path)
    with HostileWeb(tls=authority.server(HOST)) as secure:
        trusting = make_opener(connect_to=secure.connect_to, ssl_context=authority.trust())
        assert trusting.urlopen(Request(secure.url("/ok.jpg")), timeout=99).read() == JPEG
        with pytest.raises(OSError, match="certificate verify failed"):
            make_opener(connect_to=secure.connect_to).urlopen(Request(secure.url("/ok.jpg")), timeout=99)


def test_html_is_a_body_like_any(web, make_opener):
    assert make_opener().urlopen(Request(web.url("/html")), timeout=99).read() == HTML
