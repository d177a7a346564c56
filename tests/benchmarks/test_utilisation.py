"""How busy each model actor was, from the calls it noted."""

import json

import pytest

from benchmarks.utilisation import utilisation


def test_busy_is_counted_between_the_warm_up_and_the_last_batch_begun(tmp_path):
    calls = {"1": [(0, 1), (2, 4), (4, 6), (7, 9)], "2": [(0, 1), (3, 5), (5, 8), (8, 9)]}
    for actor, times in calls.items():
        lines = [json.dumps(["segment", start, end]) for start, end in times]
        (tmp_path / f"{actor}.jsonl").write_text("\n".join(lines))
    assert utilisation(tmp_path, "segment", warm=1) == {"1": pytest.approx(3 / 4), "2": pytest.approx(1.0)}


def test_time_in_later_stages_counts_and_only_the_first_begins_batches(tmp_path):
    calls = [("segment", 0, 1), ("segment", 1, 2), ("encode", 2, 3), ("segment", 4, 5)]
    (tmp_path / "1.jsonl").write_text("\n".join(json.dumps(call) for call in calls))
    assert utilisation(tmp_path, "segment", warm=1) == {"1": pytest.approx(2 / 3)}


@pytest.mark.slow
def test_dead_links_leave_rows_without_pixels_and_every_actor_is_watched(benchmark):
    options = ["--models", "paced", "--pace-ms", "5", "--images", "60", "--latency-ms", "20", "--batch-rows", "4"]
    found, _ = benchmark("utilisation", *options, "--rows-per-shard", "30", "--warm", "1")
    assert (found["rows"], found["kept"]) == (60, 42)
    assert len(found["busy"]) == 2
    assert all(0 < share <= 1 for share in found["busy"])
