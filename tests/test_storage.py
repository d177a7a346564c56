"""Storage: one interface over paths, memory and object stores; writes that are whole or absent."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest

from l2i_builder import storage
from l2i_builder.errors import MetadataError, OutputError


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3_folder"))
    return str(tmp_path) if request.param == "local" else f"memory://{uuid4().hex}"


def test_what_is_written_is_read_back(folder: str) -> None:
    url = storage.join(folder, "a/b", "c.bin")
    assert not storage.exists(url)
    storage.write_bytes(url, b"first")
    storage.write_bytes(url, b"second")
    assert storage.exists(url)
    assert storage.read_bytes(url) == b"second"


def test_a_file_is_seekable(folder: str) -> None:
    url = storage.join(folder, "c.bin")
    storage.write_bytes(url, bytes(range(256)) * 100)
    for cache in ("readahead", "none"):
        with storage.open_read(url, cache=cache) as file:
            file.seek(-2, os.SEEK_END)
            assert file.read() == b"\xfe\xff"
            file.seek(300)
            assert file.read(2) == b"\x2c\x2d"


def test_a_listing_is_sorted_filtered_and_always_fresh(folder: str) -> None:
    assert storage.list_names(storage.join(folder, "x")) == []
    for name in ("00010.json", "00002.json", "00002.tar"):
        storage.write_bytes(storage.join(folder, "x", name), b"1")
    storage.write_bytes(storage.join(folder, "x", "below", "00003.json"), b"1")
    assert storage.list_names(storage.join(folder, "x")) == ["00002.json", "00002.tar", "00010.json"]
    assert storage.list_names(storage.join(folder, "x"), ".json") == ["00002.json", "00010.json"]
    storage.write_bytes(storage.join(folder, "x", "00011.json"), b"1")
    assert storage.exists(storage.join(folder, "x", "00011.json"))
    assert storage.list_names(storage.join(folder, "x"), ".json")[-1] == "00011.json"


def test_a_listing_shows_what_other_processes_wrote(s3_folder: str) -> None:
    import boto3

    folder = storage.join(s3_folder, "x")
    storage.write_bytes(storage.join(folder, "1.json"), b"1")
    assert storage.list_names(folder) == ["1.json"]
    assert not storage.exists(storage.join(folder, "2.json"))
    boto3.client("s3").put_object(Bucket=s3_folder.removeprefix("s3://"), Key="x/2.json", Body=b"2")
    assert storage.list_names(folder) == ["1.json", "2.json"]
    assert storage.exists(storage.join(folder, "2.json"))


def test_deleting_what_is_not_there_is_fine(folder: str) -> None:
    url = storage.join(folder, "c.bin")
    storage.write_bytes(url, b"1")
    storage.delete(url)
    storage.delete(url)
    assert not storage.exists(url)


def test_a_moved_file_replaces_what_was_there(folder: str) -> None:
    source, target = storage.join(folder, "a", "c.bin"), storage.join(folder, "b", "d.bin")
    for content in (b"first", b"second"):
        storage.write_bytes(source, content)
        storage.move(source, target)
        assert storage.read_bytes(target) == content
        assert not storage.exists(source)
    with pytest.raises(OutputError, match=r"c\.bin"):
        storage.move(source, target)


def test_upload_copies_a_local_file(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 10_000_000)
    storage.upload(source, storage.join(folder, "copy", "c.bin"))
    assert storage.read_bytes(storage.join(folder, "copy", "c.bin")) == source.read_bytes()


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    url = storage.join(folder, "x", "c.bin")
    storage.write_bytes(url, b"old")

    def half() -> None:
        with storage.create(url) as file:
            file.write(b"ne")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        half()
    assert storage.read_bytes(url) == b"old"
    assert storage.list_names(storage.join(folder, "x")) == ["c.bin"]
    assert list(spool.iterdir()) == []


def test_a_reader_never_sees_a_file_that_is_being_written(folder: str) -> None:
    url = storage.join(folder, "x", "c.bin")
    with storage.create(url) as file:
        file.write(b"half")
        file.flush()
        assert not storage.exists(url)
        assert storage.list_names(storage.join(folder, "x"), ".bin") == []
    assert storage.read_bytes(url) == b"half"


def test_who_reads_a_file_while_it_is_replaced_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    url = str(tmp_path / "c.bin")
    storage.write_bytes(url, b"old" * 1000)
    with storage.open_read(url) as file:
        storage.write_bytes(url, b"new")
        assert file.read() == b"old" * 1000
    assert storage.read_bytes(url) == b"new"


def test_a_missing_file_is_an_error_of_the_class_asked_for_that_names_it(folder: str) -> None:
    url = storage.join(folder, "nothing.bin")
    with pytest.raises(MetadataError, match=r"nothing\.bin"):
        storage.read_bytes(url, error=MetadataError)
    with pytest.raises(OutputError, match=r"nothing\.bin"):
        storage.open_read(url)


def test_many_files_are_read_in_order_and_a_missing_one_spoils_no_other(folder: str, monkeypatch) -> None:
    monkeypatch.setattr(storage, "AT_ONCE", 2)
    for name in ("b", "a", "d [1]*"):
        storage.write_bytes(storage.join(folder, name), name.encode())
    *found, last = storage.read_each(folder, ["b", "missing", "a", "d [1]*", "b"])
    assert [one for one in [*found, last] if isinstance(one, bytes)] == [b"b", b"a", b"d [1]*", b"b"]
    assert isinstance(found[1], OutputError)
    assert storage.join(folder, "missing") in str(found[1])
    assert list(storage.read_each(folder, [])) == []


def test_a_small_file_is_one_request(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    asked, call = [], s3fs.S3FileSystem._call_s3
    monkeypatch.setattr(
        s3fs.S3FileSystem, "_call_s3", lambda self, method, *a, **k: asked.append(method) or call(self, method, *a, **k)
    )
    storage.write_bytes(storage.join(s3_folder, "a"), b"a")
    asked.clear()
    assert storage.read_bytes(storage.join(s3_folder, "a")) == b"a"
    assert list(storage.read_each(s3_folder, ["a", "a"])) == [b"a", b"a"]
    assert asked == ["get_object"] * 3


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    def fill() -> None:
        with storage.create(str(tmp_path / "c.bin")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"No space left.*Free some space"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_block_s_own_code_is_not_dressed_up(tmp_path: Path) -> None:
    def fail() -> None:
        with storage.create(str(tmp_path / "c.bin")):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        fail()


def test_a_file_where_a_folder_should_be_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(OutputError, match="Check the path"):
        storage.write_bytes(str(tmp_path / "x" / "c.bin"), b"1")


def test_an_unknown_kind_of_url_is_explained() -> None:
    with pytest.raises(OutputError, match="s3://"):
        storage.read_bytes("nosuch://bucket/file")


@pytest.mark.parametrize(
    "url",
    ["s3://no-such-bucket-of-ours/file", "s3://no-such-bucket-of-ours/folder/file"],
)
def test_a_missing_bucket_is_explained(s3_folder: str, url: str) -> None:
    with pytest.raises(OutputError, match="no-such-bucket-of-ours"):
        storage.write_bytes(url, b"1")


def test_an_object_store_that_does_not_answer_is_explained(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OutputError, match="network"):
        storage.read_bytes("s3://bucket/file")


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("/a", "b", "c.txt"), "/a/b/c.txt"),
        (("/a/", "/b/", "c.txt"), "/a/b/c.txt"),
        (("/", "b"), "/b"),
        (("a",), "a"),
        (("", "b"), "b"),
        (("s3://bucket", "b"), "s3://bucket/b"),
        (("memory://", "b"), "memory://b"),
    ],
)
def test_join(parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(*parts) == joined


def test_the_home_folder_and_file_urls_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write_bytes("~/c.bin", b"home")
    assert storage.read_bytes(f"file://{tmp_path}/c.bin") == b"home"
    assert (tmp_path / "c.bin").read_bytes() == b"home"
