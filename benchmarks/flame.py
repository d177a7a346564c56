"""Where a run's CPU time goes, as a flame graph: ``benchmarks.overhead`` under py-spy.

    python -m benchmarks.flame --models light --images 800 --plot docs/images/overhead-flame.svg

py-spy (from an environment of its own, ``venvs.py``) looks at all processes a hundred times a second and notes the
stacks of threads that could run. Importing and loading models are left out, and so is the plain loop: what is drawn is
the work of the run, by kind of process. Widths are shares of all samples; a frame under ``--least`` is not drawn.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from benchmarks.process_tree import ROOT
from benchmarks.venvs import venv

Stack = tuple[str, ...]

# how a frame begins that only such a process has -> what the process is; nothing: it is not wanted
MARKS = {
    "plain_loop (": "",
    "by_turns (": "",
    "StageWorker.run (": "model actors",
    "Source._run (": "fetch actors",
    "commit_shard (": "commits",
    "_answer (": "decoders",
    "run_on_ray (": "driver",
}
FRAME = re.compile(r"(.+ \(.+):\d+\)")


def stacks(raw: Iterable[str]) -> Counter[Stack]:
    """Return samples by stack, its first element the kind of process, from py-spy's ``raw`` format."""
    by_process: dict[str, Counter[Stack]] = defaultdict(Counter)
    for line in raw:
        text, _, count = line.rstrip("\n").rpartition(" ")
        parts = text.split(";")
        process = [part for part in parts if part.startswith("process ")][-1].split(":")[0]
        frames = tuple(found[1] + ")" for part in parts if (found := FRAME.fullmatch(part)))
        by_process[process][frames] += int(count)
    total: Counter[Stack] = Counter()
    for found in by_process.values():
        seen = {frame for frames in found for frame in frames}
        kinds = (kind for mark, kind in MARKS.items() if any(frame.startswith(mark) for frame in seen))
        kind = next(kinds, "Ray's own processes")
        for frames, count in found.items():
            if kind and not any("importlib" in frame or ".ready (" in frame for frame in frames):
                total[kind, *_own(frames)] += count
    return total


def _own(frames: Stack) -> Stack:
    """Cut what leads to the first frame of this project; outside of it, the file is enough."""
    first = next((at for at, frame in enumerate(frames) if "(l2i_builder/" in frame), None)
    if first is None:
        return ("outside of l2i_builder",)
    return tuple(frame.replace("(l2i_builder/", "(") for frame in frames[first:])


def boxes(samples: Counter[Stack], least: float) -> list[dict[str, object]]:
    """Lay the stacks out: a box for each frame, widths in percent of all samples, the widest first."""
    whole = samples.total()
    sums: Counter[Stack] = Counter()
    for stack, count in samples.items():
        for depth in range(1, len(stack) + 1):
            sums[stack[:depth]] += count
    drawn: list[dict[str, object]] = []

    def place(parent: Stack, left: float) -> None:
        children = [stack for stack in sums if len(stack) == len(parent) + 1 and stack[: len(parent)] == parent]
        for child in sorted(children, key=lambda stack: -sums[stack]):
            share = 100 * sums[child] / whole
            if share >= least:
                kind = {"left": left, "right": left + share, "depth": len(parent), "kind": child[0]}
                fits = child[-1][: int(share * 1.4)]
                drawn.append(kind | {"frame": child[-1], "share": share, "label": fits if share > 1.5 else ""})
                place(child, left)
            left += share

    place((), 0.0)
    return drawn


def plot(drawn: list[dict[str, object]], path: Path) -> None:
    import altair as alt

    depth = 1 + max(int(str(box["depth"])) for box in drawn)
    wide = alt.Chart(alt.Data(values=drawn), width=1100, height=18 * depth).encode(
        x=alt.X("left:Q", title="% of samples", scale=alt.Scale(domain=[0, 100])), y=alt.Y("depth:O", axis=None)
    )
    bars = wide.mark_rect(stroke="white", strokeWidth=0.5, opacity=0.75).encode(
        x2="right:Q", color=alt.Color("kind:N", title=None), tooltip=["frame:N", alt.Tooltip("share:Q", format=".1f")]
    )
    text = wide.mark_text(align="left", dx=2, fontSize=9).encode(text="label:N")
    alt.layer(bars, text, background="white").save(path)


def record(models: str, images: int, python: Path) -> list[str]:
    """Run ``benchmarks.overhead`` under py-spy; returns the lines it wrote. Prints what the benchmark says."""
    with tempfile.TemporaryDirectory(prefix="l2i-flame-") as folder:
        out = Path(folder, "stacks.txt")
        spy = [str(python.with_name("py-spy")), "record", "--subprocesses", "--nonblocking", "--rate", "100"]
        job = [sys.executable, "-m", "benchmarks.overhead", "--models", models, "--images", str(images)]
        done = subprocess.run(
            [*spy, "--format", "raw", "--output", str(out), "--", *job], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        if done.returncode or not out.exists():
            raise SystemExit(f"py-spy failed:\n{done.stderr[-2000:]}")
        return out.read_text().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=["real", "light"], default="light")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--least", type=float, default=0.4, help="percent of samples under which a frame is not drawn")
    parser.add_argument("--raw", type=Path, help="draw these stacks instead of recording any")
    parser.add_argument("--plot", type=Path, help="SVG or PNG file")
    parser.add_argument("--venvs", type=Path, help="folder of py-spy's environment")
    args = parser.parse_args()
    if args.raw:
        lines = args.raw.read_text().splitlines()
    else:
        lines = record(args.models, args.images, venv("py-spy", ["py-spy==0.4.3"], args.venvs))
    samples = stacks(lines)
    drawn = boxes(samples, args.least)
    for box in drawn:
        if box["depth"] in (0, 1, 2, 3):
            print(f"{box['share']:6.1f} %  {'  ' * int(str(box['depth']))}{box['frame']}")
    if args.plot:
        plot(drawn, args.plot)


if __name__ == "__main__":
    main()
