"""What a process and all it starts use is counted, and ended with it."""

import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from benchmarks.process_tree import ProcessTree, run_watched

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n{BURN}"
HOLD = """
import multiprocessing.shared_memory as shm, sys
held = shm.SharedMemory(create=True, size=40_000_000)
held.buf[:20_000_000] = b"x" * 20_000_000
own = bytearray(30_000_000)
print("ready", flush=True)
sys.stdin.readline()
held.unlink()
"""

LEAVE = """
import subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(left.pid, flush=True)
sys.stdin.readline()
"""


def test_cpu_of_a_command_and_of_what_it_starts_counts(tmp_path):
    spent = run_watched([sys.executable, "-c", CHILD + "import time; time.sleep(0.3)"], tmp_path / "log")
    assert spent.cpu >= 0.3  # of its own; its child's as well, up to the last look at it
    assert spent.wall >= 0.9


def test_shared_memory_counts_as_far_as_it_is_filled():
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    tree = ProcessTree(process.pid)
    try:
        process.stdout.readline()
        tree.look()
        memory = tree.weigh()
        assert 20e6 <= memory.shared < 25e6
        assert memory.anonymous >= 30e6
        assert tree.peak == memory
    finally:
        process.communicate(b"\n")


def test_a_command_that_fails_is_told_with_its_words(tmp_path):
    with pytest.raises(SystemExit, match="no such luck"):
        run_watched([sys.executable, "-c", "raise ValueError('no such luck')"], tmp_path / "log")


def test_what_outlives_its_parent_is_ended():
    process = subprocess.Popen([sys.executable, "-c", LEAVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    tree = ProcessTree(process.pid)
    left = psutil.Process(int(process.stdout.readline()))
    tree.look()
    process.communicate(b"\n")
    tree.end()
    with suppress(psutil.TimeoutExpired):
        left.wait(10)
    assert not left.is_running()


def test_cpu_between_two_times_is_read_off_the_looks(monkeypatch):
    tree = ProcessTree(psutil.Process().pid)
    for second, cpu in ((10.0, 1.0), (20.0, 3.0), (30.0, 3.5)):
        tree.points.append(type(tree.look())(second, cpu))
    tree.points = [point for point in tree.points if point.time < time.time() - 100]
    assert tree.between(15.0, 25.0) == (10.0, pytest.approx(3.25 - 2.0))
