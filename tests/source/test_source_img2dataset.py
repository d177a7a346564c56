"""ShardSource: img2dataset's output folder as input."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb, answer
from PIL import Image

from l2i_builder.config import Config
from l2i_builder.errors import MetadataError
from l2i_builder.ingest import planning
from l2i_builder.ingest.growing import Growth, choice_bytes, choice_name, cut
from l2i_builder.sample import Reason
from l2i_builder.source import stream as source_stream
from l2i_builder.source.img2dataset_shards import explain
from l2i_builder.source.source import make_source
from l2i_builder.storage import write_bytes


def png(colour, size=(40, 40), format="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format)
    return buffer.getvalue()


def write_tar(path, members):
    """members: (name, bytes) in order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_shard(folder, number, rows, members=None):
    """rows: (image bytes or None, status, error message). Written as img2dataset does: rows in any order, the tar
    in theirs."""
    keys = [f"{number:05d}{position:04d}" for position in range(len(rows))]
    table = {
        "url": [f"http://web.test/{key}.png" for key in keys],
        "caption": [f"caption {key}" for key in keys],
        "key": keys,
        "status": [status for _, status, _ in rows],
        "error_message": [message for _, _, message in rows],
        "sha256": [hashlib.sha256(b"the original, before it was resized").hexdigest()] * len(rows),
    }
    pq.write_table(pa.table(table), folder / f"{number:05d}.parquet")
    if members is None:
        members = []
        for key, (data, _, _) in zip(keys, rows, strict=True):
            if data is not None:
                members += [(f"{key}.jpg", data), (f"{key}.txt", b"caption"), (f"{key}.json", b"{}")]
    write_tar(folder / f"{number:05d}.tar", members)


def good(colour):
    return (png(colour), "success", None)


def config(folder, limit=0, **changes):
    return Config(
        metadata=str(folder),
        source="img2dataset_shards",
        image={"size": 32, "min_size": 16, "workers": 1},
        cluster={"batch_rows": 3},
        ingest={"limit": limit, "filter": {"unknown_punsafe": "accept"}},
        **changes,
    )


def read(chosen):
    """All batches of all shards."""
    source = make_source(chosen)
    try:
        return [batch for shard in planning.plan(chosen).shards for batch in source.batches(shard)]
    finally:
        source.close()


def rows_of(batches):
    return [row for batch in batches for row in batch.rows]


def test_images_are_read_from_the_tar_in_the_parquets_order(tmp_path):
    colours = [(i, 100, 200) for i in range(5)]
    write_shard(tmp_path, 0, [good(colour) for colour in colours])
    batches = read(config(tmp_path))
    assert [len(batch.rows) for batch in batches] == [3, 2]
    assert [tuple(image[9, 9].tolist()) for batch in batches for image in batch.image] == colours
    row = batches[0].rows[1]
    assert row.url == "http://web.test/000000001.png"
    assert row.caption == "caption 000000001"
    assert row.sha256 == hashlib.sha256(png(colours[1])).hexdigest()
    assert (row.bytes, row.format, row.original_width) == (len(png(colours[1])), "PNG", 40)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000.parquet", "00000.tar"]  # nothing extracted


def test_of_tars_that_join_later_only_new_rows_are_read_each_with_its_image(tmp_path):
    colours = [(10 * i, 100, 200) for i in range(8)]
    write_shard(tmp_path, 0, [good(colour) for colour in colours[:5]])
    write_shard(tmp_path, 1, [good(colour) for colour in colours[5:]])
    chosen = config(tmp_path, out=str(tmp_path / "out"))
    fresh = planning.plan(chosen)
    new = np.array([0, 1, 0, 1, 1, 0, 0, 1], bool)
    write_bytes(str(tmp_path / "out" / choice_name(1)), choice_bytes(new))
    cuts = cut(new, [5, 8], 0)
    growth = Growth(fresh.digest, fresh.columns, fresh.files, 8, 4, 4, 0, cuts, "")
    grown = replace(fresh, growths=[growth]).shards[2:]
    source = make_source(chosen)
    try:
        batches = [batch for shard in grown for batch in source.batches(shard)]
    finally:
        source.close()
    assert [(shard.number, shard.rows) for shard in grown] == [(2, 3), (3, 1)]
    assert [(row.shard, row.index) for row in rows_of(batches)] == [(2, 0), (2, 1), (2, 2), (3, 0)]
    shown = [tuple(image[9, 9].tolist()) for batch in batches for image in batch.image]
    assert shown == [colour for colour, is_new in zip(colours, new, strict=True) if is_new]


def test_every_tar_is_a_shard_and_limit_cuts_the_last(tmp_path):
    for number in range(2):
        write_shard(tmp_path, number, [good((number, i, 0)) for i in range(4)])
    batches = read(config(tmp_path, limit=6))
    assert [len(batch.rows) for batch in batches] == [3, 1, 2]
    assert [tuple(image[9, 9].tolist()) for image in batches[2].image] == [(1, 0, 0), (1, 1, 0)]


