"""The run and the plain loop do the same work on the same rows."""

import pytest

from benchmarks import overhead
from benchmarks.turns import Side

pytestmark = pytest.mark.slow


def test_a_run_and_the_plain_loop_make_the_same_samples(benchmark):
    found, text = benchmark("overhead", "--images", "24", "--turn", "0.2", "--set", "ingest.rows_per_shard=12")
    assert found["kept"] == 24
    assert found["run_cpu"] > 0
    assert found["loop_cpu"] > found["loop_stages_cpu"] > 0
    assert found["run_cpu"] == pytest.approx(sum(found["run_cpu_by_kind"].values()))
    assert found["ratio_cpu"] == pytest.approx(found["run_cpu"] / found["loop_cpu"])
    assert "24 photographs, light models, 24 kept" in text


def test_samples_that_differ_end_the_comparison(photographs, monkeypatch):
    loops = Side([], [], found=[(1.0, 0.9, {"another": "digest"})])
    monkeypatch.setattr(overhead, "compare", lambda *_: (None, Side([], []), loops))
    with pytest.raises(SystemExit, match="not the same"):
        overhead.measure(8, True, photographs, 2, 1.0, ["image.size=64"])


def test_another_number_of_model_actors_is_no_comparison(photographs):
    settings = ["image.size=64", "cluster.cpus=1"]
    with pytest.raises(SystemExit, match="give --cpus 1"):
        overhead.measure(8, True, photographs, 2, 1.0, settings)


def test_no_photographs_is_said_before_anything_starts(tmp_path):
    with pytest.raises(SystemExit, match="make build-shards"):
        overhead.measure(8, True, tmp_path / "nothing", 2, 1.0, [])
