"""What it costs to decode in child processes: the same images in this process and through the pool, by turns.

    python -m benchmarks.decode --folder runs/sample-web/photos --rounds 7

Prints the wall and CPU seconds of each way (least of all rounds) and their ratio. CPU seconds are of all processes
together. One image at a time and one child, so that nothing runs beside anything else. Pixels from the child go into
memory that is used again, as fetch actors have it.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.fetch_throughput import jpegs
from l2i_builder.config import Image
from l2i_builder.decode.decoder import DecodeRefusal, decode
from l2i_builder.decode.pool import DecoderPool


def cpu() -> float:
    """Seconds of this process and of its living children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = [child.cpu_times() for child in psutil.Process().children()]
    return own.ru_utime + own.ru_stime + sum(times.user + times.system for times in children)


def in_process(files: list[bytes], config: Image) -> None:
    for data in files:
        try:
            decode(data, config)
        except DecodeRefusal:
            continue


async def in_child(files: list[bytes], pool: DecoderPool, pixels: np.ndarray) -> None:
    for data in files:
        try:
            await pool.decode(data, lambda: pixels)
        except DecodeRefusal:
            continue


async def measure(files: list[bytes], config: Image, rounds: int) -> dict[str, tuple[float, float]]:
    """Return way -> (wall seconds, CPU seconds), the least of all rounds."""
    pool = DecoderPool(config, workers=1)
    spent: dict[str, list[tuple[float, float]]] = {"in process": [], "in a child": []}
    pixels = np.empty((config.size, config.size, 3), np.uint8)
    try:
        await in_child(files[:2], pool, pixels)
        for _ in range(rounds):
            for way, times in spent.items():
                wall, used = time.perf_counter(), cpu()
                if way == "in process":
                    in_process(files, config)
                else:
                    await in_child(files, pool, pixels)
                times.append((time.perf_counter() - wall, cpu() - used))
    finally:
        pool.close()
    return {way: (min(t[0] for t in times), min(t[1] for t in times)) for way, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="images; none: synthetic JPEGs of 1,024 pixels")
    parser.add_argument("--size", type=int, default=512, help="side of the decoded square")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    files = [path.read_bytes() for path in sorted(args.folder.iterdir()) if path.is_file()] if args.folder else []
    files = files or jpegs(1024) * 4
    config = Image(size=args.size, min_size=1, max_aspect=100)
    found = asyncio.run(measure(files, config, args.rounds))
    print(f"{len(files)} images, {sum(map(len, files)) / len(files) / 1e3:.0f} KB each, to {args.size}²")
    for way, (wall, used) in found.items():
        print(f"  {way:12} {wall / len(files) * 1e3:7.2f} ms wall {used / len(files) * 1e3:7.2f} ms CPU an image")
    (one_wall, one_cpu), (other_wall, other_cpu) = found["in process"], found["in a child"]
    print(f"  ratio        {other_wall / one_wall:7.3f}         {other_cpu / one_cpu:7.3f}")


if __name__ == "__main__":
    main()
