"""Two groups of processes take turns; neither works while the other does."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import turns
from benchmarks.turns import Side, by_turns

CONTEXT = multiprocessing.get_context("spawn")


def busy(pipe, seconds):
    """Say so, wait for the word, use CPU for ``seconds``, send when that was."""
    pipe.send("ready")
    pipe.recv()
    moments, began = [], time.process_time()
    while time.process_time() - began < seconds:
        moments.append(time.monotonic())
        while time.monotonic() - moments[-1] < 0.005:
            pass
    pipe.send(moments)


@pytest.fixture
def started():
    """Start processes of ``busy``; whatever becomes of a test, they end."""
    processes = []

    def start(seconds):
        here, there = CONTEXT.Pipe()
        processes.append(CONTEXT.Process(target=busy, args=(there, seconds)))
        processes[-1].start()
        there.close()
        here.recv()
        return processes[-1], here

    yield start
    for process in processes:
        process.kill()
        process.join()


def side(*started):
    for process, pipe in started:
        os.kill(process.pid, signal.SIGSTOP)  # it is to begin in its first turn
        pipe.send("go")
    return Side([process.pid for process, _ in started], [pipe for _, pipe in started])


def soon(holds):
    """Whether it holds within ten seconds: the kernel stops a process when it next looks at it."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_sides_never_work_at_the_same_time(started):
    alone, *both = started(0.5), started(0.3), started(0.3)
    one, two = side(alone), side(*both)
    by_turns([one, two], 0.1)
    marks = sorted([(moment, 1) for moment in one.found[0]] + [(moment, 2) for part in two.found for moment in part])
    changes = sum(a != b for (_, a), (_, b) in itertools.pairwise(marks))
    assert 4 <= changes <= len(marks) / 4  # a turn holds a dozen: without turns every second mark changes sides
    assert len(two.found) == 2
    assert one.wall > 0.3  # the kernel lets a process run on for some milliseconds after each turn
    assert two.wall > 0.15


def test_afterwards_everything_runs(started):
    first, second = started(0.0), started(0.1)
    by_turns([side(first), side(second)], 0.05)
    for process, _ in (first, second):
        process.join(10)
        assert process.exitcode == 0


def test_descendants_are_stopped_and_go_on_with_their_root():
    grandchild = "import time; time.sleep(60)"
    child = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {grandchild!r}]).pid, flush=True)"
    with subprocess.Popen([sys.executable, "-c", child + "; input()"], stdin=-1, stdout=-1) as process:
        below = psutil.Process(int(process.stdout.readline()))
        one = Side([process.pid], [])
        try:
            turns._signal(one, signal.SIGSTOP)
            assert soon(lambda: below.status() == psutil.STATUS_STOPPED)
            turns._signal(one, signal.SIGCONT)
            assert soon(lambda: below.status() != psutil.STATUS_STOPPED)
        finally:
            below.kill()
            process.kill()


def test_a_process_that_dies_ends_it_and_the_others_run_on(started):
    (dying, pipe), (other, word) = started(30.0), started(0.1)
    sides = [side((dying, pipe)), side((other, word))]
    dying.kill()
    with pytest.raises(SystemExit, match="before its work was done"):
        by_turns(sides, 0.05)
    other.join(10)
    assert other.exitcode == 0
