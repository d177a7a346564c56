"""All benchmarks, one after another: what each prints goes to the screen and to ``OUT/<name>.log``.

    python -m benchmarks --out runs/bench
    python -m benchmarks --only overhead-light utilisation-paced

Leave the machine alone meanwhile: two of anything on the same cores measure each other.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

# name -> module and arguments, in the order of docs/benchmarks.md
BENCHMARKS = {
    "overhead-real": "overhead --models real --images 420",
    "overhead-light": "overhead --models light --images 2000",
    "flame": "flame --models light --images 800",
    "utilisation-real": "utilisation --models real --images 280",
    "utilisation-paced": "utilisation --models paced --pace-ms 60 --images 3000 --rows-per-shard 500",
    "early-rejection": "early_rejection --images 140",
    "engines": "engines --rows-per-shard 64",
    "naive": "naive",
    "fetch": "fetch_throughput",
    "loader": "loader --shards runs/sample",
    "members": "members",
    "models": "models",
    "gpu": "gpu",
    "decode": "decode --folder runs/sample-web/photos",
    "soak": "soak --images 20000",
    "simulation": "simulation",
    "resuming": "resuming",
}
PACKAGES = ("ray", "torch", "onnxruntime", "numpy", "opencv-python-headless", "pillow")


def machine() -> str:
    """Return one line on what the numbers were measured with."""
    model = platform.processor()
    if (facts := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in facts.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.now(UTC).date()
    return f"{today}: {os.cpu_count()} CPUs ({model}), {memory:.0f} GB, Python {platform.python_version()}, {packages}"


def run(name: str, out: Path) -> int:
    """Run one benchmark, copying what it prints; returns its exit code."""
    module, *options = BENCHMARKS[name].split()
    command = [sys.executable, "-m", f"benchmarks.{module}", *options]
    print(f"\n== {name}: python -m benchmarks.{BENCHMARKS[name]}", flush=True)
    start = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            log.write(line)
    print(f"   {time.monotonic() - start:.0f} s", flush=True)
    return process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    facts = machine()
    (args.out / "machine.txt").write_text(facts + "\n")
    print(facts)
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"Something else is running (load {busy:.1f}): the numbers will not be worth much.", file=sys.stderr)
    failed = [name for name in args.only if run(name, args.out)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; see {args.out}/<name>.log")
    print(f"\nlogs: {args.out}")


if __name__ == "__main__":
    main()