def test_failures_of_img2dataset_keep_its_message(tmp_path):
    rows = [
        (None, "failed_to_download", "HTTP Error 404: Not Found"),
        good((1, 2, 3)),
        (None, "failed_to_resize", "image too small"),
        (None, "failed_to_download", "<urlopen error [Errno -2] Name or service not known>"),
    ]
    write_shard(tmp_path, 0, rows)
    found = rows_of(read(config(tmp_path)))
    assert [row.reason for row in found] == ["http_4xx", "", "too_small", "dns_error"]
    assert found[0].detail == "img2dataset: failed_to_download: HTTP Error 404: Not Found"
    assert found[0].status == 404
    assert found[3].detail.endswith("<urlopen error [Errno -2] Name or service not known>")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("HTTP Error 403: Forbidden", Reason.HTTP_4XX),
        ("HTTP Error 429: Too Many Requests", Reason.RATE_LIMITED),
        ("HTTP Error 503: Service Unavailable", Reason.HTTP_5XX),
        (
            "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.\n"
            "The last 30x error message was:\nFound",
            Reason.TOO_MANY_REDIRECTS,
        ),
        ("<urlopen error timed out>", Reason.TIMEOUT),
        ("The read operation timed out", Reason.TIMEOUT),
        ("<urlopen error _ssl.c:989: The handshake operation timed out>", Reason.TIMEOUT),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", Reason.DNS_ERROR),
        ("<urlopen error [Errno -5] No address associated with hostname>", Reason.DNS_ERROR),
        ("<urlopen error [Errno 111] Connection refused>", Reason.CONNECT_ERROR),
        ("<urlopen error [Errno 113] No route to host>", Reason.CONNECT_ERROR),
        ("[Errno 104] Connection reset by peer", Reason.CONNECT_ERROR),
        ("Remote end closed connection without response", Reason.CONNECT_ERROR),
        (
            "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired>",
            Reason.TLS_ERROR,
        ),
        ("<urlopen error [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)>", Reason.TLS_ERROR),
        ("IncompleteRead(2000 bytes read, 3000 more expected)", Reason.BODY_TRUNCATED),
        ("unknown url type: 'pictures/1.jpg'", Reason.BAD_SCHEME),
        ("<urlopen error unknown url type: gopher>", Reason.BAD_SCHEME),
        ("<urlopen error no host given>", Reason.BAD_URL),
        ("URL can't contain control characters. '/a b' (found at least ' ')", Reason.BAD_URL),
        ("'ascii' codec can't encode character '\\xfc' in position 9: ordinal not in range(128)", Reason.BAD_URL),
        ("Use of image disallowed by X-Robots-Tag directive", Reason.OPTED_OUT),
        ("hash mismatch", Reason.HASH_MISMATCH),
        ("something nobody has seen before", Reason.STAGE_ERROR),
        ("", Reason.STAGE_ERROR),
    ],
)
def test_messages_of_downloads_have_a_reason(message, reason):
    assert explain("failed_to_download", message).reason is reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Image decoding error", Reason.DECODE_ERROR),
        ("image too small", Reason.TOO_SMALL),
        ("image area too large", Reason.TOO_MANY_PIXELS),
        ("aspect ratio too large", Reason.BAD_ASPECT),
        ("OpenCV(4.9.0) error: (-5:Bad argument) in function 'imencode'", Reason.DECODE_ERROR),
    ],
)
def test_messages_of_resizes_have_a_reason(message, reason):
    assert explain("failed_to_resize", message).reason is reason


def test_a_password_in_a_message_is_not_kept():
    assert "hunter2" not in explain("failed_to_download", "nonnumeric port: 'hunter2@web.test'").detail


def test_a_tar_in_another_order_gives_each_row_its_image(tmp_path, monkeypatch):
    monkeypatch.setattr(source_stream, "WAITING_BYTES", 1)
    colours = [(i, 50, 60) for i in range(9)]
    members = [(f"00000{i:04d}.png", png(colours[i])) for i in (8, 3, 1, 0, 2, 7, 6, 5, 4)]
    write_shard(tmp_path, 0, [good(colour) for colour in colours], members)
    batches = read(config(tmp_path))
    assert [tuple(image[9, 9].tolist()) for batch in batches for image in batch.image] == colours


def test_an_image_missing_from_the_tar_costs_its_row(tmp_path):
    rows = [good((i, 0, 0)) for i in range(3)]
    write_shard(tmp_path, 0, rows, [("000000000.jpg", rows[0][0]), ("000000002.jpg", rows[2][0])])
    found = rows_of(read(config(tmp_path)))
    assert [row.reason for row in found] == ["", "body_truncated", ""]
    assert found[1].detail == "00000.tar ends without the image 000000001 that its parquet promises"


