"""``ray job submit`` to a real head with its dashboard on loopback, as docs/clusters.md has it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from ray_nodes import ROOT, TOY_BUILD, end, environment, free_port, shards_of, toy_job, wait_for

RAY = [sys.executable, "-m", "ray.scripts.scripts"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory):
    """A Ray head that wants a token. Yields the environment of those who have it; RAY_API_SERVER_ADDRESS is its URL."""
    if importlib.util.find_spec("aiohttp_cors") is None:
        pytest.skip("Ray's dashboard is not installed (ray[default]); runs where it is")
    folder = tmp_path_factory.mktemp("head")
    known = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.urandom(16).hex())
    for attempt in range(6):  # on a crowded machine a node may not come up: ray_nodes.RAY says why
        said, port = folder / f"said-{attempt}", free_port()
        process = _start(said, port, known)
        try:
            wait_for(lambda: process.poll() is not None or _is_up(said, port))  # noqa: B023
            if process.poll() is None:
                yield known | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
                return
        finally:
            end(process)
    raise AssertionError(f"the head did not start: {said.read_text()}")


def _start(said: Path, port: int, known: dict[str, str]) -> subprocess.Popen:
    start = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}", "--num-cpus=2"]
    start += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    start += ["--object-store-memory=100000000"]
    with said.open("w") as output:
        return subprocess.Popen([*RAY, *start], env=known, cwd=said.parent, stdout=output, start_new_session=True)


def _is_up(said: Path, port: int) -> bool:
    return "Ray runtime started" in said.read_text() and _answers(f"http://127.0.0.1:{port}")


def test_a_submitted_build_runs_on_the_cluster_to_its_end(head, tmp_path: Path) -> None:
    metadata, expected = toy_job(tmp_path, rows=40)
    build = [sys.executable, str(TOY_BUILD), str(metadata), str(tmp_path / "out"), "''", "0"]

    submitted = subprocess.run(
        [*RAY, "job", "submit", "--", *build], env=head, cwd=ROOT, capture_output=True, text=True
    )

    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout
    assert shards_of(tmp_path / "out") == expected


def test_without_the_token_nothing_can_be_submitted(head, tmp_path: Path) -> None:
    stranger = head | {"RAY_AUTH_TOKEN": "0" * 32}

    refused = subprocess.run([*RAY, "job", "submit", "--", "true"], env=stranger, capture_output=True, text=True)

    assert refused.returncode != 0
    assert "oken" in refused.stdout + refused.stderr


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it wants the token
    except OSError:
        return False
    return True
