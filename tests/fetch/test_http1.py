"""HTTP/1.1 answers, byte by byte: what is read, what is refused, and that packets make no difference."""

import asyncio
import gc
import http.client
import io
import random

import pytest
from hostile_web import HTML, JPEG, PAGES, answer, chunked
from hypothesis import given, settings
from hypothesis import strategies as st

from l2i_builder.fetch.guard import Refusal
from l2i_builder.fetch.http1 import MAX_HEAD, Answer, Connection
from l2i_builder.sample import Reason

CAP = 20_000


class Wire:
    """A transport that goes nowhere."""

    def __init__(self):
        self.sent = b""
        self.closed = False

    def write(self, data):
        self.sent += data

    def abort(self):
        self.closed = True

    def is_closing(self):
        return self.closed


def everything(_: Answer) -> bool:
    return True


def exchange(packets, *, wanted=everything, cap=CAP, hang_up=True, **options) -> tuple[Answer | Refusal, bool]:
    """Answer a request with these packets; return the outcome, and whether the connection could be used again."""

    async def main() -> tuple[Answer | Refusal, bool]:
        connection, wire = Connection(), Wire()
        connection.connection_made(wire)
        task = asyncio.create_task(connection.request(b"GET", wanted, cap, **options))
        await asyncio.sleep(0)
        for packet in packets:
            if not wire.closed:
                connection.data_received(packet)
        usable = connection.reusable
        if hang_up and not wire.closed:
            connection.connection_lost(None)
        try:
            return await asyncio.wait_for(task, 5), usable
        except Refusal as refusal:
            return refusal, usable

    return asyncio.run(main())


def told(outcome: Answer | Refusal) -> tuple:
    if isinstance(outcome, Refusal):
        return outcome.reason, outcome.detail
    return outcome.status, outcome.headers, outcome.body


def body_of(raw: bytes, **options) -> bytes:
    outcome, _ = exchange([raw], **options)
    assert isinstance(outcome, Answer), outcome
    return outcome.body


def refusal_of(raw: bytes, **options) -> Reason:
    outcome, usable = exchange([raw], **options)
    assert isinstance(outcome, Refusal), told(outcome)
    assert not usable
    return outcome.reason


class TestHeads:
    def test_status_and_headers(self):
        outcome, _ = exchange([b"HTTP/1.1 404 Not Found\r\nA: 1\r\nb:2 \r\nA:  3\r\nContent-Length: 0\r\n\r\n"])
        assert (outcome.status, outcome.body) == (404, b"")
        assert outcome.headers == {"a": "1\n3", "b": "2", "content-length": "0"}

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1  200 OK\r\nContent-Length:3\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 3\n\n",
            b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n folded: line\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ],
    )
    def test_what_clients_are_lenient_about(self, head):
        assert body_of(head + b"abc") == b"abc"

    @pytest.mark.parametrize(
        "raw",
        [
            b"SSH-2.0-OpenSSH",
            b"ICY 200 OK\r\n\r\n",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.2 200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 099 OK\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"<html>",
            b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: \xb3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 600 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nA: " + b"b" * MAX_HEAD,
            b"HTTP/1.1 103 Hints\r\n\r\n" * 10_000,
            b"HTTP/1.1 103 Hints\r\n\r\n" * 32 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ],
        ids=lambda raw: ascii(raw[:40]),
    )
    def test_what_is_not_http(self, raw):
        assert refusal_of(raw) is Reason.CONNECT_ERROR

    def test_a_banner_is_refused_before_it_ends(self):
        outcome, _ = exchange([b"220 smtp ready"], hang_up=False)
        assert outcome.reason is Reason.CONNECT_ERROR

    @pytest.mark.parametrize("cut", range(0, 38, 3))
    def test_an_answer_that_ends_in_its_head(self, cut):
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
        outcome, _ = exchange([raw[:cut]] if cut else [])
        assert told(outcome) == (Reason.CONNECT_ERROR, "closed without an answer")


