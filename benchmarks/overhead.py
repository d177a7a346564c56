"""What the pipeline costs around the stages: CPU time of a whole run against the stages in a plain loop.

    python -m benchmarks.overhead --models real --images 420
    python -m benchmarks.overhead --models light --images 2000

The run: ``l2i build``'s driver on a local Ray, fetching from loopback, writing shards. The plain loop: one process for
each CPU, each fetching, decoding and running the stages over its part of the same rows, and nothing else: no
driver, no object store, no decoder children, no ledger, no shards. Loops and actors have loaded their models
before counting begins, and each is as busy as the machine has CPUs, since two busy cores are slower than one. They
run by turns of ``--turn`` seconds, the other side stopped. Both must make the same members, byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.driving import Digests, Spent, digest, light_parts, light_stages, run_on_ray, stored_pictures
from benchmarks.photographs import SAMPLE, PhotographWeb
from benchmarks.process_tree import ended_by_signal
from benchmarks.turns import Side, by_turns, heard
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.decode.decoder import DecodeRefusal, decode
from l2i_builder.fetch.fetcher import Fetcher
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import read_rows
from l2i_builder.run.cluster import Parts
from l2i_builder.run.resources import ORDER
from l2i_builder.sample import Batch, Row
from l2i_builder.stages import make_stages, run_stages


def run(pipe: Connection, config: Config, light: bool) -> None:
    """Make the run; send "loaded", "done", and (Spent, number of model actors)."""
    ended_by_signal()
    spent, layout = run_on_ray(config, light_parts(config) if light else Parts.of(config), pipe.send)
    pipe.send((spent, layout.groups[0].actors))


def plain_loop(pipe: Connection, config: Config, light: bool, part: int, parts: int) -> None:
    """Load, say so, wait for the word; run every ``parts``-th batch; send (CPU seconds, those of stages, Digests)."""
    stages = light_stages(config, ORDER) if light else make_stages(ORDER, config)
    rows = [row for shard in planning.plan(config).shards for row in read_rows(shard, config)]
    step = config.cluster.batch_rows
    batches = [rows[start : start + step] for start in range(0, len(rows), step)][part::parts]
    pipe.send("loaded")
    pipe.recv()

    async def work() -> tuple[float, Digests]:
        made: Digests = {}
        staged = 0.0
        async with Fetcher(config.fetch) as web:
            for part in batches:
                batch = await _decoded(web, part, config)
                began = time.process_time()
                batch = run_stages(stages, batch)
                staged += time.process_time() - began
                made |= {key: digest(members) for key, members in batch.triplets.items()}
        return staged, made

    start = time.process_time()
    staged, made = asyncio.run(work())
    pipe.send((time.process_time() - start, staged, made))


async def _decoded(web: Fetcher, rows: list[Row], config: Config) -> Batch:
    bodies = await asyncio.gather(*(web.fetch(row.url) for row in rows))
    live, images = [], []
    for slot, (row, body) in enumerate(zip(rows, bodies, strict=True)):
        row.status, row.bytes, row.sha256 = body.status, body.size, body.sha256
        try:
            images.append(decode(body.data, config.image).image)
            live.append(slot)
        except DecodeRefusal as problem:
            row.refuse(problem.reason, "decode", problem.detail)
    side = config.image.size
    image = np.stack(images) if images else np.empty((0, side, side, 3), np.uint8)
    return Batch(rows, np.array(live, np.int64), shard_rows=len(rows), image=image)


def compare(config: Config, light: bool, loops: int, turn: float) -> tuple[Spent, Side, Side]:
    """Make the run and the loops, ``turn`` seconds each by turns. Returns what the run spent, and both sides.

    Raises SystemExit where the run had another number of model actors than there were loops.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []

    def start(target: Callable[..., None], *more: int) -> Connection:
        here, there = context.Pipe()
        processes.append(context.Process(target=target, args=(there, config, light, *more)))
        processes[-1].start()
        there.close()
        heard(here)  # "loaded"
        return here

    try:
        words = [start(plain_loop, part, loops) for part in range(loops)]
        word = start(run)
        *of_loops, of_run = (process.pid for process in processes)
        sides = Side([of_run], [word]), Side(of_loops, list(words))
        for one in words:
            one.send("go")
        by_turns(sides, turn)
        spent, actors = heard(word)
    finally:
        for process in processes:
            if sys.exc_info()[0]:
                process.terminate()
            process.join()
    if actors != loops:
        raise SystemExit(f"The run had {actors} model actors, and there were {loops} loops: give --cpus {actors}.")
    return spent, *sides


def measure(images: int, light: bool, folder: Path, cpus: int, turn: float, overrides: list[str]) -> dict[str, Any]:
    """Run both over ``images`` photographs. Raises SystemExit where they made different samples."""
    with PhotographWeb(folder) as web, tempfile.TemporaryDirectory(prefix="l2i-overhead-") as scratch:
        settings = [*web.settings, f"cluster.cpus={cpus}", "cluster.batch_rows=8", "previews.kept_per_shard=0"]
        settings += ["previews.rejected_per_shard=0", "ingest.audit_rate=0", "ingest.rows_per_shard=500", *overrides]
        metadata = web.write_metadata(Path(scratch, "metadata.parquet"), images)
        config = load_config(None, settings, metadata=str(metadata), out=str(Path(scratch, "out")))
        spent, of_run, of_loops = compare(config, light, cpus, turn)
        stored = stored_pictures(Path(scratch, "out"))
    made = {key: value for *_, part in of_loops.found for key, value in part.items()}
    if stored != made:
        raise SystemExit(f"The run kept {len(stored)} samples, the loop {len(made)}; they are not the same.")
    loop_cpu = sum(cpu for cpu, *_ in of_loops.found)
    return {
        "images": images,
        "kept": len(stored),
        "run_cpu": spent.cpu,
        "run_cpu_by_kind": spent.by_kind,
        "run_wall": of_run.wall,
        "starting_cpu": spent.starting,
        "loop_cpu": loop_cpu,
        "loop_stages_cpu": sum(staged for _, staged, _ in of_loops.found),
        "loop_wall": of_loops.wall,
        "ratio_cpu": spent.cpu / loop_cpu,
        "ratio_wall": of_run.wall / of_loops.wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=["real", "light"], default="light")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=SAMPLE, help="photographs (default: the sample's)")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--turn", type=float, default=4.0, help="seconds until the other side goes on")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.images, args.models == "light", args.folder, args.cpus, args.turn, args.overrides)
    each = {name: found[name] / args.images * 1e3 for name in ("run_cpu", "loop_cpu", "run_wall", "loop_wall")}
    print(f"{args.images} photographs, {args.models} models, {found['kept']} kept, the same bytes")
    print(f"  run   {each['run_cpu']:9.1f} ms CPU {each['run_wall']:9.1f} ms wall an image")
    print(f"  loop  {each['loop_cpu']:9.1f} ms CPU {each['loop_wall']:9.1f} ms wall an image")
    print(f"  ratio {found['ratio_cpu']:9.3f}        {found['ratio_wall']:9.3f}")
    for kind, seconds in found["run_cpu_by_kind"].items():
        print(f"    {kind:28} {seconds / args.images * 1e3:9.2f} ms CPU an image")
    print(f"    (the loop's stages           {found['loop_stages_cpu'] / args.images * 1e3:9.2f})")
    print(f"  and {found['starting_cpu']:.1f} CPU-seconds once, to start Ray and load {args.cpus} times the models")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
