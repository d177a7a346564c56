"""Comparing versions: what came, what went, what changed, and how that is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from finished_toy import THRESHOLDS, toy_run
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.diff.versions import compare
from l2i_builder.errors import OutputError
from l2i_builder.output.ledger import SCHEMA, read_ledger
from l2i_builder.output.refilter import refilter
from l2i_builder.output.takedown import take_down
from l2i_builder.output.tombstones import Identifier
from l2i_builder.publish.release import Options, publish
from l2i_builder.sample import sample_key


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    toy_run(folder, folder / "out", *THRESHOLDS, rows=60)
    return folder / "out"


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def lines(out: Path) -> dict[str, dict]:
    return {line["key"]: line for path in out.glob("ledger/*") for line in read_ledger(str(path)).to_pylist()}


def edit(out: Path, shard: int, change) -> None:
    """Write a ledger anew, with ``change(lines)``."""
    import pyarrow as pa

    path = out / "ledger" / f"{shard:05d}.parquet"
    pq.write_table(pa.Table.from_pylist(change(read_ledger(str(path)).to_pylist()), schema=SCHEMA), path)


def test_a_run_is_the_same_as_its_copy(run, copy):
    found = compare(str(run), str(copy))
    assert found.same
    assert found.common == 60
    assert found.settings == []
    assert all(line["a"] == line["b"] for line in found.funnel)


@pytest.mark.parametrize("part_rows", [None, 7])
def test_other_thresholds_change_verdicts_and_nothing_else(run, tmp_path, part_rows):
    refilter(str(run), str(tmp_path / "strict"), ["judge.mask.threshold=0.6"])
    before, after = lines(run), lines(tmp_path / "strict")
    changed = {key for key in before if before[key]["reason"] != after[key]["reason"]}
    found = compare(str(run), str(tmp_path / "strict"), part_rows=part_rows)
    assert changed
    assert found.counts == {"verdict": len(changed)}
    assert sum(found.verdicts.values()) == len(changed)
    assert found.verdicts["kept", "mask_rejected"] == sum(before[key]["reason"] == "" for key in changed)
    assert "judge.mask.threshold: 0.3 -> 0.6" in found.settings
    assert found.examples["verdict"][0]["key"] == min(changed)


@pytest.mark.parametrize("part_rows", [None, 7])
def test_keys_that_came_and_went_are_counted_and_listed(run, copy, tmp_path, part_rows):
    kept = [line["key"] for line in lines(run).values() if line["shard"] != 1]
    for path in copy.glob("*/00001.*"):
        path.unlink()
    found = compare(str(run), str(copy), str(tmp_path / "list.parquet"), part_rows=part_rows)
    assert found.counts == {"removed": 20}
    assert found.common == len(kept)
    listed = pq.read_table(tmp_path / "list.parquet").to_pylist()
    assert {line["key"] for line in listed} == lines(run).keys() - set(kept)
    assert {line["what"] for line in listed} == {"removed"}
    assert compare(str(copy), str(run), part_rows=part_rows).counts == {"added": 20}


def test_another_file_behind_a_url_is_a_change_of_content_where_both_are_known(run, copy):
    def change(rows):
        for number, row in enumerate(rows):
            row["sha256"] = "" if number == 2 else f"{number:064d}"
        return rows

    for out, shift in ((run, 0), (copy, 1)):
        out = out if shift else shutil.copytree(run, copy.parent / "base")
        edit(out, 0, change)
    edit(copy, 0, lambda rows: [{**row, "sha256": "f" * 64} if row["index"] in (1, 2) else row for row in rows])
    assert compare(str(copy.parent / "base"), str(copy)).counts == {"content": 1}


@pytest.mark.parametrize("part_rows", [None, 7])
def test_another_caption_of_the_same_url_is_told_from_a_new_sample(run, copy, part_rows):
    url = next(line["url"] for line in lines(run).values() if line["shard"] == 0 and line["index"] == 0)

    def change(rows):
        rows[0] |= {"caption": "said otherwise", "key": sample_key(url, "said otherwise")}
        return rows

    edit(copy, 0, change)
    found = compare(str(run), str(copy), part_rows=part_rows)
    assert found.counts == {"added": 1, "removed": 1, "caption": 1}
    assert found.examples["caption"][0]["after"] == sample_key(url, "said otherwise")


def test_a_run_and_what_was_published_of_it_hold_the_same_samples(run, tmp_path):
    publish(str(run), str(tmp_path / "set"), Options(pictures=False))
    found = compare(str(run), str(tmp_path / "set"))
    assert found.same
    assert found.common == sum(not line["reason"] for line in lines(run).values())
    assert [line["a"] for line in found.funnel] == [line["b"] for line in found.funnel]


def test_two_publications_tell_what_was_taken_down_between_them(run, copy, tmp_path):
    publish(str(run), str(tmp_path / "one"), Options(pictures=False))
    gone = min(line["key"] for line in lines(run).values() if not line["reason"])
    take_down(str(copy), [Identifier.of("key", gone)])
    publish(str(copy), str(tmp_path / "two"), Options(pictures=False))
    found = compare(str(tmp_path / "one"), str(tmp_path / "two"))
    assert found.counts == {"removed": 1}
    assert found.examples["removed"][0]["key"] == gone
    assert compare(str(run), str(copy)).verdicts == {("kept", "taken_down"): 1}


def test_other_pictures_of_a_published_sample_are_found_by_hash(run, tmp_path):
    publish(str(run), str(tmp_path / "one"), Options(pictures=False))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    sidecar = tmp_path / "two" / "metadata" / "train-00000.parquet"
    table = pq.read_table(sidecar)
    place = table.column_names.index("pixels")
    pixels = ["0" * 64, *table["pixels"].to_pylist()[1:]]
    import pyarrow as pa

    pq.write_table(table.set_column(place, "pixels", pa.array(pixels)), sidecar)
    assert compare(str(tmp_path / "one"), str(tmp_path / "two")).counts == {"pixels": 1}


def test_what_is_no_version_is_refused(run, tmp_path):
    with pytest.raises(OutputError, match="neither"):
        compare(str(run), str(tmp_path))
    (tmp_path / "l2i.json").write_text(json.dumps({"digest": "0", "complete": False}))
    with pytest.raises(OutputError, match="not completely published"):
        compare(str(run), str(tmp_path))


def test_the_command_ends_like_diff_and_says_the_same_in_json(run, copy):
    same = CliRunner().invoke(app, ["diff", str(run), str(copy)])
    assert same.exit_code == 0
    assert "the same samples" in same.stdout
    (copy / "manifests" / "00002.json").unlink()
    other = CliRunner().invoke(app, ["diff", str(run), str(copy)])
    assert other.exit_code == 1
    assert "keys only A has" in other.stdout
    found = json.loads(CliRunner().invoke(app, ["diff", str(run), str(copy), "--json"]).stdout)
    assert (found["removed"], found["added"], found["same"]) == (20, 0, False)
