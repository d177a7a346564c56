"""Connections: reused while they are worth it, replaced when the server gave up, tried at every address."""

import asyncio
import socket
import ssl

import pytest
from hostile_web import HOST, JPEG, HostileWeb, Visit, answer, in_turn, then_close
from throwaway_tls import Authority

from l2i_builder.errors import ConfigError
from l2i_builder.fetch import connections as connections_module
from l2i_builder.fetch.connections import Connections, environment_proxies
from l2i_builder.fetch.guard import Guard, Refusal, Target
from l2i_builder.fetch.http1 import Answer
from l2i_builder.sample import Reason


def run(web: HostileWeb, *paths: str, pause: float = 0, guard: Guard | None = None, tls=None) -> list[Answer]:
    """Get paths one after another. pause: seconds between them."""

    async def main() -> list[Answer]:
        pool = Connections(guard or Guard(web.connect_to, lookup=nobody), tls, 5, {})
        answers = []
        for path in paths:
            answers.append(await get(pool, web, path))
            await asyncio.sleep(pause)
        await pool.close()
        return answers

    return asyncio.run(main())


async def get(pool: Connections, web: HostileWeb, path: str) -> Answer:
    scheme, port = ("https", 443) if web.tls else ("http", 80)
    return await pool.get(Target(scheme, HOST, port, path), b"", lambda answer: answer.status == 200, 10**6)


async def nobody(host: str, port: int) -> list[str]:
    raise AssertionError("connect_to needs no look-up")


class TestReuse:
    def test_one_connection_serves_one_request_after_another(self):
        with HostileWeb() as web:
            assert [one.body for one in run(web, *["/ok.jpg", "/chunked"] * 5)] == [JPEG] * 10
            assert web.connections == 1

    def test_short_answers_that_are_not_wanted_keep_it(self):
        with HostileWeb() as web:
            assert [one.status for one in run(web, "/404", "/moved", "/204", "/ok.jpg")] == [404, 301, 204, 200]
            assert web.connections == 1

    def test_requests_at_once_have_their_own(self):
        async def main(web: HostileWeb) -> None:
            pool = Connections(Guard(web.connect_to), None, 5, {})
            for _ in range(3):
                await asyncio.gather(*(get(pool, web, "/ok.jpg") for _ in range(4)))
            await pool.close()

        with HostileWeb() as web:
            asyncio.run(main(web))
            assert web.connections == 4

    def test_one_that_the_server_closed_meanwhile_is_replaced(self):
        page = then_close(answer())  # closes without having said so
        with HostileWeb({"/a": page}) as web:
            assert [one.body for one in run(web, *["/a"] * 4)] == [JPEG] * 4
            assert web.connections == 4

    def test_one_on_which_the_server_talks_unasked_is_replaced(self):
        async def chatty(visit: Visit) -> None:
            visit.writer.write(answer())
            await visit.writer.drain()
            await asyncio.sleep(0.1)
            visit.writer.write(answer(b"not what was asked for"))
            await visit.reader.read()

        with HostileWeb({"/chatty": chatty}) as web:
            assert [one.body for one in run(web, "/chatty", "/ok.jpg", pause=0.3)] == [JPEG, JPEG]

    def test_a_new_one_that_gives_no_answer_is_not_tried_again(self):
        with HostileWeb() as web, pytest.raises(Refusal, match="connect_error"):
            run(web, "/closed")
        assert web.connections == 1

    def test_a_request_that_gets_no_answer_costs_one_idle_connection(self):
        async def main(web: HostileWeb) -> None:
            pool = Connections(Guard(web.connect_to), None, 5, {})
            await asyncio.gather(*(get(pool, web, "/ok.jpg") for _ in range(4)))
            with pytest.raises(Refusal, match="connect_error"):
                await get(pool, web, "/closed")
            await asyncio.gather(*(get(pool, web, "/ok.jpg") for _ in range(3)))
            await pool.close()

        with HostileWeb() as web:
            asyncio.run(main(web))
            assert web.connections == 4 + 1

    def test_idle_ones_are_closed_after_a_while(self, monkeypatch):
        monkeypatch.setattr(connections_module, "KEEPALIVE", 0.05)

        async def main(web: HostileWeb) -> bool:
            pool = Connections(Guard(web.connect_to), None, 5, {})
            await get(pool, web, "/ok.jpg")
            drained = await asyncio.to_thread(web.drained)
            await pool.close()
            return drained

        with HostileWeb() as web:
            assert asyncio.run(main(web))

    def test_all_are_closed_in_the_end(self):
        with HostileWeb() as web:
            run(web, "/ok.jpg")
            assert web.drained()


