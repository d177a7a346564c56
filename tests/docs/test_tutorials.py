"""The tutorials, executed: their sh and python blocks run in order, in one folder, as a reader would run them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from l2i_builder.api import summarize
from l2i_builder.errors import L2IError
from l2i_builder.weights.registry import resolve
from pipelines.sample_laion import gather

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
ORDER = ("data-engineer", "reviewer", "ml-engineer")  # the first builds the run that the others look at
WEIGHTS = ("u2net", "efficientnet_lite0")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample's photographs; skips where they, or the weights, cannot be had."""
    folder = tmp_path_factory.mktemp("desk")
    try:
        for name in WEIGHTS:
            resolve(name)
        gather(folder / "runs" / "sample-web")
    except L2IError as error:
        pytest.skip(f"runs where the real weights and photographs can be fetched: {error}")
    return folder


@pytest.fixture(scope="module")
def finished(desk: Path) -> dict[str, str]:
    """What each tutorial printed. Run once, in order."""
    return {name: run(desk, TUTORIALS / f"{name}.md") for name in ORDER}


def run(folder: Path, page: Path) -> str:
    """Run the blocks of a page in ``folder``, Python blocks in one namespace; return what they printed."""
    printed = ""
    names: dict[str, object] = {}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            said = io.StringIO()
            with contextlib.chdir(folder), contextlib.redirect_stdout(said):
                exec(compile(code, f"{page.name}", "exec"), names)
            printed += said.getvalue()
            continue
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed


def test_the_data_engineer_builds_checks_and_takes_down(finished: dict[str, str], desk: Path) -> None:
    said = finished["data-engineer"]
    assert "metadata  " in said  # the dry run
    assert "shards finished, 0 rows to go" in said
    assert "taken_down" in said
    before, anew, after = re.findall(r"output digest (\w{64})", said)
    assert before == anew != after  # the same bytes where a shard is made anew, others after a takedown
    summary = summarize(desk / "runs" / "small")
    assert summary.rows == 24
    assert summary.kept >= 2
    assert summary.reasons["taken_down"] >= 1


def test_the_reviewer_judges_calibrates_and_refilters(finished: dict[str, str], desk: Path) -> None:
    assert "judgements added" in finished["reviewer"]
    assert (desk / "runs" / "small" / "report.html").is_file()
    strict, small = (summarize(desk / "runs" / name) for name in ("strict", "small"))
    assert strict.kept < small.kept


def test_the_ml_engineer_reads_every_layer(finished: dict[str, str], desk: Path) -> None:
    assert "B equals I outside the hole" in finished["ml-engineer"]
    assert (desk / "composite.png").stat().st_size > 10_000


def test_every_tutorial_is_run() -> None:
    assert {path.stem for path in TUTORIALS.glob("*.md")} == set(ORDER)
