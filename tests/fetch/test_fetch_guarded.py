"""The fetcher's connections: private addresses out of reach by every road, look-ups, TLS and proxies."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import pytest
from fetching import fetch, fetch_all, names
from hostile_web import HOST, JPEG, HostileWeb, answer, redirect
from throwaway_tls import Authority

from l2i_builder.fetch.fetcher import Fetched
from l2i_builder.fetch.guard import Guard
from l2i_builder.sample import UNKNOWN, Reason


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with HostileWeb() as web:
        yield web


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
        monkeypatch.setattr("l2i_builder.fetch.guard.is_public", lambda ip: ip == "127.0.0.1")
        monkeypatch.setattr("l2i_builder.fetch.guard._TTL", 0)
        found = ["127.0.0.1", "10.0.0.1"]

        async def rebinding(host: str, port: int) -> list[str]:
            return [found.pop(0)]

        urls = [f"http://evil.test:{web.port}/ok.jpg"] * 2
        reasons = [one.reason for one in fetch_all(web, urls, lookup=rebinding)]
        assert reasons == [None, Reason.SSRF_BLOCKED]

    def test_one_look_up_serves_check_and_connection(self, web, monkeypatch):
        monkeypatch.setattr("l2i_builder.fetch.guard.is_public", lambda ip: ip == "127.0.0.1")
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

    def test_what_nobody_thought_of_is_a_stage_error_and_not_an_exception(self, web):
        async def broken(host: str, port: int) -> list[str]:
            raise ZeroDivisionError

        fetched = fetch(web, "http://a.test/", lookup=broken)
        assert (fetched.reason, fetched.detail) == (Reason.STAGE_ERROR, "unexpected ZeroDivisionError")

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
