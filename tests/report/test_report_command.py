"""``l2i report``: its options reach the report, and what is wrong with them is a sentence."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.commands import inspect
from l2i_builder.errors import OutputError


@pytest.fixture
def out(reported, tmp_path) -> Path:
    """A copy of a reported run."""
    return Path(shutil.copytree(reported.out, tmp_path / "out"))


def test_options_reach_the_report(out, reported):
    options = ["--samples", "20", "--cpu-price", "0.1", "--gpu-price", "2", "--storage-price", "0.5"]
    result = CliRunner().invoke(app, ["report", str(out), *options, "--compare", reported.out])
    assert result.exit_code == 0, result.output
    assert str(out / "report.html") in result.output
    numbers = json.loads((out / "report.json").read_bytes())
    assert numbers["cost"]["prices"] == {"cpu_hour": 0.1, "gpu_hour": 2.0, "gb_month": 0.5}
    assert numbers["compared"]["previous"]["where"] == reported.out
    assert sum(len(gallery["samples"]) for gallery in numbers["galleries"]) <= 20


@pytest.mark.parametrize("options", [["--samples", "-1"], ["--cpu-price", "-2"], ["--samples", "many"]])
def test_impossible_options_are_refused(out, options):
    assert CliRunner().invoke(app, ["report", str(out), *options]).exit_code == 2


def test_what_is_named_wrongly_is_found_before_anything_is_counted(out, tmp_path):
    for options in (["--compare", str(tmp_path / "nothing")], ["--labels", str(tmp_path / "nothing.parquet")]):
        (out / "report.html").unlink(missing_ok=True)
        result = CliRunner().invoke(app, ["report", str(out), *options])
        assert isinstance(result.exception, OutputError)
        assert not (out / "report.html").exists()


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(inspect.time, "monotonic", lambda: now[0])
    lines = inspect.Lines(Console(force_terminal=False))
    for second in range(0, 200, 10):
        now[0] = float(second)
        lines(second, 1000)
    assert capsys.readouterr().out.splitlines() == ["70 of 1,000 shards counted", "140 of 1,000 shards counted"]
