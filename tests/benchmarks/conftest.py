"""What the benchmarks' smoke tests share."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from toy import toy_image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photographs(tmp_path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(toy_image(f"photograph {number}", 128)).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture
def benchmark(tmp_path, photographs) -> Callable[..., tuple[dict, str]]:
    """Run a benchmark as people do, a process of its own, on small photographs; returns its numbers and its text."""

    def run(name: str, *options: str) -> tuple[dict, str]:
        report = tmp_path / "found.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--folder", str(photographs), "--json", str(report)]
        command += [*options, "--set", "image.size=64"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return json.loads(report.read_text()), done.stdout

    return run