class TestAddresses:
    def test_the_next_address_is_tried_when_one_refuses(self, monkeypatch):
        monkeypatch.setattr("l2i_builder.fetch.guard.is_public", lambda ip: ip.startswith("127.0.0."))

        async def lookup(host: str, port: int) -> list[str]:
            return ["127.0.0.99", "127.0.0.1"]

        async def main(web: HostileWeb) -> bytes:
            pool = Connections(Guard(lookup=lookup), None, 5, {})
            target = Target("http", "two.test", web.port, "/ok.jpg")
            body = (await pool.get(target, b"", lambda _: True, 10**6)).body
            await pool.close()
            return body

        with HostileWeb() as web:
            assert asyncio.run(main(web)) == JPEG

    def test_of_ipv6_work_too(self):
        if not socket.has_ipv6:
            pytest.skip("this Python has no IPv6; runs where it has")
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6 loopback; runs where it has")

        async def main() -> bytes:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer())
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(serve, "::1", 0)
            port = server.sockets[0].getsockname()[1]
            pool = Connections(Guard({f"[::1]:{port}": f"[::1]:{port}"}), None, 5, {})
            body = (await pool.get(Target("http", "::1", port, "/"), b"", lambda _: True, 10**6)).body
            await pool.close()
            server.close()
            return body

        assert asyncio.run(main()) == JPEG


class TestTls:
    @pytest.fixture(scope="class")
    def authority(self, tmp_path_factory) -> Authority:
        return Authority(tmp_path_factory.mktemp("tls"))

    def test_connections_are_reused(self, authority):
        with HostileWeb(tls=authority.server(HOST)) as web:
            assert [one.body for one in run(web, *["/ok.jpg"] * 3, tls=authority.trust())] == [JPEG] * 3
            assert web.connections == 1

    @pytest.mark.parametrize("path", ["/cut", "/reset-body", "/endless", "/silent"])
    def test_ends_are_ends(self, authority, path):
        async def main(web: HostileWeb) -> Reason | None:
            pool = Connections(Guard(web.connect_to), authority.trust(), 5, {})
            try:
                async with asyncio.timeout(0.5 if path == "/silent" else 20):
                    await get(pool, web, path)
            except Refusal as refusal:
                return refusal.reason
            except TimeoutError:
                return Reason.TIMEOUT
            finally:
                await pool.close()

        expected = {"/endless": Reason.BODY_TOO_LARGE, "/silent": Reason.TIMEOUT}
        with HostileWeb(tls=authority.server(HOST)) as web:
            assert asyncio.run(main(web)) is expected.get(path, Reason.BODY_TRUNCATED)
            assert web.drained()

    def test_a_handshake_without_end(self, authority):
        async def main(port: int) -> Reason:
            pool = Connections(Guard({HOST: f"127.0.0.1:{port}"}), authority.trust(), 0.3, {})
            with pytest.raises(Refusal) as refusal:
                await pool.get(Target("https", HOST, 443, "/"), b"", lambda _: True, 10)
            return refusal.value.reason

        with socket.create_server(("127.0.0.1", 0)) as mute:
            assert asyncio.run(main(mute.getsockname()[1])) is Reason.TIMEOUT


