"""The same toy pipeline on this project's driver, Ray Data, Daft and Xenna (the engine of NeMo Curator), by turns.

    python -m benchmarks.engines --rows 2048 --rounds 1

Pictures of 512 pixels are drawn in one kind of worker, go through four model stages of a stated CPU cost in two of
another, are encoded there, and written, a tar a shard. Same functions (``work.py``), same batches, two CPUs;
the tars must come out the same. Each engine runs twice undisturbed, a quarter of the rows and all of them: speed and
CPU time are those of the rows between, so that starting up does not count. Then half the rows with one model worker
killed (SIGKILL) on the way, and again with all processes killed and the same command given once more. Memory is that
of all its processes together: anonymous pages, those shared after a fork once, and shared memory files (the object
store) as far as they hold pages, once.

Daft and Xenna are installed into environments of their own (``benchmarks/venvs.py``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engines import work
from benchmarks.engines.running import Run, Victim, run_engine
from benchmarks.engines.work import Job
from benchmarks.process_tree import Memory, ended_by_signal
from benchmarks.venvs import VenvError, venv

COMMON = ["numpy==2.4.6", "opencv-python-headless==5.0.0.93"]
REQUIREMENTS = {"daft": ["daft==0.7.26", *COMMON], "xenna": ["cosmos-xenna==0.3.0", "tqdm==4.70.1", *COMMON]}
MODULES = {"l2i": "on_l2i", "ray data": "on_ray_data", "daft": "on_daft", "xenna": "on_xenna"}
PLAIN_ROWS = 96  # of the plain loop


@dataclass
class Found:
    """What an engine did. ``small``, ``large``: a pair a round; killed, resumed: none where the others failed."""

    small: list[Run] = field(default_factory=list)
    large: list[Run] = field(default_factory=list)
    killed: Run | None = None
    resumed: Run | None = None
    problem: str = ""

    @property
    def wall(self) -> float:
        """Seconds a row, start-up not counted."""
        return statistics.median(self._slopes("wall"))

    @property
    def cpu(self) -> float:
        return statistics.median(self._slopes("cpu"))

    @property
    def start_up(self) -> float:
        return statistics.median(one.wall - one.job.rows * self.wall for one in self.small)

    @property
    def peak(self) -> Memory:
        return max((one.peak for one in self.large), key=lambda peak: peak.total)

    def _slopes(self, what: str) -> list[float]:
        return [
            (getattr(b, what) - getattr(a, what)) / (b.job.rows - a.job.rows)
            for a, b in zip(self.small, self.large, strict=True)
        ]


def plain(cost_ms: float, side: int, batch: int) -> tuple[float, dict[str, str]]:
    """Return CPU seconds a row of the same work in one loop without any engine, and what it wrote."""
    with tempfile.TemporaryDirectory(prefix="l2i-plain-") as out:
        job = Job(out, PLAIN_ROWS, PLAIN_ROWS, batch, side, cost_ms)
        models, samples = work.Models(job), []
        began = time.process_time()
        for start, stop in job.batches():
            keys = [work.key(row) for row in range(start, stop)]
            samples += zip(keys, models.run(keys, work.images(keys, side)), strict=True)
        work.write_shard(out, 0, [(key, members) for key, members in samples if members])
        cpu = (time.process_time() - began) / PLAIN_ROWS
        return cpu, Run(job).read().samples


def measure(engines: list[str], args: argparse.Namespace, folder: Path) -> dict[str, Found]:
    found = {engine: Found() for engine in engines}
    for number in range(-1, args.rounds):  # the first one warms up
        for engine, result in found.items():
            for place, rows in enumerate([args.rows // 4, args.rows] if number >= 0 else [2 * args.batch]):
                run = None if result.problem else attempt(engine, result, f"{number}", rows, "", args, folder)
                if run and not run.problem and number >= 0:
                    (result.small, result.large)[place].append(run)
                elif run and number >= 0:
                    result.problem = run.problem
    for engine, result in found.items():
        if not result.problem:
            result.killed = attempt(engine, result, "killed", args.rows // 2, "worker", args, folder)
            attempt(engine, result, "resumed", args.rows // 2, "everything", args, folder)
            result.resumed = attempt(engine, result, "resumed", args.rows // 2, "", args, folder)
    return found


def attempt(
    engine: str, result: Found, name: str, rows: int, kill: Victim, args: argparse.Namespace, folder: Path
) -> Run | None:
    """Run an engine once; None, and the problem said, where it cannot be installed."""
    try:
        python = venv(engine, REQUIREMENTS[engine], args.venvs) if engine in REQUIREMENTS else sys.executable
    except VenvError as error:
        result.problem = str(error)
        return None
    out = folder / f"{engine}-{name}-{rows}".replace(" ", "-")
    job = Job(str(out), rows, args.rows_per_shard, args.batch, args.side, args.cost_ms)
    run = run_engine(str(python), MODULES[engine], job, kill, args.timeout)
    text = run.problem or f"{run.wall:.1f} s, {run.cpu:.1f} CPU s, {run.peak.total / 1e6:.0f} MB"
    what = f"{run.job.rows} rows{f', {kill} killed' * run.killed}"
    print(f"  {engine}: {what}: {text}", file=sys.stderr, flush=True)
    return run


def check(found: dict[str, Found], truth: dict[str, str]) -> None:
    """Raise SystemExit unless all undisturbed runs wrote what they should, and the same."""
    known = dict(truth)
    for engine, result in found.items():
        for run in result.small + result.large:
            lost, doubled, other = run.compare(known)
            if lost or doubled or other:
                raise SystemExit(f"{engine}: {lost} lost, {doubled} doubled, {other} different: not the same work")
            known |= run.samples


def fate(result: Found, known: dict[str, str]) -> str:
    """What a killed worker cost, in words."""
    run = result.killed
    if run is None:
        return "not run"
    lost, doubled, other = run.compare(known)
    of = sum(work.kept(work.key(row)) for row in range(run.job.rows))
    if run.problem:
        return f"aborted, {lost} of {of} samples missing ({run.problem})"
    late = run.wall - result.start_up - run.job.rows * result.wall
    text = f"{lost} lost, {doubled} doubled, {other} different of {of}; {late:+.1f} s"
    return text if run.killed else f"nothing was killed; {text}"


def again(result: Found, known: dict[str, str]) -> str:
    """What came of everything killed and the same command given once more, in words."""
    run = result.resumed
    if run is None:
        return "not run"
    lost, doubled, other = run.compare(known)
    text = f"{lost} lost, {doubled} doubled, {other} different; {run.begun - run.job.rows} of {run.job.rows} rows again"
    return f"{text} ({run.problem})" if run.problem else text


def table(found: dict[str, Found], plain_cpu: float, known: dict[str, str]) -> list[dict[str, object]]:
    first = next(iter(found.values()))
    lines: list[dict[str, object]] = []
    for engine, result in found.items():
        if result.problem:
            lines.append({"engine": engine, "problem": result.problem})
            continue
        lines.append(
            {
                "engine": engine,
                "images_per_second": 1 / result.wall,
                "speed_of_first": result.wall and first.wall / result.wall,
                "cpu_ms_per_image": result.cpu * 1e3,
                "cpu_over_plain_loop": result.cpu / plain_cpu,
                "start_up_seconds": result.start_up,
                "peak_mb": result.peak.total / 1e6,
                "peak_anonymous_mb": result.peak.anonymous / 1e6,
                "peak_shared_mb": result.peak.shared / 1e6,
                "processes": result.peak.processes,
                "killed": fate(result, known),
                "resumed": again(result, known),
            }
        )
    return lines


def show(lines: list[dict[str, object]], plain_cpu: float) -> None:
    print(f"plain loop: {plain_cpu * 1e3:.2f} CPU ms an image")
    head = ("engine", "images/s", "× first", "CPU ms", "÷ plain", "start s", "peak MB", "own+shared", "processes")
    print(("{:<9}" + "{:>11}" * 8).format(*head) + "  a worker killed")
    for line in lines:
        if "problem" in line:
            print(f"{line['engine']:<9}  {line['problem']}")
            continue
        own = f"{line['peak_anonymous_mb']:.0f}+{line['peak_shared_mb']:.0f}"
        print(
            f"{line['engine']:<9}{line['images_per_second']:>11.1f}{line['speed_of_first']:>11.3f}"
            f"{line['cpu_ms_per_image']:>11.2f}{line['cpu_over_plain_loop']:>11.3f}{line['start_up_seconds']:>11.1f}"
            f"{line['peak_mb']:>11.0f}{own:>11}{line['processes']:>11}  {line['killed']}"
        )
    for line in lines:
        if "problem" not in line:
            print(f"{line['engine']:<9} everything killed, then run again: {line['resumed']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=list(MODULES), default=list(MODULES))
    parser.add_argument("--rows", type=int, default=2048, help="of the largest run; a multiple of 8 batches")
    parser.add_argument("--rows-per-shard", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--cost-ms", type=float, default=5.0, help="CPU of each model stage for an image")
    parser.add_argument("--rounds", type=int, default=1, help="pairs of undisturbed runs of each engine, by turns")
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which a run hangs")
    parser.add_argument("--quick", action="store_true", help="256 rows in small shards: to see that it works")
    parser.add_argument("--venvs", type=Path, help="folder of the other engines' environments")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.rows_per_shard, args.batch = 256, 32, 8
    ended_by_signal()
    plain_cpu, truth = plain(args.cost_ms, args.side, args.batch)
    with tempfile.TemporaryDirectory(prefix="l2i-engines-") as folder:
        found = measure(args.engines, args, Path(folder))
    check(found, truth)
    known = {key: digest for one in found.values() for run in one.large for key, digest in run.samples.items()}
    lines = table(found, plain_cpu, known)
    show(lines, plain_cpu)
    if args.json:
        args.json.write_text(json.dumps({"plain_cpu_ms": plain_cpu * 1e3, "rows": args.rows, "engines": lines}))


if __name__ == "__main__":
    main()
