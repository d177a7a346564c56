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
from ray_nodes import ROOT, TOY_BUILD, end, environment, free_port, ray_command, shards_of, toy_job, wait_for

RAY = [sys.executable, "-m", "ray.scripts.scripts"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory):
    """A Ray head that wants a token. Yields the environment of those who have it; RAY_API_SERVER_ADDRESS is its URL."""
    if importlib.util.find_spec("aiohttp_cors") is None:
        pytest.skip("Ray's dashboard is not installed (ray[default]); runs where it is")
    folder = tmp_path_factory.mktemp("head")
    gcs, dashboard = free_port(), free_port()
    known = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.urandom(16).hex())
    start = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2"]
    start += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    start += ["--object-store-memory=100000000"]
    url, said = f"http://127.0.0.1:{dashboard}", folder / "said"
    command = [ray_command(folder / "bin"), *start]
    with said.open("w") as output:
        process = subprocess.Popen(command, env=known, cwd=folder, stdout=output, start_new_session=True)
    try:
        wait_for(lambda: process.poll() is not None or ("Ray runtime started" in said.read_text() and _answers(url)))
        assert process.poll() is None, "the head did not start"
        yield known | {"RAY_API_SERVER_ADDRESS": url}
    finally:
        end(process)


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
