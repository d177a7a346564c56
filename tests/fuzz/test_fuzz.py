"""A short run of every fuzz target, from a fixed seed: nothing strangers send raises what is not a refusal."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="needs atheris (extra dev), which has wheels for Linux")

RUNS = {
    "http_answer": 1500,
    "image": 1500,
    "url": 20_000,
    "robots": 20_000,
    "tar": 800,
    "parquet": 1000,
    "manifest": 10_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNS)
def test_nothing_but_refusals(target, tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), target]
    options = [f"-runs={RUNS[target]}", "-seed=1", "-timeout=60", "-rss_limit_mb=4096", "-verbosity=1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS[target]} runs" in done.stderr


def test_a_target_must_be_named():
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "http_answer" in done.stderr
