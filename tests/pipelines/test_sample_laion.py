"""The sample: gathered photographs, LAION-shaped metadata, and a web that behaves and misbehaves."""

from __future__ import annotations

import http.client
import io
import json
import ssl
import urllib.parse
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from l2i_builder.configfile import load_config
from l2i_builder.errors import MetadataError
from l2i_builder.ingest import planning
from l2i_builder.sample import Reason
from l2i_builder.source.source import make_source
from pipelines import sample_laion
from pipelines.sample_laion import SampleWeb, photos
from pipelines.sample_laion.metadata import SCHEMA, write_metadata
from pipelines.sample_laion.photos import Photo, catalogue, gather


def picture(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A smooth coloured picture, another one for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


LISTED = [
    Photo(f"{name}.png", "invented", "", "", 640, 480, f"Picture of {name}", "nobody", "CC0-1.0", "")
    for name in ("wild-swans", "museum-coffee", "museum-dahlia", "museum-quokka", "museum-pagoda")
]


def invented(folder: Path) -> list[Photo]:
    """Five pictures in ``folder/photos`` under names the recipe for oddities uses."""
    (folder / "photos").mkdir(parents=True)
    for seed, photo in enumerate(LISTED):
        picture(seed).save(folder / "photos" / photo.file)
    return LISTED


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_metadata(folder, invented(folder))
    return folder


def ask(web: SampleWeb, url: str) -> tuple[int, dict[str, str], bytes]:
    """GET a URL of the sample web the way ``fetch.connect_to`` does; redirects are not followed."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(web.connect_to[parts.netloc], timeout=10)
    try:
        connection.request("GET", parts.path, headers={"Host": parts.netloc})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


# --- the catalogue


def test_catalogue_has_at_least_fifty_photographs_with_caption_author_and_licence() -> None:
    known = catalogue()

    assert len(known) >= 50
    assert len({photo.file for photo in known}) == len({photo.sha256 for photo in known}) == len(known)
    for photo in known:
        assert len(photo.caption.split()) >= 4, photo.file
        assert photo.author, photo.file
        assert photo.licence, photo.file
        assert photo.source.startswith("http"), photo.file


# --- gathering


def publish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes, promised: bytes) -> None:
    """Install a package ``l2i_photos`` with one picture, and a catalogue that promises certain bytes."""
    package = tmp_path / "site" / "l2i_photos"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cat.png").write_bytes(data)
    monkeypatch.syspath_prepend(str(package.parent))
    digest = photos.hashlib.sha256(promised).hexdigest()
    cat = Photo("wild-cat.png", "l2i-photos", "l2i_photos/cat.png", digest, 8, 8, "A cat", "me", "CC0-1.0", "")
    monkeypatch.setattr(photos, "catalogue", lambda: [cat])


def test_gather_keeps_the_packages_bytes_and_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish(monkeypatch, tmp_path, b"the bytes", b"the bytes")

    present, notes = gather(tmp_path / "out")

    assert (tmp_path / "out/photos/wild-cat.png").read_bytes() == b"the bytes"
    assert notes == []
    listing = json.loads((tmp_path / "out/photos.json").read_text())
    assert [photo.file for photo in present] == [entry["file"] for entry in listing] == ["wild-cat.png"]
    assert listing[0] | {"caption": "A cat", "licence": "CC0-1.0", "author": "me"} == listing[0]


def test_gather_fetches_nothing_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish(monkeypatch, tmp_path, b"the bytes", b"the bytes")
    first = gather(tmp_path / "out")
    monkeypatch.setattr(photos, "_fetch", lambda *_: pytest.fail("fetched again"))

    assert gather(tmp_path / "out") == first


def test_gather_mends_a_damaged_photograph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish(monkeypatch, tmp_path, b"the bytes", b"the bytes")
    gather(tmp_path / "out")
    (tmp_path / "out/photos/wild-cat.png").write_bytes(b"the byt")

    gather(tmp_path / "out")

    assert (tmp_path / "out/photos/wild-cat.png").read_bytes() == b"the bytes"


def test_gather_refuses_bytes_the_catalogue_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish(monkeypatch, tmp_path, b"another picture", b"the bytes")

    with pytest.raises(MetadataError, match=r"l2i-photos: 1 photographs missing \(this version of the package"):
        gather(tmp_path / "out")


def test_a_machine_without_apt_is_told_what_would_give_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish(monkeypatch, tmp_path, b"the bytes", b"the bytes")
    cat = photos.catalogue()[0]
    bee = Photo("wild-bee.webp", photos.DEBIAN, "a.rcc:bee.webp", "0" * 64, 8, 8, "A bee", "me", "CC0-1.0", "")
    monkeypatch.setattr(photos, "catalogue", lambda: [cat, bee])
    monkeypatch.setattr(photos.shutil, "which", lambda _: None)

    present, notes = gather(tmp_path / "out")

    assert [photo.file for photo in present] == ["wild-cat.png"]
    assert len(notes) == 1
    assert notes[0].startswith("gcompris-qt-data: 1 photographs missing (they come with a Debian package")


def test_one_call_gathers_writes_the_metadata_and_warns_of_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, sample: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(photos, "gather", lambda folder: (LISTED, ["somepackage: 3 photographs missing"]))

    made = sample_laion.gather(sample)

    assert made.metadata == sample / "metadata.parquet"
    assert made.photos == 5
    assert made.rows == pq.read_metadata(made.metadata).num_rows
    assert caplog.messages == ["sample: 5 photographs; somepackage: 3 photographs missing"]


@pytest.mark.slow
def test_real_packages_give_photographs_that_decode(tmp_path: Path) -> None:
    try:
        present, notes = gather(tmp_path)
    except MetadataError as error:
        pytest.skip(f"runs where the packages can be downloaded: {error}")

    assert {photo.package for photo in present} >= {photo.package for photo in catalogue()} - {
        note.partition(":")[0] for note in notes
    }
    for photo in present:
        with Image.open(tmp_path / "photos" / photo.file) as image:
            image.load()
            assert image.size == (photo.width, photo.height)
            assert min(image.size) >= 300


# --- metadata


def test_metadata_has_laions_columns_and_types(sample: Path) -> None:
    assert pq.read_schema(sample / "metadata.parquet").equals(SCHEMA)


def test_every_row_has_an_expected_outcome_in_the_same_order(sample: Path) -> None:
    urls = pq.read_table(sample / "metadata.parquet")["URL"].to_pylist()
    expected = json.loads((sample / "expected.json").read_text())

    assert [entry["url"] for entry in expected] == urls
    assert {entry["reason"] for entry in expected} <= {"", *Reason}


def test_metadata_shows_every_trouble_of_links_and_files(sample: Path) -> None:
    reasons = Counter(entry["reason"] for entry in json.loads((sample / "expected.json").read_text()))

    assert reasons[Reason.DUPLICATE] == 2
    assert set(reasons) >= {
        *(Reason.BAD_SCHEME, Reason.BAD_URL, Reason.URL_CREDENTIALS, Reason.SSRF_BLOCKED, Reason.TOO_MANY_REDIRECTS),
        *(Reason.DNS_ERROR, Reason.CONNECT_ERROR, Reason.TLS_ERROR, Reason.HTTP_4XX, Reason.HTTP_5XX),
        *(Reason.BODY_TOO_LARGE, Reason.BODY_TRUNCATED, Reason.BAD_ENCODING, Reason.EMPTY_BODY, Reason.OPTED_OUT),
        *(Reason.NOT_IMAGE, Reason.UNSUPPORTED_FORMAT, Reason.DECODE_ERROR, Reason.DECODE_TRUNCATED),
        *(Reason.TOO_MANY_PIXELS, Reason.ANIMATED, Reason.TOO_SMALL, Reason.BAD_ASPECT, Reason.UNSAFE),
        Reason.BAD_CAPTION,
    }


def test_only_unrated_rows_lack_punsafe(sample: Path) -> None:
    table = pq.read_table(sample / "metadata.parquet").to_pylist()

    assert [row["TEXT"] for row in table if row["punsafe"] is None] == ["Nobody rated this"]
    assert all(0.28 <= row["similarity"] <= 0.38 and 5 <= row["aesthetic"] <= 7 for row in table)


def test_same_photographs_give_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    write_metadata(tmp_path, invented(tmp_path))

    names = [str(path.relative_to(sample)) for path in sorted(sample.rglob("*")) if path.is_file()]
    assert len(names) > 20
    for name in names:
        assert (tmp_path / name).read_bytes() == (sample / name).read_bytes(), name


def test_a_second_call_writes_nothing(sample: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*")}

    assert write_metadata(sample, LISTED) == pq.read_metadata(sample / "metadata.parquet").num_rows
    assert {path: path.stat().st_mtime_ns for path in sample.rglob("*")} == before


def test_a_lost_file_is_made_again(tmp_path: Path) -> None:
    write_metadata(tmp_path, invented(tmp_path))
    lost = tmp_path / "odd/rotated.jpg"
    before = lost.read_bytes()
    lost.unlink()

    write_metadata(tmp_path, LISTED)

    assert lost.read_bytes() == before


# --- the web


def test_good_links_serve_their_photographs(sample: Path) -> None:
    with SampleWeb(sample) as web:
        status, headers, body = ask(web, "http://museum.l2i.test/photos/museum-coffee.png")

    assert (status, headers["content-type"]) == (200, "image/png")
    assert body == (sample / "photos/museum-coffee.png").read_bytes()


def test_every_listed_host_is_served_except_the_one_that_does_not_resolve(sample: Path) -> None:
    urls = pq.read_table(sample / "metadata.parquet")["URL"].to_pylist()
    hosts = {urllib.parse.urlsplit(url).hostname for url in urls if url.startswith(("http://", "https://"))}

    with SampleWeb(sample) as web:
        strangers = hosts - set(web.connect_to)

    assert strangers == {"gone.l2i.invalid", "192.168.0.1", "169.254.169.254", None}


@pytest.mark.parametrize(
    ("name", "status"),
    [("missing.jpg", 404), ("withdrawn.jpg", 410), ("overloaded.jpg", 503), ("page.jpg", 200), ("empty.jpg", 200)],
)
def test_answers_have_their_status(sample: Path, name: str, status: int) -> None:
    with SampleWeb(sample) as web:
        assert ask(web, f"http://blog.l2i.test/odd/{name}")[0] == status


def test_a_busy_host_asks_to_wait_once_and_then_answers(sample: Path) -> None:
    with SampleWeb(sample) as web:
        first = ask(web, "http://blog.l2i.test/odd/busy.jpg")
        second = ask(web, "http://blog.l2i.test/odd/busy.jpg")

    assert (first[0], first[1]["retry-after"]) == (429, "1")
    assert (second[0], second[2][:3]) == (200, b"\xff\xd8\xff")


def test_redirects_lead_to_a_picture_in_a_circle_and_inward(sample: Path) -> None:
    with SampleWeb(sample) as web:
        to = {
            name: ask(web, f"http://blog.l2i.test/odd/{name}.jpg")[1]["location"]
            for name in ("moved", "loop", "inward")
        }
        moved = ask(web, to["moved"])

    assert (moved[0], moved[1]["content-type"]) == (200, "image/jpeg")
    assert to["loop"] == "http://blog.l2i.test/odd/loop.jpg"
    assert to["inward"].startswith("http://169.254.169.254/")


def test_a_hung_up_body_is_shorter_than_promised(sample: Path) -> None:
    with SampleWeb(sample) as web, pytest.raises(http.client.IncompleteRead):
        ask(web, "http://blog.l2i.test/odd/hung-up.jpg")


def test_the_closed_host_refuses(sample: Path) -> None:
    with SampleWeb(sample) as web, pytest.raises(ConnectionRefusedError):
        ask(web, "http://closed.l2i.test/dog.jpg")


def test_the_host_with_broken_tls_breaks_the_handshake(sample: Path) -> None:
    with SampleWeb(sample) as web:
        connection = http.client.HTTPSConnection(web.connect_to["broken-tls.l2i.test"], timeout=10)
        with pytest.raises(ssl.SSLError):
            connection.request("GET", "/horse.jpg")


def test_pictures_are_what_their_rows_promise(sample: Path) -> None:
    with SampleWeb(sample) as web:
        bodies = {
            name: ask(web, f"http://blog.l2i.test/odd/{name}")[2]
            for name in (
                "rotated.jpg",
                "deep.png",
                "print.jpg",
                "clear.png",
                "moving.gif",
                "thumbnail.jpg",
                "banner.jpg",
            )
        }
    opened = {name: Image.open(io.BytesIO(body)) for name, body in bodies.items()}

    assert opened["rotated.jpg"].getexif()[0x0112] == 6
    assert opened["deep.png"].mode == "I;16"
    assert opened["print.jpg"].mode == "CMYK"
    assert opened["clear.png"].mode == "RGBA"
    assert opened["moving.gif"].n_frames == 3
    assert opened["thumbnail.jpg"].size == (120, 80)
    assert opened["banner.jpg"].size == (1800, 300)


def test_the_bombs_are_small_on_the_line(sample: Path) -> None:
    assert (sample / "odd/bomb.png").stat().st_size < 200
    assert (sample / "odd/gzip-bomb.jpg").stat().st_size < 100_000


@pytest.mark.slow
def test_the_source_ends_every_row_as_expected(sample: Path, tmp_path: Path) -> None:
    expected = [entry["reason"] for entry in json.loads((sample / "expected.json").read_text())]
    table = pq.read_table(sample / "metadata.parquet")
    local = [reason != Reason.DNS_ERROR for reason in expected]  # that look-up leaves the machine
    pq.write_table(table.filter(pa.array(local)), tmp_path / "metadata.parquet")

    with SampleWeb(sample) as web:
        overrides = [f"fetch.connect_to={web.connect_to}", "image.size=64"]
        config = load_config(None, overrides, metadata=str(tmp_path / "metadata.parquet"))
        source = make_source(config)
        rows = [row for shard in planning.plan(config).shards for batch in source.batches(shard) for row in batch.rows]

    wanted = [reason for reason, stays in zip(expected, local, strict=True) if stays]
    ended = [(row.url, row.reason, row.detail) for row in rows]
    assert [end for end, reason in zip(ended, wanted, strict=True) if end[1] != reason] == []


def test_the_web_is_silent(sample: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with SampleWeb(sample) as web:
        for name in ("missing.jpg", "page.jpg", "busy.jpg"):
            ask(web, f"http://blog.l2i.test/odd/{name}")

    assert capfd.readouterr() == ("", "")
