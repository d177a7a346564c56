"""Galleries: the right samples, in the right order, and nothing that must not be shown."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import MASK_THRESHOLD

from l2i_builder.report import galleries as g
from l2i_builder.report import write_report
from l2i_builder.report.galleries import Galleries, Gallery, Sample, gallery_shards, preview_index
from l2i_builder.sample import key_fraction

WEBP = b"RIFF\0\0\0\0WEBPVP8 "


@pytest.fixture
def out(reported, tmp_path) -> str:
    """A copy of the run that a test may damage."""
    shutil.copytree(reported.out, tmp_path / "out")
    return str(tmp_path / "out")


def chosen(reported) -> dict[str, list[dict]]:
    return {gallery["name"]: gallery["samples"] for gallery in reported.numbers["galleries"]}


def previewed(reported) -> list[dict]:
    keys = {key for number in range(4) for key in preview_index(reported.out, number)[0]}
    return [row for row in reported.rows.to_pylist() if row["key"] in keys]


def test_nearest_are_those_nearest_to_the_threshold(reported):
    judged = [row for row in previewed(reported) if row["mask_score"] != -1]
    judged = [row for row in judged if row["reason"] in ("", "mask_rejected", "inpainting_rejected")]
    judged.sort(key=lambda row: (abs(row["mask_score"] - MASK_THRESHOLD), row["key"]))
    nearest = chosen(reported)["nearest_mask"]
    assert [sample["key"] for sample in nearest] == [row["key"] for row in judged[: len(nearest)]]
    assert len(nearest) >= g.NEAREST
    assert {sample["reason"] == "mask_rejected" for sample in nearest} == {True, False}  # both sides


def test_random_draws_are_by_key_alone(reported):
    kept = [row["key"] for row in previewed(reported) if not row["reason"]]
    kept.sort(key=lambda key: key_fraction(key, "report"))
    drawn = [sample["key"] for sample in chosen(reported)["kept"]]
    assert drawn == kept[: len(drawn)]
    assert len(drawn) >= g.KEPT


def test_every_reason_with_a_preview_has_a_gallery(reported):
    reasons = {row["reason"] for row in previewed(reported)} - {""}
    assert {"mask_rejected", "inpainting_rejected", "mask_empty", "stage_error"} <= reasons
    for reason in reasons:
        samples = chosen(reported)[f"reason_{reason}"]
        assert samples
        assert {sample["reason"] for sample in samples} == {reason}


def test_extremes_are_the_ends_of_the_scores(reported):
    scores = sorted(row["inpainting_score"] for row in previewed(reported) if row["inpainting_score"] != -1)
    names = ("lowest_inpainting", "highest_inpainting")
    lowest, highest = ([sample["inpainting_score"] for sample in chosen(reported)[name]] for name in names)
    assert lowest == scores[: len(lowest)]
    assert highest == scores[::-1][: len(highest)]
    assert min(len(lowest), len(highest)) >= g.EXTREME


def sample(key: str, **values) -> Sample:
    fields = {"caption": "", "host": "", "verdict": "kept", "reason": "", "detail": ""}
    numbers = {"shard": 0, "mask_score": 0.5, "inpainting_score": 0.5, "offset": 0, "size": 100}
    return Sample(key=key, **(fields | numbers | values))


def test_a_gallery_keeps_the_best_however_many_are_offered():
    gallery = Gallery("name", "", "", 5)
    for i in range(1000):
        gallery.offer(float((i * 617) % 1000), sample(f"{i}"))
        assert len(gallery.ranked) <= 40
    assert [int(one.key) * 617 % 1000 for one in gallery.samples] == [0, 1, 2, 3, 4]
    assert gallery.offered == 1000


def ledger(**values) -> pa.Table:
    row = {name: getattr(sample("k"), name) for name in g.LEDGER_COLUMNS} | {"mask_area": 0.3, "url": "http://a.test/"}
    return pa.table({name: [value] for name, value in (row | values).items()})


@pytest.mark.parametrize("reason", ["unsafe", "opted_out", "taken_down"])
def test_what_must_not_be_shown_is_not_whatever_the_previews_hold(reason):
    galleries = Galleries(0.5, 0.5)
    galleries.add(0, ledger(reason=reason, verdict="rejected"), {"k": (0, 100)})
    assert galleries.galleries == {}
    galleries.add(0, ledger(reason="mask_rejected", verdict="rejected"), {"k": (0, 100)})
    assert "reason_mask_rejected" in galleries.galleries


def test_the_strip_of_a_key_is_not_shown_for_its_duplicates():
    galleries = Galleries(0.5, 0.5)
    galleries.add(0, ledger(reason="duplicate", verdict="rejected", mask_area=-1.0), {"k": (0, 100)})
    assert galleries.galleries == {}


def test_rows_without_a_preview_are_not_offered():
    galleries = Galleries(0.5, 0.5)
    galleries.add(0, ledger(), {"another": (0, 100)})
    assert galleries.galleries == {}


def write_tar(path: Path, members: dict[str, bytes], **entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in entry.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))


def test_only_plain_webp_members_of_sane_size_are_indexed(tmp_path):
    members = {"good.webp": WEBP, "other.png": WEBP, "empty.webp": b"", "huge.webp": bytes(g.MAX_STRIP + 1)}
    write_tar(tmp_path / "previews" / "00000.tar", members)
    write_tar(tmp_path / "previews" / "00001.tar", {"link.webp": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    index, problem = preview_index(str(tmp_path), 0)
    assert (list(index), problem) == (["good"], "")
    offset, size = index["good"]
    assert (tmp_path / "previews" / "00000.tar").read_bytes()[offset : offset + size] == WEBP
    assert preview_index(str(tmp_path), 1) == ({}, "")


def test_a_shard_without_previews_has_none(tmp_path):
    assert preview_index(str(tmp_path), 5) == ({}, "")


def test_damaged_previews_are_said_and_the_rest_is_shown(out):
    path = Path(out, "previews", "00002.tar")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 - 100])
    page = Path(write_report(out)).read_text("utf-8")
    numbers = json.loads(Path(out, "report.json").read_bytes())
    assert any("shard 2" in problem for problem in numbers["problems"])
    assert "The previews of shard 2 are damaged" in page
    assert page.count('class="strip"') > 50


def test_a_strip_that_is_no_webp_is_left_out(tmp_path):
    write_tar(tmp_path / "previews" / "00000.tar", {"good.webp": WEBP, "evil.webp": b"<svg onload=alert(1)>"})
    galleries = Galleries(None, None)
    index, _ = preview_index(str(tmp_path), 0)
    for key in index:
        galleries.add(0, ledger(key=key), index)
    loaded = {gallery.name: [one.key for one in gallery.samples] for gallery in galleries.load(str(tmp_path))}
    assert loaded["kept"] == ["good"]
    assert galleries.problems == ["The preview of evil in shard 0 is no WebP."]


def test_strips_stay_within_the_budget_and_every_gallery_gets_its_best(monkeypatch, out):
    monkeypatch.setattr(g, "MAX_BYTES", 300_000)
    write_report(out)
    numbers = json.loads(Path(out, "report.json").read_bytes())
    sizes = {key: size for number in range(4) for key, (_, size) in preview_index(out, number)[0].items()}
    shown = [one["key"] for gallery in numbers["galleries"] for one in gallery["samples"]]
    assert 200_000 < sum(sizes[key] for key in shown) <= 300_000
    assert len(numbers["galleries"]) >= 9


def test_previews_of_a_bounded_number_of_shards_are_looked_at():
    assert gallery_shards(list(range(10))) == set(range(10))
    drawn = gallery_shards(list(range(60_000)))
    assert len(drawn) == g.MAX_SHARDS
    assert drawn == gallery_shards(list(range(60_000)))
    assert max(drawn) > 30_000


def test_columns_of_the_galleries_are_in_every_ledger(reported):
    assert set(g.COLUMNS) <= set(pq.read_schema(Path(reported.out, "ledger", "00000.parquet")).names)