class TestBodies:
    @pytest.mark.parametrize(
        "chunks",
        [
            b"3\r\nabc\r\n0\r\n\r\n",
            b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
            b"003\r\nabc\r\n000\r\n\r\n",
            b"3;name=value\r\nabc\r\n0;x\r\n\r\n",
            b"3 \r\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n",
            b"3\nabc\n0\n\n",
        ],
    )
    def test_in_chunks(self, chunks):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        assert body_of(head + chunks) == b"abc"

    @pytest.mark.parametrize(
        "chunks",
        [
            b"zz\r\nabc\r\n",
            b"-3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"\r\nabc\r\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc3\r\n",
            b"3\r\nabc\r\r\n",
            b"1" * 16 + b"\r\n",
            b"3;" + b"x" * 20_000,
            b"3\r\nabc\r\n0\r\n" + b"T: x\r\n" * 4000,
        ],
        ids=lambda raw: ascii(raw[:20]),
    )
    def test_in_malformed_chunks(self, chunks):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert refusal_of(head + chunks) is Reason.BAD_ENCODING

    @pytest.mark.parametrize(
        "coding", [b"gzip, chunked", b"gzip", b"identity", b"chunked\r\nTransfer-Encoding: x", b""]
    )
    def test_in_a_coding_that_was_not_offered(self, coding):
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n" % coding
        assert refusal_of(raw) is Reason.BAD_ENCODING

    @pytest.mark.parametrize("raw", [answer(b"abc", length=4), chunked(b"abc"), chunked(b"abc")[:-3] + b"\r\n0\r\n"])
    def test_that_end_early(self, raw):
        assert refusal_of(raw) is Reason.BODY_TRUNCATED

    def test_until_the_connection_closes(self):
        assert body_of(answer(JPEG, length=-1)) == JPEG

    @pytest.mark.parametrize("status", [204, 304])
    def test_of_answers_that_have_none(self, status):
        outcome, usable = exchange([answer(b"", status, length=50)])
        assert (outcome.status, outcome.body, usable) == (status, b"", True)

    def test_more_than_announced_is_cut_and_the_connection_given_up(self):
        outcome, usable = exchange([answer(b"abcdef", length=3)])
        assert (outcome.body, usable) == (b"abc", False)

    @pytest.mark.parametrize(
        "raw",
        [
            answer(b"x" * (CAP + 1)),
            answer(b"", length=CAP + 1),
            answer(b"x" * (CAP + 1), length=-1),
            chunked(b"x" * CAP) + b"1\r\nx\r\n",
            answer(b"", 200, "Transfer-Encoding: chunked", length=-1) + b"fffffffffffffff\r\n",
        ],
        ids=["length", "announced", "until close", "chunks", "announced chunk"],
    )
    def test_above_the_cap(self, raw):
        assert refusal_of(raw) is Reason.BODY_TOO_LARGE

    def test_more_framing_than_body(self):
        head = answer(b"", 200, "Transfer-Encoding: chunked", length=-1)
        assert refusal_of(head + b"1;pad\r\nx\r\n" * (CAP - 1)) is Reason.BODY_TOO_LARGE

    def test_at_the_cap(self):
        body = b"x" * CAP
        for raw in (answer(body), answer(body, length=-1), chunked(body) + b"0\r\n\r\n"):
            assert body_of(raw) == body

    @pytest.mark.parametrize(
        "raw", [answer(b"x" * 99), answer(b"x" * 99, length=-1), chunked(b"x" * 99) + b"0\r\n\r\n"]
    )
    def test_cut_at_the_cap_on_request(self, raw):
        assert body_of(raw, cap=10, truncate=True) == b"x" * 10
        assert body_of(raw, cap=99, truncate=True) == b"x" * 99

    @pytest.mark.parametrize("raw", [answer(HTML, 404), chunked(HTML) + b"0\r\n\r\n", answer(b"", 404)])
    def test_not_wanted_but_there_keep_the_connection(self, raw):
        outcome, usable = exchange([raw], wanted=lambda _: False)
        assert (outcome.body, usable) == (b"", True)

    @pytest.mark.parametrize("raw", [answer(b"", 404, length=50), chunked(HTML), answer(HTML, length=-1)])
    def test_not_wanted_are_not_waited_for(self, raw):
        outcome, usable = exchange([raw], wanted=lambda _: False, hang_up=False)
        assert (outcome.body, usable) == (b"", False)

    def test_a_tunnel_has_none(self):
        outcome, usable = exchange([b"HTTP/1.1 200 OK\r\n\r\n"], wanted=lambda _: False, tunnel=True, hang_up=False)
        assert (outcome.status, usable) == (200, True)