class TestProxies:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)

    def through(self, web: HostileWeb, proxy: HostileWeb, monkeypatch, tls: ssl.SSLContext | None = None) -> Answer:
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", f"http://me:secret@proxy.corp:{proxy.port}")

        async def lookup(host: str, port: int) -> list[str]:
            assert host == "proxy.corp", "the proxy looks names up, not we"
            return ["127.0.0.1"]

        async def main() -> Answer:
            pool = Connections(Guard(trusted={"proxy.corp"}, lookup=lookup), tls, 5, environment_proxies())
            try:
                return await get(pool, web, "/ok.jpg")
            finally:
                await pool.close()

        return asyncio.run(main())

    def test_http_is_asked_of_the_proxy(self, monkeypatch):
        with HostileWeb({f"http://{HOST}/ok.jpg": answer()}) as proxy:
            assert self.through(proxy, proxy, monkeypatch).body == JPEG
            visit = proxy.visits[0]
            assert visit.head.startswith(b"GET http://web.test/ok.jpg HTTP/1.1\r\nHost: web.test\r\n")
            assert visit.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"

    def test_https_goes_through_a_tunnel_and_the_proxy_sees_nothing(self, monkeypatch, tmp_path):
        authority = Authority(tmp_path)
        with HostileWeb(tls=authority.server(HOST)) as web, HostileWeb({f"{HOST}:443": tunnel_to(web)}) as proxy:
            assert self.through(web, proxy, monkeypatch, authority.trust()).body == JPEG
            assert proxy.visits[0].head.startswith(b"CONNECT web.test:443 HTTP/1.1\r\nHost: web.test:443\r\n")
            assert "proxy-authorization" in proxy.visits[0].headers
            assert "proxy-authorization" not in web.visits[0].headers

    def test_a_tunnel_to_a_stranger_is_no_better_than_a_connection(self, monkeypatch, tmp_path):
        (tmp_path / "other").mkdir()
        stranger = Authority(tmp_path / "other")
        with HostileWeb(tls=stranger.server(HOST)) as web, HostileWeb({f"{HOST}:443": tunnel_to(web)}) as proxy:
            with pytest.raises(ssl.SSLCertVerificationError):
                self.through(web, proxy, monkeypatch, Authority(tmp_path).trust())
            assert proxy.drained()

    def test_a_refused_tunnel(self, monkeypatch, tmp_path):
        authority = Authority(tmp_path)
        with HostileWeb(tls=authority.server(HOST)) as web, HostileWeb({f"{HOST}:443": answer(b"no", 403)}) as proxy:
            with pytest.raises(Refusal, match="the proxy answers HTTP 403"):
                self.through(web, proxy, monkeypatch, authority.trust())
            assert web.connections == 0
            assert proxy.drained()

    @pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "https://proxy.corp:443", "http://"])
    def test_of_other_kinds_are_refused_by_name(self, proxy, monkeypatch):
        monkeypatch.setenv("https_proxy", proxy)
        with pytest.raises(ConfigError, match="HTTPS_PROXY"):
            environment_proxies()

    def test_a_bare_host_and_port_is_http(self, monkeypatch):
        monkeypatch.setenv("http_proxy", "proxy.corp:3128")
        assert environment_proxies() == {"http": ("proxy.corp", 3128, b"")}


def tunnel_to(web: HostileWeb):
    """A proxy's side of CONNECT: bytes to and fro."""

    async def act(visit: Visit) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        visit.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(visit.reader, writer), pump(reader, visit.writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    return act


def test_answers_in_turn_reach_the_requests_that_asked_for_them():
    bodies = [f"body {number}".encode() for number in range(20)]
    with HostileWeb({"/a": in_turn(*map(answer, bodies))}) as web:
        assert [one.body for one in run(web, *["/a"] * 20)] == bodies
