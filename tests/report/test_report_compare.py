"""What has changed since the last run."""

import json
import shutil
from pathlib import Path

import pytest
from synthetic_run import write_run

from l2i_builder.errors import OutputError
from l2i_builder.report import write_report
from l2i_builder.report.options import Options


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    """Another run: fewer shards, other metadata, no audit slice."""
    out = str(tmp_path_factory.mktemp("other") / "out")
    write_run(out, shards=2, rows=150, seed=7, audit_rate=0, previews=False)
    return out


@pytest.fixture
def out(reported, tmp_path) -> str:
    """A copy of a reported run."""
    shutil.copytree(reported.out, tmp_path / "out")
    return str(tmp_path / "out")


def numbers_of(out: str, **options) -> dict:
    write_report(out, Options(**options))
    return json.loads(Path(out, "report.json").read_bytes())


def test_the_first_report_has_nothing_to_compare_with(reported):
    assert reported.numbers["compared"] is None
    assert "Nothing to compare with yet" in reported.html


def test_writing_it_again_changes_nothing(out, reported):
    assert numbers_of(out)["compared"] is None
    assert Path(out, "report.html").read_text("utf-8") == reported.html


@pytest.mark.parametrize("reported_before", [True, False])
def test_another_run_is_read_from_its_report_or_its_ledgers(out, other, tmp_path, reported_before):
    folder = str(tmp_path / "other")
    shutil.copytree(other, folder)
    if reported_before:
        write_report(folder)
    numbers = numbers_of(out, compare=folder)
    compared = numbers["compared"]
    assert (compared["previous"]["rows"], compared["previous"]["finished_shards"]) == (300, 2)
    assert not compared["same_run"]
    assert "ingest.audit_rate: 0.0 -> 0.05" in compared["settings"]
    assert any(line.startswith("input: ") for line in compared["settings"])
    by_reason = {line["reason"]: line for line in compared["reasons"]}
    for line in numbers["reasons"]:
        change = by_reason[line["reason"]]
        assert change["rows"] == line["rows"]
        assert change["change"] == pytest.approx(line["rows"] / 1200 - change["rows_before"] / 300)
    assert sum(line["rows_before"] for line in compared["reasons"]) + compared["previous"]["kept"] == 300
    assert f"Compared with {folder}" in Path(out, "report.html").read_text("utf-8")


def test_a_report_json_will_do(out, other, tmp_path):
    shutil.copytree(other, tmp_path / "other")
    write_report(str(tmp_path / "other"))
    moved = shutil.copy(tmp_path / "other" / "report.json", tmp_path / "before.json")
    assert numbers_of(out, compare=str(moved))["compared"]["previous"]["rows"] == 300


def test_reasons_of_the_other_run_alone_are_gone(out, tmp_path):
    before = json.loads(Path(out, "report.json").read_bytes())
    before["reasons"].append(before["reasons"][0] | {"reason": "watermark", "rows": 12})
    before["run"]["digest"] = "0" * 64
    Path(tmp_path, "before.json").write_text(json.dumps(before))
    gone = [
        line
        for line in numbers_of(out, compare=str(tmp_path / "before.json"))["compared"]["reasons"]
        if not line["rows"]
    ]
    assert [(line["reason"], line["rows_before"]) for line in gone] == [("watermark", 12)]
    assert "gone" in Path(out, "report.html").read_text("utf-8")


def test_the_same_folder_further_on_is_compared_with_its_last_report(tmp_path):
    out = str(tmp_path / "out")
    write_run(out, shards=3, rows=80, finished=2, previews=False)
    first = numbers_of(out)
    write_run(out, shards=3, rows=80, previews=False)
    second = numbers_of(out)
    assert second["compared"]["same_run"]
    assert second["compared"]["settings"] == []
    assert second["compared"]["previous"]["rows"] == first["funnel"]["total"] == 160
    assert second["compared"]["kept"]["change"] == pytest.approx(
        second["funnel"]["kept"] / 240 - first["funnel"]["kept"] / 160
    )
    assert numbers_of(out) == second  # nothing counted since: what it compares itself with stays


def test_what_is_no_run_is_refused_with_advice(out, tmp_path):
    Path(tmp_path, "torn.json").write_text('{"run": 3')
    for compare, words in (
        (str(tmp_path / "nothing"), "give the output folder of a run"),
        (str(tmp_path / "torn.json"), "no report of this version"),
        (str(tmp_path / "absent.json"), "Check the path"),
    ):
        with pytest.raises(OutputError, match=words):
            write_report(out, Options(compare=compare))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"run": {}}', b'{"compared": {"previous": 3}}'])
def test_an_own_report_that_cannot_be_read_is_nothing_to_compare_with(out, content):
    Path(out, "report.json").write_bytes(content)
    assert numbers_of(out)["compared"] is None


def test_a_hostile_report_stays_text(out, tmp_path):
    before = json.loads(Path(out, "report.json").read_bytes())
    evil = "<script>window.hacked = 1</script>\u202e"
    before["run"] |= {"digest": evil, "version": evil, "config": {evil: evil}, "weights": {evil: evil}}
    before["reasons"] = [{"reason": evil, "rows": 3}]
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(before))
    numbers_of(out, compare=str(path))
    html = Path(out, "report.html").read_text("utf-8")
    assert "<script>window" not in html
    assert "\u202e" not in html
    assert html.count("&lt;script&gt;window.hacked") > 2
