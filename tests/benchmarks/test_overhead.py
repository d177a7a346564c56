"""The run and the plain loop do the same work on the same rows."""

from types import SimpleNamespace

import pytest

from benchmarks import overhead

pytestmark = pytest.mark.slow


def test_a_run_and_the_plain_loop_make_the_same_samples(benchmark):
    found, text = benchmark("overhead", "--images", "24", "--set", "ingest.rows_per_shard=12")
    assert found["kept"] == 24
    assert found["run_cpu"] > 0 < found["loop_cpu"]
    assert found["run_cpu"] == pytest.approx(sum(found["run_cpu_by_kind"].values()))
    assert found["ratio_cpu"] == pytest.approx(found["run_cpu"] / found["loop_cpu"])
    assert "24 photographs, light models, 24 kept" in text


def test_samples_that_differ_end_the_comparison(photographs, monkeypatch):
    monkeypatch.setattr(overhead, "run_on_ray", lambda *_: (None, SimpleNamespace(groups=[SimpleNamespace(actors=1)])))
    monkeypatch.setattr(overhead, "in_loops", lambda *_: (1.0, 1.0, {"another": "digest"}))
    with pytest.raises(SystemExit, match="not the same"):
        overhead.measure(8, True, photographs, 2, ["image.size=64"])


def test_no_photographs_is_said_before_anything_starts(tmp_path):
    with pytest.raises(SystemExit, match="make build-shards"):
        overhead.measure(8, True, tmp_path / "nothing", 2, [])
