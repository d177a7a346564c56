"""Every engine is held to the same work: what is lost, doubled or other is found."""

import sys
import tarfile

import pytest

from benchmarks.engines import work
from benchmarks.engines.__main__ import Found, again, check, fate, plain, table
from benchmarks.engines.running import Run, run_engine
from benchmarks.engines.work import Job, Models
from benchmarks.process_tree import Memory

SMALL = {"rows_per_shard": 8, "batch": 4, "side": 64, "cost_ms": 1.0}


def written(out, rows=24, skip=(), twice=(), changed=()) -> Run:
    """A run whose tars were written by hand."""
    job = Job(str(out), rows, **SMALL)
    models = Models(job)
    for number in range(job.shards):
        keys = [work.key(row) for row in range(number * 8, min(rows, number * 8 + 8))]
        found = zip(keys, models.run(keys, work.images(keys, job.side)), strict=True)
        samples = [(key, members) for key, members in found if members and key not in skip]
        samples = [(key, members | ({"txt": b"other"} if key in changed else {})) for key, members in samples]
        work.write_shard(job.out, number, samples)
    if twice:
        keys = list(twice)
        again = zip(keys, models.run(keys, work.images(keys, job.side)), strict=True)
        work.write_shard(job.out, 99, [(key, members) for key, members in again])
    return Run(job, wall=1.0, cpu=2.0, peak=Memory(5_000_000, 1_000_000, 3)).read()


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> dict[str, str]:
    return written(tmp_path_factory.mktemp("truth")).samples


def test_whole_outputs_compare_equal(truth, tmp_path):
    assert written(tmp_path).compare(truth) == (0, 0, 0)
    assert truth.keys() == {key for key in map(work.key, range(24)) if work.kept(key)}


def test_lost_doubled_and_other_samples_are_found(truth, tmp_path):
    one, two, three = sorted(truth)[:3]
    assert written(tmp_path, skip=[one], twice=[two], changed=[three]).compare(truth) == (1, 1, 1)


def test_an_engine_that_does_other_work_ends_the_comparison(truth, tmp_path):
    found = Found(small=[written(tmp_path, changed=sorted(truth)[:1])])
    with pytest.raises(SystemExit, match="1 different"):
        check({"other": found}, truth)


def test_a_tar_that_breaks_off_loses_its_rest(truth, tmp_path):
    run = written(tmp_path)
    tar = tmp_path / "shards" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 3])
    lost, doubled, _ = run.read().compare(truth)
    assert lost > 0
    assert doubled == 0


def test_batches_cover_the_rows_and_end_with_their_shard():
    spans = Job("", 21, rows_per_shard=8, batch=3).batches()
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(21))
    assert all(start // 8 == (stop - 1) // 8 for start, stop in spans)


def test_the_table_counts_what_lies_between_the_runs(truth, tmp_path):
    small, large = written(tmp_path / "a", rows=8), written(tmp_path / "b", rows=24)
    large.wall, large.cpu = 5.0, 10.0
    result = Found([small], [large], killed=large)
    (line,) = table({"one": result}, plain_cpu=0.25, known=truth)
    assert line["images_per_second"] == pytest.approx(16 / 4)
    assert line["cpu_over_plain_loop"] == pytest.approx(8 / 16 / 0.25)
    assert line["start_up_seconds"] == pytest.approx(1 - 8 / 4)
    assert (line["peak_mb"], line["processes"]) == (6.0, 3)
    assert line["killed"].startswith("nothing was killed; 0 lost, 0 doubled, 0 different")
    large.problem = "ended with code 1: an error"
    assert fate(result, truth).startswith("aborted, 0 of")


def test_what_is_begun_again_after_everything_was_killed_is_counted(truth, tmp_path):
    run = written(tmp_path)  # its models began with every row
    Models(run.job).began(8)
    assert again(Found(resumed=run.read()), truth) == "0 lost, 0 doubled, 0 different; 8 of 24 rows again"
    assert again(Found(), truth) == "not run"


def test_toy_samples_are_readable_pictures(tmp_path):
    run = written(tmp_path, rows=8)
    with tarfile.open(next((tmp_path / "shards").glob("*.tar"))) as tar:
        names = [entry.name.partition(".")[2] for entry in tar]
    assert names == list(work.MEMBERS) * len(run.samples)


@pytest.mark.slow
def test_a_killed_worker_of_this_projects_driver_loses_nothing(tmp_path):
    _, truth = plain(1.0, 64, 4)
    run = run_engine(sys.executable, "on_l2i", Job(str(tmp_path / "out"), 48, **SMALL), kill="worker", timeout=200)
    assert (run.problem, run.killed) == ("", True)
    assert run.compare(truth) == (0, 0, 0)
    assert run.peak.shared > 0 < run.peak.anonymous
    assert run.cpu > 0 < run.wall


@pytest.mark.slow
def test_everything_killed_costs_this_projects_driver_open_shards_only(tmp_path):
    _, truth = plain(1.0, 64, 4)
    job = Job(str(tmp_path / "out"), 96, **SMALL | {"cost_ms": 40.0})
    first = run_engine(sys.executable, "on_l2i", job, kill="everything", timeout=200)
    assert first.killed
    run = run_engine(sys.executable, "on_l2i", job, kill="", timeout=200)
    assert run.problem == ""
    assert run.compare(truth) == (0, 0, 0)
    assert 0 < run.begun - 96 < first.begun  # finished shards are not begun again
