"""What may be fetched: which addresses are public, which URLs are requested and how, what a look-up may answer."""

import asyncio
import socket

import pytest
from bad_inputs import REFUSED_URLS
from hypothesis import example, given
from hypothesis import strategies as st

from l2i_builder.errors import ConfigError
from l2i_builder.fetch import guard as guard_module
from l2i_builder.fetch.guard import BlockedAddress, Guard, Refusal, check_url, is_public, redact
from l2i_builder.sample import Reason


class TestRefusedUrls:
    @pytest.mark.parametrize(
        ("url", "reason"), [(url, reason) for reason, urls in REFUSED_URLS.items() for url in urls], ids=ascii
    )
    def test_refused_for(self, url, reason):
        with pytest.raises(Refusal) as refusal:
            check_url(url, 8192)
        assert refusal.value.reason is reason
        assert refusal.value.detail
        assert refusal.value.retry is None, "what is wrong with a URL stays wrong"

    def test_the_longest_url_is_still_fetched(self):
        url = "http://example.com/" + "a" * (8192 - 19)
        assert str(check_url(url, 8192)) == url

    def test_exempt_addresses_pass_by_exact_host_and_port(self):
        assert str(check_url("http://127.0.0.1:8080/a", exempt={"127.0.0.1:8080"})) == "http://127.0.0.1:8080/a"
        assert str(check_url("http://[::1]:8080/a", exempt={"[::1]:8080"})) == "http://[::1]:8080/a"
        for url in ("http://127.0.0.1:8081/", "http://127.0.0.2:8080/", "http://2130706433:8080/"):
            with pytest.raises(Refusal):
                check_url(url, exempt={"127.0.0.1:8080"})

    @given(st.text(max_size=60), st.sampled_from(["", "http://", "https://", "http://example.com/", "http://["]))
    def test_nothing_but_a_refusal_is_raised(self, text, start):
        try:
            url = check_url(start + text)
        except Refusal:
            return
        line = f"{url.raw_host} {url.raw_path_qs}"
        assert line.isascii()
        assert line.isprintable()
        assert url.raw_path_qs.startswith("/")
        assert " " not in url.raw_path_qs

    @given(st.ip_addresses())
    def test_an_address_passes_only_if_public(self, ip):
        url = f"http://[{ip}]/" if ip.version == 6 else f"http://{ip}/"
        if is_public(str(ip)):
            assert check_url(url).raw_host == str(ip)
        else:
            with pytest.raises(Refusal, match="ssrf_blocked"):
                check_url(url)


class TestAcceptedUrls:
    @pytest.mark.parametrize(
        ("url", "requested"),
        [
            ("http://example.com", "http://example.com/"),
            (" http://example.com/a.jpg ", "http://example.com/a.jpg"),
            ("HTTP://EXAMPLE.com/A.jpg", "http://example.com/A.jpg"),
            ("https://example.com:8443/a?b=c&d#e", "https://example.com:8443/a?b=c&d"),
            ("http://example.com?a", "http://example.com/?a"),
            ("http://example.com:/a", "http://example.com/a"),
            ("http://example.com./a", "http://example.com./a"),
            ("http://a_b.example.com/", "http://a_b.example.com/"),
            ("http://1.1.1.1/a", "http://1.1.1.1/a"),
            ("http://1e100.net/", "http://1e100.net/"),
            ("http://[2606:4700::1111]:8080/a", "http://[2606:4700::1111]:8080/a"),
            # escapes stay as they are: signatures are made over them
            ("http://h.com/%7Ea%2fb%20c?d=%2B+%20", "http://h.com/%7Ea%2fb%20c?d=%2B+%20"),
            ("http://h.com/100%", "http://h.com/100%"),
            ("http://h.com/a/../b//c", "http://h.com/a/../b//c"),
            ("http://h.com/a@2x.jpg?u=http://b@c/", "http://h.com/a@2x.jpg?u=http://b@c/"),
            ("http://h.com/a[1].jpg?x[]=1|2", "http://h.com/a[1].jpg?x[]=1%7C2"),
            # what a request line cannot hold is escaped
            ("http://h.com/a b.jpg?q=c d", "http://h.com/a%20b.jpg?q=c%20d"),
            ("http://h.com/é€.jpg?ü", "http://h.com/%C3%A9%E2%82%AC.jpg?%C3%BC"),
            ('http://h.com/"<a>\\{b}`^', "http://h.com/%22%3Ca%3E%5C%7Bb%7D%60%5E"),
            ("http://bücher.de/ü", "http://xn--bcher-kva.de/%C3%BC"),
            ("http://例え.jp/", "http://xn--r8jz45g.jp/"),
        ],
    )
    def test_requested_as(self, url, requested):
        checked = check_url(url)
        assert str(checked) == requested
        assert checked.raw_path_qs == requested.split("/", 3)[3].join(["/", ""])


PIECES = ("http", ":", "/", "//", "://", "@", "%40", "\uff20", "%3A", "%2F", "u", "?", "#", "[", "***", "\0", "80", " ")


