"""Who may talk to the review app: real HTTP, with requests as other sites, other machines and thieves send them."""

import json
import socket

import pytest
from review_server import serving

from l2i_builder.errors import ConfigError
from l2i_builder.review.guard import own_names, session
from l2i_builder.review.server import Address, links, secured

TOKEN = "a-token-of-enough-characters"


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    """One app for all tests here: none of them gets to store anything."""
    with serving(run, tmp_path_factory.mktemp("open")) as result:
        yield result


@pytest.fixture(scope="module")
def locked(run, tmp_path_factory):
    with serving(run, tmp_path_factory.mktemp("locked"), token=TOKEN) as result:
        yield result


def raw(served, request: bytes) -> bytes:
    """Send bytes as they are, no client library tidies them; return the answer up to the connection's end."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def some_key(served) -> str:
    return next(one.key for one in served.samples.by_key.values() if one.full)


def judgement(served, **fields):
    key = next(one.key for one in served.samples.by_key.values() if one.audit and one.full)
    return {"id": "0" * 32, "reviewer": "ada", "queue": "audit", "key": key, "mask": "good"} | fields


class TestEveryAnswer:
    @pytest.mark.parametrize("path", ["/", "/app.js", "/api/state?reviewer=ada", "/nothing", "/image/x/mask"])
    def test_it_forbids_guessing_types_framing_foreign_scripts_and_caching(self, served, path):
        answer, _ = served.ask("GET", path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert set(policy.values()) == {"'none'", "'self'"}
        assert answer.headers["Server"] is None

    def test_refusals_have_the_same_headers(self, served):
        answer, _ = served.ask("GET", "/", Host="evil.test")
        assert (answer.status, answer.headers["X-Content-Type-Options"]) == (421, "nosniff")

    def test_pictures_have_the_type_of_their_layer(self, served):
        key = some_key(served)
        types = {
            layer: served.ask("GET", f"/image/{key}/{layer}")[0].headers["Content-Type"] for layer in ("image", "mask")
        }
        assert types == {"image": "image/jpeg", "mask": "image/png"}


class TestHost:
    @pytest.mark.parametrize(
        "host", ["evil.test", "evil.test:80", "127.0.0.1.evil.test", "169.254.169.254", "[::2]", "", "a b"]
    )
    def test_another_name_for_this_address_is_refused(self, served, host):
        sent = f"GET /api/state?reviewer=a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        assert raw(served, sent).split(b" ", 2)[1] in (b"421", b"400")

    def test_none_and_two_are_refused(self, served):
        for hosts in (b"", b"Host: 127.0.0.1\r\nHost: evil.test\r\n"):
            answer = raw(served, b"GET / HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
            assert answer.split(b" ", 2)[1] in (b"421", b"400")

    @pytest.mark.parametrize("host", ["127.0.0.1:9999", "localhost:8000", "[::1]:8000", "LOCALHOST"])
    def test_this_machines_own_names_work_through_a_tunnel_too(self, served, host):
        assert served.ask("GET", "/", Host=host)[0].status == 200

    def test_further_names_are_allowed_by_name(self, run, tmp_path):
        with serving(run, tmp_path, allow=("Review.Lab.test",)) as served:
            assert served.ask("GET", "/", Host="review.lab.test:8765")[0].status == 200
            assert served.ask("GET", "/", Host="evil.test")[0].status == 421

    def test_a_server_for_other_machines_answers_to_addresses_and_its_own_names(self, run, tmp_path):
        with serving(run, tmp_path, host="0.0.0.0") as served:
            assert served.address.token
            for host, status in (("192.0.2.7:8765", 200), (socket.gethostname(), 200), ("evil.test", 421)):
                assert served.ask("GET", "/", Host=host)[0].status == status


class TestOtherSites:
    @pytest.mark.parametrize(
        "origin", ["http://evil.test", "null", "", "http://127.0.0.1:1", "https://", "file://", "http://[oops"]
    )
    def test_a_post_from_elsewhere_stores_nothing(self, served, origin):
        answer, _ = served.ask("POST", "/api/judge", judgement(served), Origin=origin)
        assert answer.status == 403
        assert len(served.store.table()) == 0

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
    def test_a_post_that_a_form_could_send_stores_nothing(self, served, kind):
        answer, _ = served.ask("POST", "/api/judge", judgement(served), Content_Type=kind)
        assert answer.status == 415
        assert len(served.store.table()) == 0

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_their_pages_can_neither_read_nor_embed(self, served, site):
        for path in ("/api/state?reviewer=ada", "/labels.parquet", "/app.js", f"/image/{some_key(served)}/image"):
            assert served.ask("GET", path, Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")[0].status == 403
        assert served.ask("POST", "/api/judge", judgement(served), Sec_Fetch_Site=site)[0].status == 403
        assert len(served.store.table()) == 0

    def test_they_may_link_to_the_page(self, served):
        assert served.ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0].status == 200

    def test_nothing_is_shared_by_cors(self, served):
        answer, _ = served.ask("OPTIONS", "/api/judge", Origin="http://evil.test", Access_Control_Request_Method="POST")
        assert answer.status == 403
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]

    def test_a_websocket_is_never_opened(self, served):
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        answer = raw(served, f"GET /api/state?reviewer=a HTTP/1.1\r\nHost: {served.host}\r\n{upgrade}{key}".encode())
        assert answer.split(b" ", 2)[1] not in (b"", b"101")

    def test_reading_never_writes(self, served):
        for path in ("/api/judge", "/api/undo", "/api/next", "/api/login"):
            assert served.ask("GET", path)[0].status in (404, 405)


class TestToken:
    @pytest.mark.parametrize(
        "path", ["/api/state?reviewer=a", "/labels.parquet", "/app.js", "/index.html", "/image/k/mask"]
    )
    def test_without_it_nothing_of_the_run_is_told(self, locked, path):
        answer, body = locked.ask("GET", path)
        assert answer.status == 401
        assert b"token" in body

    def test_without_it_nothing_is_stored(self, locked):
        assert locked.ask("POST", "/api/judge", judgement(locked))[0].status == 401
        assert len(locked.store.table()) == 0

    def test_the_first_page_only_asks_for_it(self, locked):
        _, page = locked.ask("GET", "/")
        assert b"Token" in page
        assert b"/app.js" not in page

    @pytest.mark.parametrize("given", ["", "wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper(), "\u00e9" * 20, "\ud800"])
    def test_a_wrong_one_is_refused(self, locked, given):
        answer, _ = locked.ask("POST", "/api/login", {"token": given})
        assert (answer.status, answer.headers["Set-Cookie"]) == (401, None)

    def test_the_right_one_gives_a_cookie_that_scripts_and_other_sites_do_not_get(self, locked):
        answer, _ = locked.ask("POST", "/api/login", {"token": TOKEN})
        cookie = answer.headers["Set-Cookie"]
        assert {part.strip().lower() for part in cookie.split(";")[1:]} == {"httponly", "samesite=strict", "path=/"}
        assert TOKEN not in cookie
        mine = cookie.partition(";")[0]
        assert locked.ask("GET", "/api/state?reviewer=ada", Cookie=f"other=1; {mine}")[0].status == 200
        assert b"/app.js" in locked.ask("GET", "/", Cookie=mine)[1]

    @pytest.mark.parametrize("value", ["", TOKEN, "0" * 64, session("another-token-of-some-length"), '"', "\x7f;;=="])
    def test_a_forged_cookie_is_refused(self, locked, value):
        cookie = f"l2i-review-{locked.port}={value}"
        assert locked.ask("GET", "/api/state?reviewer=a", Cookie=cookie)[0].status in (400, 401)

    def test_a_login_from_another_site_is_refused(self, locked):
        assert locked.ask("POST", "/api/login", {"token": TOKEN}, Origin="http://evil.test")[0].status == 403

    def test_on_this_machine_none_is_needed_elsewhere_one_is_made(self):
        assert [secured(Address(host)).token for host in ("127.0.0.1", "localhost", "::1")] == ["", "", ""]
        tokens = {secured(Address(host)).token for host in ("0.0.0.0", "::", "192.0.2.7", "review.test")}
        assert len(tokens) == 4
        assert min(map(len, tokens)) >= 40

    def test_one_that_could_be_guessed_is_refused(self):
        with pytest.raises(ConfigError, match="at least 16"):
            secured(Address(token="letmein"))

    def test_links_carry_it_behind_the_hash_which_is_never_sent(self):
        assert list(links(Address("192.0.2.7", 1, "t" * 16), 8765)) == ["http://192.0.2.7:8765/#token=" + "t" * 16]
        assert list(links(Address("::1", 1), 8765)) == ["http://[::1]:8765/"]
        assert "0.0.0.0" not in own_names("0.0.0.0")


class TestPaths:
    SECRETS = ("root:", "digest", "PRAGMA", "def ")

    @pytest.mark.parametrize(
        "path",
        [
            "/../../../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/..%2f..%2fetc%2fpasswd",
            "/....//....//etc/passwd",
            "/image/../run.json",
            "/image/..%2f..%2frun.json/image",
            "/image/%2fetc%2fpasswd/image",
            "/image/{key}/..%2f..%2frun.json",
            "/image/{key}/jpg",
            "/image/{key}/image%00.png",
            "/image/{key}.jpg/image",
            "/image/{key}%00/image",
            "/image//image",
            "/static/../app.py",
            "/app.py",
            "/page/app.js",
            "/..\\..\\run.json",
            "//etc/passwd",
            "/run.json",
            "/labels.sqlite",
            "/%",
        ],
    )  # fmt: skip
    def test_no_spelling_leads_out_of_the_index(self, served, path):
        sent = f"GET {path.format(key=some_key(served))} HTTP/1.1\r\nHost: {served.host}\r\nConnection: close\r\n\r\n"
        head, _, body = raw(served, sent.encode()).partition(b"\r\n\r\n")
        assert head.split(b" ", 2)[1] in (b"404", b"400")
        assert not any(secret.encode() in body for secret in self.SECRETS)

    def test_an_absolute_target_reaches_nothing_else(self, served):
        sent = b"GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert raw(served, sent).split(b" ", 2)[1] in (b"404", b"400")


class TestBodies:
    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'"x"', b"\xff\xfe", b"[" * 15000])
    def test_what_is_no_object_is_refused(self, served, body):
        assert served.ask("POST", "/api/judge", body)[0].status == 400

    def test_a_large_one_is_refused(self, served):
        assert served.ask("POST", "/api/judge", b'{"x": "' + b"a" * 20_000 + b'"}')[0].status == 413

    @pytest.mark.parametrize(
        "fields",
        [
            {"reviewer": ""}, {"reviewer": "a" * 41}, {"reviewer": "a\u202eb"}, {"reviewer": "a\x00"}, {"reviewer": 7},
            {"id": ""}, {"id": "x" * 32}, {"id": None}, {"mask": "superb"}, {"mask": ["good"]}, {"mask": ""},
            {"criteria": "incomplete"}, {"criteria": ["incomplete"]}, {"criteria": [1]}, {"criteria": {"a": 1}},
            {"queue": "nothing"}, {"queue": "uncertain\x00"}, {"key": 5}, {"skipped": True},
        ],
    )  # fmt: skip
    def test_nonsense_is_refused_with_a_sentence_and_nothing_is_stored(self, served, fields):
        answer, body = served.ask("POST", "/api/judge", judgement(served, **fields))
        assert answer.status in (400, 404)
        assert json.loads(body)["error"].endswith(".")
        assert len(served.store.table()) == 0
