"""``l2i publish`` on the command line: what it says, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_toy import toy_run
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.errors import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    toy_run(folder, folder / "out", rows=40)
    return folder / "out"


def test_it_says_what_was_published_and_where_the_card_is(run, tmp_path):
    arguments = ["publish", str(run), "--to", str(tmp_path / "set"), "--shard-mb", "0.1", "--no-pictures"]
    first = CliRunner().invoke(app, [*arguments, "--name", "Toys", "--license", "cc0-1.0"])
    assert first.exit_code == 0, first.output
    assert "samples in" in first.stdout
    assert f"card  {tmp_path}/set/README.md" in first.stdout.replace("\n", "")
    assert (tmp_path / "set" / "README.md").read_text().count("# Toys") == 1
    assert "shards were there already" in CliRunner().invoke(app, arguments).stdout


def test_another_version_is_refused_until_one_says_replace(run, tmp_path):
    arguments = ["publish", str(run), "--to", str(tmp_path / "set"), "--no-pictures"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    other = CliRunner().invoke(app, [*arguments, "--shard-mb", "0.1"])
    assert isinstance(other.exception, ConfigError)
    assert CliRunner().invoke(app, [*arguments, "--shard-mb", "0.1", "--replace"]).exit_code == 0