class TestReuse:
    @pytest.mark.parametrize(
        ("raw", "usable"),
        [
            (answer(), True),
            (chunked(JPEG) + b"0\r\n\r\n", True),
            (answer(JPEG, 200, "Connection: keep-alive"), True),
            (answer(JPEG, 200, "Connection: Close"), False),
            (answer(JPEG, 200, "Connection: foo, close"), False),
            (answer().replace(b"HTTP/1.1", b"HTTP/1.0"), False),
            (answer() + b"x", False),
            (chunked(JPEG) + b"0\r\n\r\nx", False),
            (answer(b"", 200, "Transfer-Encoding: chunked", length=5) + b"0\r\n\r\n", False),
        ],
    )
    def test_after(self, raw, usable):
        outcome, again = exchange([raw])
        assert isinstance(outcome, Answer)
        assert again == usable

    def test_ends_when_the_server_speaks_unasked(self):
        outcome, usable = exchange([answer(), b"HTTP/1.1 200 OK\r\n"])
        assert (outcome.body, usable) == (JPEG, False)

    def test_an_idle_connection_holds_no_body(self):
        async def main() -> int:
            connection = Connection()
            connection.connection_made(Wire())
            task = asyncio.create_task(connection.request(b"GET", everything, CAP))
            await asyncio.sleep(0)
            connection.data_received(answer())
            body = (await task).body
            del task
            held = [connection.__dict__]
            for _ in range(3):
                held += gc.get_referents(*held)
            return sum(part is body for part in held)

        assert asyncio.run(main()) == 0

    def test_ends_with_a_cancelled_request(self):
        async def main() -> tuple[bool, bool]:
            connection, wire = Connection(), Wire()
            connection.connection_made(wire)
            task = asyncio.create_task(connection.request(b"GET", everything, CAP))
            await asyncio.sleep(0)
            connection.data_received(answer()[:100])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            connection.data_received(answer()[100:])
            connection.connection_lost(None)
            return connection.reusable, wire.closed

        assert asyncio.run(main()) == (False, True)

    def test_two_requests_one_after_the_other(self):
        async def main() -> list[bytes]:
            connection, wire = Connection(), Wire()
            connection.connection_made(wire)
            bodies = []
            for body in (b"one", b"two"):
                task = asyncio.create_task(connection.request(b"GET %b\n" % body, everything, CAP))
                await asyncio.sleep(0)
                connection.data_received(answer(body))
                bodies.append((await task).body)
            return [*bodies, wire.sent]

        assert asyncio.run(main()) == [b"one", b"two", b"GET one\nGET two\n"]


def splits(raw: bytes, generator: random.Random) -> list[list[bytes]]:
    """The same bytes in packets: all at once, one by one, and at random places."""
    places = sorted(generator.sample(range(len(raw) + 1), min(len(raw), 5)))
    pieces = [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]
    return [[raw], [raw[i : i + 1] for i in range(len(raw))], [piece for piece in pieces if piece]]


RAW = {path: page for path, page in PAGES.items() if isinstance(page, bytes) and len(page) < 10_000}


class TestPackets:
    """The outcome is a function of the bytes, however they were cut."""

    @pytest.mark.parametrize("path", RAW)
    @pytest.mark.parametrize("wanted", [True, False])
    def test_make_no_difference(self, path, wanted):
        generator = random.Random(path)
        for cap in (CAP, 1000):
            outcomes = [
                told(exchange(packets, wanted=lambda _: wanted, cap=cap)[0]) for packets in splits(RAW[path], generator)
            ]
            assert outcomes[0] == outcomes[1] == outcomes[2]

    @pytest.mark.parametrize("seed", range(120))
    def test_make_no_difference_to_noise(self, seed):
        generator = random.Random(seed)
        raw = bytearray(generator.choice(list(RAW.values()))[:2000])
        for _ in range(generator.randint(1, 8)):
            place = generator.randrange(min(len(raw), 160))
            raw[place : place + generator.randint(0, 2)] = generator.randbytes(generator.randint(0, 2))
        outcomes = [told(exchange(packets)[0]) for packets in splits(bytes(raw), generator)]
        assert outcomes[0] == outcomes[1] == outcomes[2]
        assert outcomes[0][0] in {*range(100, 1000), *Reason} - {Reason.STAGE_ERROR}


class Socket:
    """What http.client needs of one."""

    def __init__(self, raw: bytes):
        self.file = io.BytesIO(raw)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.file


@given(
    st.sampled_from([200, 203, 301, 404, 500]),
    st.lists(
        st.tuples(st.from_regex(r"X-[A-Za-z]{1,5}", fullmatch=True), st.from_regex(r"[!-~]{0,9}", fullmatch=True))
    ),
    st.lists(st.binary(min_size=1, max_size=50), max_size=6),
    st.sampled_from(["length", "chunks", "close"]),
    st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_agrees_with_the_standard_library(status, headers, pieces, framing, seed):
    body = b"".join(pieces)
    lines = [f"{name}: {value}" for name, value in headers]
    if framing == "chunks":
        payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        raw = answer(b"", status, "Transfer-Encoding: chunked", *lines, length=-1) + payload
    else:
        raw = answer(body, status, *lines, length=len(body) if framing == "length" else -1)
    reference = http.client.HTTPResponse(Socket(raw))
    reference.begin()
    for packets in splits(raw, random.Random(seed)):
        outcome, _ = exchange(packets)
        assert outcome.status == reference.status == status
        assert outcome.body == body
        assert outcome.headers == {
            name.lower(): "\n".join(value.strip() for value in reference.headers.get_all(name))
            for name in reference.headers
        }
    assert reference.read() == body
