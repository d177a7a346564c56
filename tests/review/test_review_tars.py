"""Members of tars: found once, read by range, never extracted, and never the wrong bytes."""

import io
import tarfile

import pytest
from layered_toy import layered_run

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.shards import read_members, write_tar
from l2i_builder.review import tars
from l2i_builder.review.tars import GoneError, Tars, scan

SAMPLES = [(f"k{n}", {"jpg": bytes([n]) * (700 * n + 1), "mask.png": b"mask" * n, "txt": b""}) for n in range(5)]


def tar_of(url: str, samples=SAMPLES) -> str:
    write_tar(samples, url)
    return url


@pytest.fixture(params=["disk", "memory", "s3"])
def url(request, tmp_path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_folder')}/run/00000.tar"
    return str(tmp_path / "00000.tar") if request.param == "disk" else f"memory://{tmp_path.name}/00000.tar"


def test_every_member_is_read_as_written(url):
    tar_of(url)
    reader = Tars()
    for key, members in SAMPLES:
        for suffix, data in members.items():
            assert reader.read(url, key, suffix) == data


def test_offsets_are_those_of_tarfile(tmp_path):
    url = tar_of(str(tmp_path / "a.tar"))
    with tarfile.open(url) as tar:
        expected = {entry.name: (entry.offset_data, entry.size) for entry in tar}
    found = {f"{key}.{suffix}": place for key, members in scan(url).items() for suffix, place in members.items()}
    assert found == expected


def test_a_tar_is_walked_once(tmp_path, monkeypatch):
    url = tar_of(str(tmp_path / "a.tar"))
    walked = []
    monkeypatch.setattr(tars, "scan", lambda url: walked.append(url) or scan(url))
    reader = Tars()
    for key, _ in SAMPLES:
        reader.read(url, key, "jpg")
    assert walked == [url]


def test_of_a_tar_in_an_object_store_the_places_stay_on_disk(tmp_path, s3_folder, monkeypatch):
    url = tar_of(f"{s3_folder}/00000.tar")
    Tars(tmp_path).read(url, "k1", "jpg", digest="ab12")
    monkeypatch.setattr(tars, "scan", lambda url: pytest.fail("walked again"))
    assert Tars(tmp_path).read(url, "k3", "jpg", digest="ab12") == SAMPLES[3][1]["jpg"]


def test_a_damaged_cache_is_not_believed(tmp_path, s3_folder):
    url = tar_of(f"{s3_folder}/00000.tar")
    for text in ("{", '{"k1": {"jpg": [0, 9]}}', "[]", '{"k1": {"jpg": [512]}}'):
        (tmp_path / "ab12.json").write_text(text)
        assert Tars(tmp_path).read(url, "k1", "jpg", digest="ab12") == SAMPLES[1][1]["jpg"]


def test_a_tar_that_was_written_anew_gives_its_new_bytes(url):
    reader = Tars()
    reader.read(tar_of(url), "k3", "jpg")
    tar_of(url, [("k0", {"jpg": b"longer than before" * 100}), ("k3", {"jpg": b"new"})])
    assert reader.read(url, "k3", "jpg") == b"new"


def test_a_sample_that_was_taken_down_is_refused(url):
    reader = Tars()
    reader.read(tar_of(url), "k1", "jpg")
    tar_of(url, [sample for sample in SAMPLES if sample[0] != "k1"])
    with pytest.raises(GoneError, match="any more"):
        reader.read(url, "k1", "jpg")


def test_the_number_of_tars_in_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "TARS", 2)
    reader = Tars()
    for number in range(4):
        reader.places(tar_of(str(tmp_path / f"{number}.tar")))
    assert len(reader._places) == 2
    assert reader.read(str(tmp_path / "0.tar"), "k1", "jpg") == SAMPLES[1][1]["jpg"]


@pytest.mark.parametrize("name", ["../../etc/passwd.jpg", "/etc/passwd", "a/b.jpg", "k1.exe", "k1", ".jpg", "k1.jpg/x"])
def test_names_that_are_no_samples_are_refused(tmp_path, name):
    url = str(tmp_path / "a.tar")
    with tarfile.open(url, "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(OutputError, match="no file of a sample"):
        scan(url)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files_are_refused(tmp_path, kind):
    url = str(tmp_path / "a.tar")
    entry = tarfile.TarInfo("k1.jpg")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with tarfile.open(url, "w") as tar:
        tar.addfile(entry)
    with pytest.raises(OutputError, match="no file of a sample"):
        scan(url)


@pytest.mark.parametrize("end", [100, 512, 700, 3000])
def test_a_tar_that_is_cut_off_is_refused(tmp_path, end):
    whole = io.BytesIO()
    write_tar(SAMPLES, whole)
    url = str(tmp_path / "a.tar")
    storage.write_bytes(url, whole.getvalue()[:end])
    with pytest.raises(OutputError, match="damaged or cut off"):
        scan(url)


def test_a_missing_tar_is_told(tmp_path):
    with pytest.raises(OutputError, match="Check the path"):
        Tars().read(str(tmp_path / "none.tar"), "k1", "jpg")


def test_samples_with_further_layers_are_read_like_others(tmp_path):
    layered_run(tmp_path, tmp_path / "out", rows=20)
    url = str(tmp_path / "out/shards/00000.tar")
    key, members = next(read_members(url))
    assert {*scan(url)[key]} == {*members}
    assert Tars().read(url, key, "bg.jpg") == members["bg.jpg"]
