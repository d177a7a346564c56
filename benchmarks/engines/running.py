"""One run of one engine: started, watched, perhaps disturbed, and what it wrote."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import subprocess
import tarfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from benchmarks.engines import work
from benchmarks.engines.work import Job
from benchmarks.process_tree import Memory, ProcessTree, environment

KILL_AT = 0.4  # share of the rows that have reached the models when a worker, or everything, is killed
Victim = Literal["", "worker", "everything"]


@dataclass
class Run:
    """wall, cpu: seconds from the engine being up until the job is done, of all its processes. killed: whether
    something was. begun: rows that models began with, of all runs into this folder. samples: key -> digest of what was
    written."""

    job: Job
    wall: float = 0.0
    cpu: float = 0.0
    peak: Memory = field(default_factory=Memory)
    killed: bool = False
    problem: str = ""  # why it did not end well
    begun: int = 0
    samples: dict[str, str] = field(default_factory=dict)
    doubled: int = 0

    def read(self) -> Run:
        """Read the tars. Returns self."""
        seen: Counter[str] = Counter()
        digests: dict[str, list[bytes]] = {}
        for path in sorted((Path(self.job.out) / "shards").glob("*.tar")):
            with suppress(tarfile.TarError), tarfile.open(path) as tar:
                here: set[str] = set()
                for entry in tar:
                    key, _, suffix = entry.name.partition(".")
                    content = tar.extractfile(entry)
                    data = content.read() if content else b""
                    if suffix == work.MEMBERS[0]:
                        seen[key] += 1
                    if seen[key] == 1:
                        digests.setdefault(key, []).append(suffix.encode() + hashlib.sha256(data).digest())
                    here.add(key)
        self.samples = {key: hashlib.sha256(b"".join(parts)).hexdigest() for key, parts in digests.items()}
        self.doubled = sum(count - 1 for count in seen.values())
        self.begun = sum(_begun(self.job).values())
        return self

    def compare(self, known: dict[str, str]) -> tuple[int, int, int]:
        """Return how many samples are lost, doubled, and other than in ``known`` (key -> digest)."""
        wanted = {key for key in map(work.key, range(self.job.rows)) if work.kept(key)}
        other = len(self.samples.keys() - wanted)
        other += sum(known.get(key, digest) != digest for key, digest in self.samples.items())
        return len(wanted - self.samples.keys()), self.doubled, other


def run_engine(python: str, module: str, job: Job, kill: Victim, timeout: float) -> Run:
    """Run a job in a process of its own; what another run left in its folder stays."""
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    command = [python, "-m", f"benchmarks.engines.{module}", job.to_json()]
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "DAFT_ANALYTICS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    alike = {"RAY_worker_niceness": "0"}  # Ray gives its workers less of a shared machine than others give theirs
    with (out / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(**quiet, **alike),
            start_new_session=True,
        )
        tree = ProcessTree(process.pid)
        tree.start()
        try:
            run = _watch(process, tree, Run(job), kill, time.monotonic() + timeout)
        finally:
            _end(process, tree)
    if run.problem:
        run.problem += _last_line(out / "log")
    return run.read()


def _watch(process: subprocess.Popen[bytes], tree: ProcessTree, run: Run, kill: Victim, deadline: float) -> Run:
    assert process.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    times: dict[str, float] = {}
    while "done" not in times:
        with suppress(queue.Empty):
            line = lines.get(timeout=0.02)
            if line is None:
                run.problem = f"ended with code {process.wait()}: "
                break
            if line.startswith(b"@@ "):
                _, event, moment = line.decode().split()
                times[event] = float(moment)
        if kill and not run.killed and (victim := _victim(run.job)):
            run.killed = True
            if kill == "everything":
                tree.end()
                break
            os.kill(victim, signal.SIGKILL)
        if time.monotonic() > deadline:
            run.problem = "hangs: "
            break
    tree.stop()
    run.peak = tree.peak
    if "done" in times:
        run.wall, run.cpu = tree.between(times["up"], times["done"])
    return run


def _victim(job: Job) -> int:
    """The model worker that has begun the most rows, once enough rows have been begun; 0 before."""
    begun = _begun(job)
    return max(begun, key=lambda pid: begun[pid]) if sum(begun.values()) >= KILL_AT * job.rows else 0


def _begun(job: Job) -> dict[int, int]:
    """Process -> rows that its models began with."""
    with suppress(FileNotFoundError):
        return {int(mark.name): mark.stat().st_size for mark in (Path(job.out) / "workers").iterdir()}
    return {}


def _read(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    """Let the engine go, and end what it leaves."""
    with suppress(OSError, subprocess.TimeoutExpired):
        process.communicate(b"\n", timeout=20)
    tree.end()
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"
