"""Reading an output folder: what belongs to the report, and what is wrong with a damaged one."""

import json
import shutil
from pathlib import Path

import pytest

from l2i_builder.errors import OutputError
from l2i_builder.report import funnel, write_report
from l2i_builder.report.run import open_run, read_stats, sizes


@pytest.fixture
def out(reported, tmp_path) -> str:
    """A copy of the run that a test may damage."""
    shutil.copytree(reported.out, tmp_path / "out")
    return str(tmp_path / "out")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_knows_its_plan_and_what_was_changed(reported):
    run = open_run(reported.out)
    assert (run.planned_shards, run.planned_rows, run.finished_rows) == (4, 1200, 1200)
    assert run.finished == [0, 1, 2, 3]
    assert run.columns["url"] == "URL"
    assert all(len(file["footer"]) == 64 for file in run.files)
    changed = {key: (value, default) for key, value, default in run.changed}
    assert changed["ingest.filter.min_aesthetic"] == (4.5, 0.0)
    assert changed["judge.mask.threshold"] == (0.437, -1.0)
    assert "out" not in changed
    assert "image.size" not in changed


def test_ledgers_without_a_manifest_are_not_finished(out):
    Path(out, "manifests", "00002.json").unlink()
    run = open_run(out)
    assert run.finished == [0, 1, 3]
    assert run.finished_rows == 900
    result = funnel(out)
    assert (result.total, result.reconciles) == (900, True)


def test_a_folder_without_a_run_is_refused_with_advice(tmp_path):
    with pytest.raises(OutputError, match="give the output folder of a build"):
        write_report(str(tmp_path))


def test_without_input_json_the_plan_is_unknown(out):
    Path(out, "input.json").unlink()
    run = open_run(out)
    assert (run.planned_shards, run.planned_rows, run.finished_rows) == (-1, -1, -1)
    assert not funnel(out).reconciles
    assert "plan unknown" in Path(write_report(out)).read_text()


def test_a_damaged_plan_or_ledger_stops_the_report(out):
    for name in ("input.json", "ledger/00001.parquet", "run.json"):
        good = Path(out, name).read_bytes()
        Path(out, name).write_bytes(good[: len(good) // 2])
        with pytest.raises(OutputError):
            write_report(out)
        Path(out, name).write_bytes(good)
    assert funnel(out).reconciles


def test_a_lost_ledger_is_an_error_and_not_fewer_rows(out):
    Path(out, "ledger", "00001.parquet").unlink()
    with pytest.raises(OutputError):
        funnel(out)


def test_missing_or_damaged_stats_cost_times_only(out):
    Path(out, "stats", "00000.json").unlink()
    Path(out, "stats", "00001.json").write_bytes(b"{")
    Path(out, "stats", "00002.json").write_bytes(b"[1]")
    stats = read_stats(out, range(4))
    assert [bool(one) for one in stats] == [False, False, False, True]
    assert funnel(out).reconciles


def test_sizes_are_those_of_the_files(out):
    ledger = Path(out, "ledger")
    assert sizes(out, "ledger") == {number: (ledger / f"{number:05d}.parquet").stat().st_size for number in range(4)}
    assert sizes(out, "nothing") == {}
