"""What tests of real Ray nodes need: toy stages that actors find, toy builds, free ports, nodes that end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from toy import Silent, contents, toy_config, toy_parts, write_metadata

from l2i_builder.ingest import planning
from l2i_builder.run.inline import run_inline

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
TOY_BUILD = TESTS / "faults/driver.py"  # METADATA OUT FAULT PAUSE


def toy_job(folder: Path, rows: int = 80) -> tuple[Path, dict[str, bytes]]:
    """Write metadata for toy builds. Returns their folder, and what a plain loop makes of them."""
    metadata = write_metadata(folder / "metadata", rows)
    config = toy_config(metadata, folder / "plain")
    plan = planning.plan(config)
    run_inline(config, plan.shards, "", Silent(), toy_parts(config))
    return metadata, shards_of(folder / "plain")


def shards_of(out: Path) -> dict[str, bytes]:
    """What is the same whoever built it, whatever the run is called."""
    return {name: data for name, data in contents(out).items() if name.startswith(("shards/", "audit/", "previews/"))}


def environment(**more: str) -> dict[str, str]:
    """This process's environment, without another Ray's, with the toy stages on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHON": sys.executable}
    return kept | ours | {"PYTHONPATH": f"{TESTS}:{ROOT}"} | more


RAY = """#!/bin/sh
# ray COMMAND: again where a node does not come up. A raylet waits fifteen seconds for its helper processes, and ends
# where a crowded machine makes them slower.
node=
trap 'kill $node; wait; exit 143' TERM
for attempt in 1 2 3 4 5 6; do
    "$PYTHON" -m ray.scripts.scripts "$@" & node=$!
    wait $node && exit 0
done
exit 1
"""


def ray_command(folder: Path) -> Path:
    """Write a ``ray`` that is patient with busy machines; it needs PYTHON in its environment."""
    folder.mkdir(exist_ok=True)
    (folder / "ray").write_text(RAY)
    (folder / "ray").chmod(0o755)
    return folder / "ray"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(condition: Callable[[], object], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.2)


def end(process: subprocess.Popen) -> None:
    """End a process that leads a session, and whatever it started."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
