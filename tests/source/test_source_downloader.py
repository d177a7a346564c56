"""DownloaderSource: img2dataset's downloader inside our actor. Slow: importing img2dataset takes long."""

import hashlib
import io
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb, answer, silent
from PIL import Image

from l2i_builder.config import Config
from l2i_builder.errors import ConfigError
from l2i_builder.ingest import planning
from l2i_builder.source.source import make_source

pytestmark = pytest.mark.slow


def png(colour, size=(40, 40)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {f"/{i}.png": png((i, 7, 9)) for i in range(12)}
WEB = {path: answer(data, 200, "Content-Type: image/png") for path, data in PICTURES.items()}


def config(folder, web, **fetch):
    return Config(
        metadata=str(folder),
        source="img2dataset",
        fetch={"connect_to": web.connect_to, "timeout": 5, "retries": 0, "concurrency": 4, **fetch},
        image={"size": 32, "min_size": 16, "workers": 1},
        cluster={"batch_rows": 5},
        ingest={"filter": {"unknown_punsafe": "accept"}},
    )


def write_metadata(folder, urls, sha256=None):
    columns = {"url": urls, "caption": ["words"] * len(urls), "sha256": sha256 or [""] * len(urls)}
    pq.write_table(pa.table(columns), folder / "part.parquet")


@pytest.fixture
def open_source():
    sources = []

    def make(chosen):
        sources.append(make_source(chosen))
        return sources[-1], planning.plan(chosen).shards[0]

    yield make
    for source in sources:
        source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "deadlines"]


def test_original_bytes_come_back_in_row_order(tmp_path, open_source):
    with HostileWeb(WEB) as web:
        write_metadata(tmp_path, [web.url(path) for path in PICTURES])
        source, shard = open_source(config(tmp_path, web))
        batches = list(source.batches(shard))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    rows = [row for batch in batches for row in batch.rows]
    assert [row.sha256 for row in rows] == [hashlib.sha256(data).hexdigest() for data in PICTURES.values()]
    assert [tuple(image[9, 9].tolist()) for batch in batches for image in batch.image] == [(i, 7, 9) for i in range(12)]
    assert {(row.status, row.content_type, row.format) for row in rows} == {(200, "image/png", "PNG")}


def test_rows_end_as_with_our_own_fetcher(tmp_path, open_source):
    expected = {
        "/0.png": "",
        "/404": "http_4xx",
        "/503": "http_5xx",
        "/429": "rate_limited",
        "/html": "not_image",
        "/empty": "empty_body",
        "/noai": "opted_out",
        "/endless": "body_too_large",
        "/cut": "body_truncated",
        "/loop": "too_many_redirects",
        "/to-file": "bad_scheme",
        "/to-metadata": "ssrf_blocked",
        "/not-http": "connect_error",
        "/silent": "timeout",
        "/copy": "duplicate",
        "/1.png": "hash_mismatch",
    }
    elsewhere = {
        "file:///etc/passwd": "bad_scheme",
        "http://127.0.0.1/": "ssrf_blocked",
        "http://user:pw@web.test/": "url_credentials",
        "pictures/1.jpg": "bad_url",
    }
    with HostileWeb(WEB | {"/copy": WEB["/0.png"]}) as web:
        urls = [web.url(path) for path in expected] + list(elsewhere)
        digests = ["0" * 64 if url.endswith("/1.png") else "" for url in urls]
        write_metadata(tmp_path, urls, digests)
        source, shard = open_source(config(tmp_path, web, timeout=2, max_bytes=100_000))
        rows = [row for batch in source.batches(shard) for row in batch.rows]
        assert [row.url for row in rows] == urls
        assert {row.url.removeprefix("http://web.test"): row.reason for row in rows[: len(expected)]} == expected
        assert {row.url: row.reason for row in rows[len(expected) :]} == elsewhere
        assert rows[6].opt_out == "x-robots-tag: noai, noimageai"
        assert rows[1].status == 404
        assert web.visits[0].headers["user-agent"].startswith("l2i-builder")


def test_closing_the_iterator_stops_the_downloader(tmp_path, open_source):
    pages = {path: WEB[path] if i < 5 else silent for i, path in enumerate(WEB)}
    with HostileWeb(pages) as web:
        write_metadata(tmp_path, [web.url(path) for path in pages])
        source, shard = open_source(config(tmp_path, web, timeout=1000))
        batches = source.batches(shard)
        assert len(next(batches)) == 5
        batches.close()
        assert web.drained()


def test_a_downloader_that_breaks_fails_the_shard(tmp_path, open_source, monkeypatch):
    with HostileWeb(WEB) as web:
        write_metadata(tmp_path, [web.url(path) for path in PICTURES])
        source, shard = open_source(config(tmp_path, web))

        def broken(*_):
            raise OSError("no space left on device")

        monkeypatch.setattr(source._module.Downloader, "download_shard", broken)
        with pytest.raises(OSError, match="no space left"):
            list(source.batches(shard))


def test_a_row_the_downloader_loses_is_a_stage_error(tmp_path, open_source, monkeypatch):
    with HostileWeb(WEB) as web:
        write_metadata(tmp_path, [web.url(path) for path in PICTURES])
        source, shard = open_source(config(tmp_path, web))
        monkeypatch.setattr(source._module.Downloader, "download_shard", lambda *_: None)
        rows = [row for batch in source.batches(shard) for row in batch.rows]
    assert {(row.reason, row.detail.partition(": ")[2]) for row in rows} == {
        ("stage_error", "failed_to_download: nothing was returned for this row")
    }


@pytest.mark.parametrize("key", ["use_proxy_env", "respect_robots_txt", "per_host_rate"])
def test_what_it_cannot_honour_is_refused_before_the_run(tmp_path, key):
    with pytest.raises(ConfigError, match=f"fetch.{key}"):
        make_source(Config(source="img2dataset", fetch={key: 1}))
