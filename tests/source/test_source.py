"""Sources: input shards in, batches out, every row accounted for, in row order."""

import asyncio
import hashlib
import io
import threading
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb, answer
from PIL import Image

from l2i_builder.config import Config
from l2i_builder.errors import ClusterError, ConfigError
from l2i_builder.fetch.fetcher import Fetched
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import InputShard
from l2i_builder.sample import Reason, Row, sample_key
from l2i_builder.source import stream as source_stream
from l2i_builder.source.source import UrlSource, make_source

BATCH, SIDE = 4, 32


def png(colour, size=(40, 40)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def config(tmp_path=None, **fetch):
    return Config(
        metadata=str(tmp_path or ""),
        fetch={"concurrency": 8, "timeout": 5, "retries": 0, **fetch},
        image={"size": SIDE, "min_size": 16, "workers": 1},
        cluster={"batch_rows": BATCH},
        ingest={"filter": {"unknown_punsafe": "accept"}},
    )


def make_rows(urls, captions=None):
    captions = captions or ["a picture"] * len(urls)
    pairs = enumerate(zip(urls, captions, strict=True))
    return [Row(sample_key(url, caption), url, caption, 0, i) for i, (url, caption) in pairs]


class Web:
    """Stands in for the Fetcher: ``pages`` are bodies, Fetcheds, exceptions, or functions that give one of them.

    A url that ends in ``!`` waits until the event ``go`` is set."""

    def __init__(self, pages):
        self.pages = pages
        self.asked, self.finished, self.cancelled = [], [], []
        self.now = self.most_at_once = 0
        self.closed = False
        self.go = asyncio.Event()

    def __call__(self, config):
        return self

    async def __aenter__(self):
        self.loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_):
        self.closed = True

    def release(self):
        self.loop.call_soon_threadsafe(self.go.set)

    async def fetch(self, url, expected_sha256=""):
        self.asked.append(url)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            await (self.go.wait() if url.endswith("!") else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.cancelled.append(url)
            raise
        finally:
            self.now -= 1
        self.finished.append(url)
        page = self.pages[url.rstrip("!")]
        if isinstance(page, Exception):
            raise page
        if isinstance(page, Fetched):
            return page
        digest = hashlib.sha256(page).hexdigest()
        return Fetched(page, 200, "image/png", digest, size=len(page))


@pytest.fixture
def open_source():
    sources = []

    def make(pages, **fetch):
        web = Web(pages)
        sources.append(UrlSource(config(**fetch), web))
        return sources[-1], web

    yield make
    for source in sources:
        source.close()


def batches_of(source, rows):
    return list(source.batches_of(rows, InputShard(0, (), {}, len(rows))))


COLOURS = {f"u{i}": (i, 2 * i, 255 - i) for i in range(64)}
PICTURES = {name: png(colour) for name, colour in COLOURS.items()}


def test_batches_are_fixed_slices_of_the_rows_in_order(open_source):
    source, _ = open_source(PICTURES)
    rows = make_rows([f"u{i}" for i in range(10)])
    batches = batches_of(source, rows)
    assert [len(batch.rows) for batch in batches] == [4, 4, 2]
    assert [row for batch in batches for row in batch.rows] == rows
    for batch in batches:
        assert batch.shard_rows == 10
        assert batch.live.dtype == np.int64
        assert batch.live.tolist() == list(range(len(batch.rows)))
        assert batch.image.shape == (len(batch.rows), SIDE, SIDE, 3)
        assert batch.image.dtype == np.uint8
        assert batch.image.flags.c_contiguous
        assert batch.image.flags.writeable
        assert [tuple(image[5, 5]) for image in batch.image] == [COLOURS[row.url] for row in batch.rows]


def test_rows_say_what_was_fetched_and_decoded(open_source):
    source, _ = open_source({"u": png((1, 2, 3), (60, 40))})
    (row,) = rows = make_rows(["u"])
    batches_of(source, rows)
    assert (row.status, row.content_type, row.bytes) == (200, "image/png", len(png((1, 2, 3), (60, 40))))
    assert row.sha256 == hashlib.sha256(png((1, 2, 3), (60, 40))).hexdigest()
    assert (row.format, row.original_width, row.original_height, row.image_notes) == ("PNG", 60, 40, "")
    assert row.kept


def test_failures_keep_their_row_and_lose_their_slot(open_source):
    pages = {
        "gone": Fetched(status=404, reason=Reason.HTTP_4XX, detail="HTTP 404"),
        "words": b"these are words",
        "tiny": png((0, 0, 0), (4, 4)),
        "good": png((9, 9, 9)),
    }
    source, _ = open_source(pages)
    (batch,) = batches_of(source, rows := make_rows(list(pages)))
    assert [row.reason for row in rows] == ["http_4xx", "not_image", "too_small", ""]
    assert [row.stage for row in rows] == ["fetch", "decode", "decode", ""]
    assert rows[0].status == 404
    assert rows[0].detail == "HTTP 404"
    assert batch.live.tolist() == [3]
    assert batch.image.shape == (1, SIDE, SIDE, 3)


def test_a_batch_may_be_left_without_pixels(open_source):
    source, _ = open_source({"words": b"these are words"})
    (batch,) = batches_of(source, make_rows(["words"]))
    assert len(batch) == 0
    assert batch.image.shape == (0, SIDE, SIDE, 3)


def test_rows_refused_by_ingest_travel_along_unfetched(open_source):
    source, web = open_source(PICTURES)
    rows = make_rows(["u0", "u1", "u2"])
    rows[1].refuse(Reason.UNSAFE, "ingest", "punsafe 0.9")
    (batch,) = batches_of(source, rows)
    assert web.asked == ["u0", "u2"]
    assert batch.live.tolist() == [0, 2]
    assert (rows[1].reason, rows[1].stage) == ("unsafe", "ingest")


def test_an_unexpected_exception_is_a_stage_error_of_its_row(open_source):
    source, _ = open_source({"odd": ZeroDivisionError("of all things"), "u0": PICTURES["u0"]})
    batches_of(source, rows := make_rows(["odd", "u0"]))
    assert (rows[0].reason, rows[0].stage) == ("stage_error", "fetch")
    assert rows[0].detail == "ZeroDivisionError: of all things"
    assert rows[1].kept


def test_an_error_that_is_the_operators_to_mend_ends_the_shard(open_source):
    source, _ = open_source({"u0": PICTURES["u0"], "u1": ClusterError("plug it in")})
    with pytest.raises(ClusterError, match="plug it in"):
        batches_of(source, make_rows(["u0", "u1"]))


def test_a_repeated_key_is_a_duplicate_and_fetched_once(open_source):
    source, web = open_source(PICTURES, dedup=False)  # a key is stored once, whatever the configuration
    rows = make_rows(["u0", "u1", "u0", "u0"], ["cat", "cat", "cat", "another caption"])
    batches_of(source, rows)
    assert [row.reason for row in rows] == ["", "", "duplicate", ""]
    assert rows[2].detail == "same URL and caption as row 0 of this shard"
    assert sorted(web.asked) == ["u0", "u0", "u1"]


@pytest.mark.parametrize("slow", [None, "u0", "u5"])
def test_of_equal_contents_the_first_row_has_it_whichever_comes_first(open_source, slow):
    same = dict.fromkeys(["u0", "u3", "u5", "u9"], PICTURES["u0"])
    source, web = open_source(PICTURES | same)
    rows = make_rows([f"u{i}{'!' if f'u{i}' == slow else ''}" for i in range(10)])
    release = threading.Timer(1.0, web.release)
    release.start()
    batches = batches_of(source, rows)
    release.join()
    assert [row.index for row in rows if row.reason] == [3, 5, 9]
    assert {row.reason for row in rows if row.reason} == {"duplicate"}
    assert rows[5].detail == "same content as row 0 of this shard"
    assert [batch.live.tolist() for batch in batches] == [[0, 1, 2], [0, 2, 3], [0]]
    assert (rows[5].format, rows[5].original_width) == ("", -1)  # alike, whether or not it has been decoded


def test_content_that_cannot_be_decoded_is_a_duplicate_too(open_source):
    source, _ = open_source({f"u{i}": b"one placeholder" for i in range(3)})
    batches_of(source, rows := make_rows(["u0", "u1", "u2"]))
    assert [row.reason for row in rows] == ["not_image", "duplicate", "duplicate"]


def test_contents_may_repeat_where_dedup_is_off(open_source):
    source, _ = open_source(dict.fromkeys(["u0", "u1"], PICTURES["u0"]), dedup=False)
    (batch,) = batches_of(source, make_rows(["u0", "u1"]))
    assert batch.live.tolist() == [0, 1]


def test_a_slow_row_does_not_stop_the_requests_behind_it(open_source):
    source, web = open_source(PICTURES, concurrency=8)
    rows = make_rows(["u0!"] + [f"u{i}" for i in range(1, 64)])
    stream = source.batches_of(rows, InputShard(0, (), {}, len(rows)))
    consumer = threading.Thread(target=lambda: next(stream), daemon=True)
    consumer.start()
    eventually(lambda: len(web.finished) == 63)
    web.release()
    consumer.join()
    assert [len(batch) for batch in stream] == [4] * 15


def test_rows_begun_are_bounded_by_the_bytes_that_wait(open_source, monkeypatch):
    monkeypatch.setattr(source_stream, "WAITING_BYTES", 5 * len(PICTURES["u1"]))
    source, web = open_source(PICTURES, concurrency=2)
    rows = make_rows(["u0!"] + [f"u{i}" for i in range(1, 64)])
    stream = source.batches_of(rows, InputShard(0, (), {}, len(rows)))
    consumer = threading.Thread(target=lambda: next(stream), daemon=True)
    consumer.start()
    eventually(lambda: len(web.asked) > 6)
    time.sleep(0.3)
    # Rows of the two or three batches next in line may be decoded already, and wait no more.
    assert len(web.asked) < 3 * BATCH + 12
    web.release()
    consumer.join()
    assert sum(len(batch) for batch in stream) == 60


def test_requests_under_way_are_bounded(open_source):
    source, web = open_source(PICTURES, concurrency=3)
    batches_of(source, make_rows([f"u{i}" for i in range(64)]))
    assert web.most_at_once <= 2 * 3  # twice: some wait for their host's turn


def test_closing_the_iterator_stops_the_shard(open_source):
    source, web = open_source(PICTURES, concurrency=4)
    urls = [f"u{i}" for i in range(BATCH)] + [f"u{i}!" for i in range(BATCH, 64)]
    stream = source.batches_of(make_rows(urls), InputShard(0, (), {}, 64))
    next(stream)
    stream.close()
    assert web.now == 0
    assert set(web.cancelled) == set(web.asked) - set(web.finished)
    asked = len(web.asked)
    assert asked < 64
    assert len(batches_of(source, make_rows(["u0", "u1"]))) == 1  # the source goes on to the next shard
    assert len(web.asked) == asked + 2


def test_closing_the_source_closes_what_it_opened(open_source):
    source, web = open_source(PICTURES)
    batches_of(source, make_rows(["u0"]))
    source.close()
    assert web.closed
    assert not source._thread.is_alive()
    source.close()  # twice does no harm


def test_a_source_that_cannot_open_leaves_nothing_behind():
    threads = threading.active_count()
    with pytest.raises(ConfigError):
        UrlSource(config(user_agent="two\nlines"))
    assert threading.active_count() == threads


def test_busy_seconds_and_images_are_noted(open_source):
    source, _ = open_source(PICTURES)
    batches = batches_of(source, make_rows([f"u{i}" for i in range(8)]))
    assert sum(batch.images["fetch"] for batch in batches) == 8
    assert sum(batch.images["decode"] for batch in batches) == 8
    assert sum(batch.seconds["decode"] for batch in batches) > 0
    assert all(batch.seconds["fetch"] >= 0 for batch in batches)


def test_crashing_bytes_cost_their_row_alone(open_source, tmp_path, monkeypatch):
    (tmp_path / "fragile.py").write_text(
        "import os\nfrom l2i_builder.decode.decoder import decode as real\n"
        "def decode(data, config):\n    return os.abort() if data == b'boom' else real(data, config)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from l2i_builder.source import source as module

    monkeypatch.setattr(
        module, "DecoderPool", lambda image, workers: source_stream.DecoderPool(image, workers, "fragile:decode")
    )
    source, _ = open_source({"u0": PICTURES["u0"], "bad": b"boom", "u1": PICTURES["u1"]})
    batches_of(source, rows := make_rows(["u0", "bad", "u1"]))
    assert [row.reason for row in rows] == ["", "decoder_crashed", ""]


def eventually(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within ten seconds")


def test_the_real_fetcher_over_http(tmp_path):
    """From parquet to batches: what the web does to rows, by reason."""
    picture = png((200, 10, 10))
    pages = {
        "/a.png": answer(picture, 200, "Content-Type: image/png"),
        "/copy.png": answer(picture),
        "/cut.png": answer(png((0, 0, 9))[:-30]),
        "/drawing.svg": answer(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 200, "Content-Type: image/svg+xml"),
    }
    expected = {
        "/a.png": "",
        "/404": "http_4xx",
        "/copy.png": "duplicate",
        "/cut.png": "decode_truncated",
        "/html": "not_image",
        "/drawing.svg": "unsupported_format",
        "/noai": "opted_out",
        "/empty": "empty_body",
        "/ok.jpg": "",
        "/gzip": "duplicate",
        "/to-metadata": "ssrf_blocked",
    }
    with HostileWeb(pages) as web:
        urls = [web.url(path) for path in expected]
        pq.write_table(pa.table({"URL": urls, "TEXT": ["words"] * len(urls)}), tmp_path / "part.parquet")
        chosen = config(tmp_path, connect_to=web.connect_to)
        (shard,) = planning.plan(chosen).shards
        source = make_source(chosen)
        try:
            batches = list(source.batches(shard))
        finally:
            source.close()
    rows = [row for batch in batches for row in batch.rows]
    assert {row.url.removeprefix("http://web.test"): row.reason for row in rows} == expected
    assert [len(batch) for batch in batches] == [1, 0, 1]
    assert batches[0].image[0, 5, 5].tolist() == [200, 10, 10]
    assert Counter(web.paths())["/a.png"] == 1