def test_a_tar_cut_short_costs_the_rows_behind_the_cut(tmp_path):
    write_shard(tmp_path, 0, [good((i, 0, 0)) for i in range(4)])
    whole = (tmp_path / "00000.tar").read_bytes()
    cut = whole.index(png((2, 0, 0))) + 50
    (tmp_path / "00000.tar").write_bytes(whole[:cut])
    found = rows_of(read(config(tmp_path)))
    assert [row.reason for row in found] == ["", "", "body_truncated", "body_truncated"]
    assert found[2].detail == "00000.tar ends within the image 000000002"


def test_members_that_are_no_plain_files_or_too_large_are_not_read(tmp_path):
    write_shard(tmp_path, 0, [good((0, 0, 0)), (bytes(5000), "success", None)])
    link = tarfile.TarInfo("000000000.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        tar.addfile(link)
        large = tarfile.TarInfo("000000001.jpg")
        large.size = 5000
        tar.addfile(large, io.BytesIO(bytes(5000)))
    found = rows_of(read(config(tmp_path, fetch={"max_bytes": 4000})))
    assert [row.reason for row in found] == ["body_truncated", "body_too_large"]


def test_duplicates_and_empty_members_are_refused_as_everywhere(tmp_path):
    write_shard(tmp_path, 0, [good((1, 1, 1)), good((1, 1, 1)), (b"", "success", None)])
    assert [row.reason for row in rows_of(read(config(tmp_path)))] == ["", "duplicate", "empty_body"]


def test_rows_refused_by_ingest_are_not_read(tmp_path):
    write_shard(tmp_path, 0, [good((1, 1, 1))])
    chosen = Config(metadata=str(tmp_path), source="img2dataset_shards", image={"workers": 1})
    (row,) = rows_of(read(chosen))
    assert (row.reason, row.stage, row.sha256) == ("unsafe", "ingest", "")


def test_what_is_no_tar_is_the_operators_to_mend(tmp_path):
    write_shard(tmp_path, 0, [good((1, 1, 1))])
    (tmp_path / "00000.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(MetadataError, match=r"00000\.tar is no tar"):
        read(config(tmp_path))


def test_a_parquet_of_another_tool_is_the_operators_to_mend(tmp_path):
    write_shard(tmp_path, 0, [good((1, 1, 1))])
    table = pq.read_table(tmp_path / "00000.parquet").drop_columns("status")
    pq.write_table(table, tmp_path / "00000.parquet")
    with pytest.raises(MetadataError, match="no column 'status'"):
        read(config(tmp_path))


def test_shards_are_read_from_object_stores(tmp_path, s3_folder):
    from l2i_builder import storage

    write_shard(tmp_path, 0, [good((7, 8, 9))])
    for file in tmp_path.iterdir():
        storage.upload(file, storage.join(s3_folder, file.name))
    (batch,) = read(config(s3_folder))
    assert batch.image[0, 9, 9].tolist() == [7, 8, 9]


def img2dataset_writes(urls, folder, number):
    """One shard as img2dataset's workers write it, resized to JPEG as most sets were."""
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    folder.mkdir(exist_ok=True)
    rows = pa.table({"url": urls, "caption": [f"of {url}" for url in urls]})
    with pa.OSFile(str(folder / "rows.feather"), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)
    download = Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=Resizer(256, "keep_ratio", False),
        thread_count=4,
        save_caption=True,
        extract_exif=True,
        output_folder=str(folder),
        column_list=["url", "caption"],
        timeout=5,
        number_sample_per_shard=100,
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=["noai"],
    )
    assert download((number, str(folder / "rows.feather")))[0]


@pytest.mark.slow
def test_what_img2dataset_really_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    names = [f"/{i}.png" for i in range(6)]
    pages = {name: answer(png((40 * i, 0, 255), (300, 200))) for i, name in enumerate(names)}
    with HostileWeb(pages) as web:
        urls = [f"http://{web.address}{path}" for path in [*names, "/404", "/html", "/503", "/noai", "/cut"]]
        img2dataset_writes(urls[:8], tmp_path / "out", 0)
        img2dataset_writes(urls[8:], tmp_path / "out", 1)
    batches = read(config(tmp_path / "out"))
    assert len({row.shard for row in rows_of(batches)}) == 2
    found = {row.url.rpartition("/")[2]: row for row in rows_of(batches)}
    assert {name: row.reason for name, row in found.items()} == dict.fromkeys([n[1:] for n in names], "") | {
        "404": "http_4xx",
        "html": "decode_error",
        "503": "http_5xx",
        "noai": "opted_out",
        "cut": "body_truncated",
    }
    images = {row.url: image for batch in batches for row, image in zip(batch.live_rows, batch.image, strict=True)}
    for i, name in enumerate(names):
        (image,) = (image for url, image in images.items() if url.endswith(name))
        assert abs(image.reshape(-1, 3).mean(0) - (40 * i, 0, 255)).max() < 4
        assert (found[name[1:]].format, found[name[1:]].original_height) == ("JPEG", 256)