class TestRedact:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("http://user:password@example.com/a", "http://***@example.com/a"),
            ("https://user@example.com", "https://***@example.com"),
            ("http://u:p@ss@example.com/@b", "http://***@example.com/@b"),
            ("http://u:pa/ss@example.com/", "http://***@example.com/"),
            ("http://u:pa?ss#@example.com/", "http://***@example.com/"),
            ("ftp://u:p@example.com/", "ftp://***@example.com/"),
            ("u:p@example.com/", "***@example.com/"),
            ("//u:p@example.com/", "//***@example.com/"),
            (" HTTP://u:p@example.com/", " HTTP://***@example.com/"),
            ("http:u:p@example.com/", "http:***@example.com/"),
            ("\0http://u:p@example.com/", "\0http://***@example.com/"),
            ("\ufeffhttp://u:p@example.com/", "\ufeffhttp://***@example.com/"),
            ("<http://u:p@example.com/>", "<http://***@example.com/>"),
            ("view-source:http://u:p@example.com/", "view-source:http://***@example.com/"),
            ("ht tp://u:p@example.com/", "ht tp://***@example.com/"),
            ("http://u:p%40example.com/", "http://***@example.com/"),
            ("http://archive.org/web/http://u:p@example.com/a", "http://archive.org/web/http://***@example.com/a"),
            (
                "http://cdn.org/?u=https%3A%2F%2Fu%3Ap%40example.com%2Fa",
                "http://cdn.org/?u=https%3A%2F%2F***@example.com%2Fa",
            ),
            (
                "http://archive.org/web/http://example.com/a@2x.jpg",
                "http://archive.org/web/http://example.com/a@2x.jpg",
            ),
            (
                "http://cdn.org/?u=https%3A%2F%2Fexample.com%2Fa%402x",
                "http://cdn.org/?u=https%3A%2F%2Fexample.com%2Fa%402x",
            ),
            ("http://example.com/%40user", "http://example.com/%40user"),
            ("http://example.com/a@2x.jpg", "http://example.com/a@2x.jpg"),
            ("http://example.com:80/a@2x.jpg", "http://example.com:80/a@2x.jpg"),
            ("http://example.com:/a@2x.jpg", "http://example.com:/a@2x.jpg"),
            ("http://example.com?user=a@b.com", "http://example.com?user=a@b.com"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("/a/b@c.jpg", "/a/b@c.jpg"),
            ("", ""),
        ],
    )
    def test_shows(self, url, shown):
        assert redact(url) == shown
        assert redact(shown) == shown

    @given(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.from_regex(r"[!-~]{1,12}", fullmatch=True))
    def test_hides_every_password(self, user, password):
        secret = f"secret{password}"
        assert "secret" not in redact(f"http://{user}:{secret}@example.com/")

    @given(st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
    @example("://0%2F@%40")
    def test_takes_any_text(self, text):
        assert redact(redact(text)) == redact(text)

    def test_a_user_name_is_not_told_as_a_scheme(self):
        with pytest.raises(Refusal) as refused:
            check_url("token:x-oauth@example.com/a.jpg")
        assert refused.value.detail == "scheme ***, only http and https are fetched"


def answers(*addresses: str | Exception):
    """A look-up that answers the first call with the first argument, and so on."""
    left = list(addresses)

    async def lookup(host: str, port: int) -> list[str]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer.split()

    return lookup


def resolve(guard: Guard, host: str = "example.com", port: int = 80) -> list[tuple[str, int]]:
    return asyncio.run(guard.resolve(host, port))


class TestLookUp:
    def test_public_answers_are_handed_on(self):
        guard = Guard(lookup=answers("8.8.8.8 2606:4700::1111"))
        assert resolve(guard) == [("8.8.8.8", 80), ("2606:4700::1111", 80)]

    @pytest.mark.parametrize(
        "found", ["10.0.0.1", "8.8.8.8 10.0.0.1", "10.0.0.1 8.8.8.8", "8.8.8.8 ::1", "::ffff:127.0.0.1", "fe80::1%2"]
    )
    def test_one_private_answer_blocks_the_host(self, found):
        with pytest.raises(Refusal) as refusal:
            resolve(Guard(lookup=answers(found)))
        assert refusal.value.reason is Reason.SSRF_BLOCKED

    def test_an_answer_that_changes_is_judged_again(self, monkeypatch):
        monkeypatch.setattr(guard_module, "_TTL", 0)
        guard = Guard(lookup=answers("8.8.8.8", "127.0.0.1"))
        assert resolve(guard) == [("8.8.8.8", 80)]
        with pytest.raises(Refusal):
            resolve(guard)

    def test_those_who_ask_together_share_an_answer_and_may_leave_alone(self):
        asked = []

        async def slow(host: str, port: int) -> list[str]:
            asked.append(host)
            await asyncio.sleep(0.05)
            return ["8.8.8.8"]

        async def main() -> list[list[tuple[str, int]]]:
            guard = Guard(lookup=slow)
            first, second = (asyncio.create_task(guard.resolve("example.com", 80)) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            return [await second, await guard.resolve("example.com", 80)]

        assert asyncio.run(main()) == [[("8.8.8.8", 80)]] * 2
        assert asked == ["example.com"]

    def test_the_oldest_answers_are_forgotten(self, monkeypatch):
        monkeypatch.setattr(guard_module, "_REMEMBERED", 2)
        asked = []

        async def lookup(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["8.8.8.8"]

        async def main() -> None:
            guard = Guard(lookup=lookup)
            for host in ("a.com", "b.com", "c.com", "c.com", "b.com", "a.com"):
                await guard.resolve(host, 80)

        asyncio.run(main())
        assert asked == ["a.com", "b.com", "c.com", "a.com"]

    @pytest.mark.parametrize(
        ("error", "reason", "again"),
        [
            (socket.gaierror(socket.EAI_NONAME, "x"), Reason.DNS_ERROR, False),
            (socket.gaierror(socket.EAI_AGAIN, "x"), Reason.DNS_ERROR, True),
            (UnicodeError("label too long"), Reason.BAD_URL, False),
        ],
    )
    def test_failures_have_a_reason(self, error, reason, again):
        with pytest.raises(Refusal) as refusal:
            resolve(Guard(lookup=answers(error)))
        assert refusal.value.reason is reason
        assert (refusal.value.retry is not None) == again

    def test_no_answer_is_a_dns_error(self):
        with pytest.raises(Refusal) as refusal:
            resolve(Guard(lookup=answers("")))
        assert refusal.value.reason is Reason.DNS_ERROR

    def test_the_systems_resolver_is_asked_by_default(self):
        async def ask() -> None:
            guard = Guard()
            try:
                await guard.resolve("localhost", 80)
            finally:
                await guard.close()

        with pytest.raises(Refusal) as refusal:
            asyncio.run(ask())
        assert refusal.value.reason is Reason.SSRF_BLOCKED


class TestSockets:
    def open(self, guard: Guard, address: str, port: int = 80) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        place = (address, port, 0, 0) if ":" in address else (address, port)
        guard.open_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)).close()

    def test_public_addresses_get_one(self):
        self.open(Guard(lookup=answers()), "8.8.8.8")

    @pytest.mark.parametrize("ip", ["127.0.0.1", "169.254.169.254", "10.1.1.1"])
    def test_private_addresses_get_none(self, ip):
        with pytest.raises(BlockedAddress):
            self.open(Guard(lookup=answers()), ip)

    def test_connect_to_opens_one_address_and_one_port(self):
        guard = Guard({"photos.test": "127.0.0.1:8080"}, lookup=answers())
        self.open(guard, "127.0.0.1", 8080)
        for address, port in (("127.0.0.1", 8081), ("127.0.0.2", 8080)):
            with pytest.raises(BlockedAddress):
                self.open(guard, address, port)

    def test_an_operators_proxy_may_be_private(self):
        guard = Guard(trusted={"proxy.corp"}, lookup=answers("10.0.0.7", "10.0.0.7"))
        assert resolve(guard, "proxy.corp", 3128) == [("10.0.0.7", 3128)]
        self.open(guard, "10.0.0.7", 3128)
        with pytest.raises(Refusal):  # under another name it stays private
            resolve(guard, "evil.test", 3128)


PINS = {"photos.test": "127.0.0.1:8080", "Other.test:81": "[::1]:8081", "127.0.0.1:9": "127.0.0.1:9"}


class TestConnectTo:
    @pytest.mark.parametrize(
        ("host", "port", "pinned"),
        [
            ("photos.test", 80, ("127.0.0.1", 8080)),
            ("photos.test", 443, ("127.0.0.1", 8080)),
            ("photos.test.", 80, ("127.0.0.1", 8080)),
            ("other.test", 81, ("::1", 8081)),
            ("other.test", 80, None),
            ("a.photos.test", 80, None),
            ("photos.test.evil.com", 80, None),
            ("127.0.0.1", 9, ("127.0.0.1", 9)),
            ("127.0.0.1", 8080, None),
        ],
    )
    def test_stands_for_exactly_that_host(self, host, port, pinned):
        assert Guard(PINS, lookup=answers()).pinned(host, port) == pinned

    def test_needs_no_look_up(self):
        assert resolve(Guard(PINS, lookup=answers()), "photos.test") == [("127.0.0.1", 8080)]

    @pytest.mark.parametrize(
        "entry",
        [
            {"photos.test": "127.0.0.1"},
            {"photos.test": "localhost:80"},
            {"photos.test": "127.0.0.1:0"},
            {"photos.test": "127.0.0.1:http"},
            {"photos.test:99999": "127.0.0.1:80"},
            {"127.0.0.1:80": "127.0.0.1:81"},
            {"127.0.0.1": "127.0.0.1:80"},
            {"10.0.0.1:80": "127.0.0.1:80"},
        ],
    )
    def test_entries_that_cannot_be_used_are_named(self, entry):
        with pytest.raises(ConfigError, match=r"fetch\.connect_to"):
            Guard(entry)
