"""Whether memory stays flat: many small images through fetcher, decoder, Ray and commit, with toy models.

    python -m benchmarks.soak --images 100000 --plot docs/images/soak.svg

Every few seconds the unique memory (USS) of the driver, of the actors and of decoder children, and the bytes in the
object store are noted. Prints each one's level after warm-up and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.driving import Silent, toy_stages
from benchmarks.fetch_throughput import serve
from benchmarks.loopback_web import HOST
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.ingest import planning
from l2i_builder.run.cluster import Driver, Parts, _make_source
from l2i_builder.run.connection import start_ray
from l2i_builder.run.resources import plan_layout

KINDS = {"ray::SourceWorker": "fetch actors", "ray::StageWorker": "stage actors", "ray::": "commit tasks, idle workers"}


class Watch(threading.Thread):
    """Notes memory by kind of process, in MB, until stopped. ``lines``: {"second", "rows", kind: MB}."""

    def __init__(self, progress: Silent, every: float) -> None:
        super().__init__(daemon=True)
        self.progress, self.every, self.lines, self.ended = progress, every, list[dict[str, float]](), threading.Event()

    def run(self) -> None:
        import ray

        start, total = time.monotonic(), ray.cluster_resources().get("object_store_memory", 0)
        while not self.ended.wait(self.every):
            line: dict[str, float] = defaultdict(float)
            line |= {"second": round(time.monotonic() - start), "rows": self.progress.done}
            line["object store"] = (total - ray.available_resources().get("object_store_memory", total)) / 1e6
            me = psutil.Process()
            line["driver"] = me.memory_full_info().uss / 1e6
            for process in me.children(recursive=True):
                try:
                    command = " ".join(process.cmdline())
                    kind = next((name for title, name in KINDS.items() if command.startswith(title)), "")
                    kind = kind or ("decoder children" if "decode.child" in command else "")
                    if kind:
                        line[kind] += process.memory_full_info().uss / 1e6
                except psutil.Error:
                    continue
            self.lines.append(dict(line))


def run(config: Config, rows: int, every: float) -> list[dict[str, float]]:
    """Build with toy models on a local Ray; return what the watch noted."""
    import ray

    resources = start_ray(config)
    progress = Silent()
    watch = Watch(progress, every)
    watch.start()

    async def drive() -> None:
        parts = Parts(partial(_make_source, config), partial(toy_stages, config, 0.0, ""))
        outcome = await Driver(config, plan_layout(config, resources), "soak", progress, parts).run(
            planning.plan(config).shards
        )
        if outcome.failed or progress.done != rows:
            raise SystemExit(f"{progress.done} of {rows} rows came through; failed shards: {outcome.failed}")

    try:
        asyncio.run(drive())
    finally:
        watch.ended.set()
        watch.join()
        ray.shutdown()
    return watch.lines


def summary(lines: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return kind -> [median MB of the second fifth, median MB of the last fifth]."""
    fifth = max(len(lines) // 5, 1)
    parts = (lines[fifth : 2 * fifth], lines[-fifth:])
    kinds = sorted({kind for line in lines for kind in line} - {"second", "rows"})
    return {kind: [sorted(line.get(kind, 0.0) for line in part)[len(part) // 2] for part in parts] for kind in kinds}


def plot(lines: list[dict[str, float]], path: Path) -> None:
    import altair as alt

    long = [
        {"images": line["rows"], "MB": value, "what": kind}
        for line in lines
        for kind, value in line.items()
        if kind not in ("second", "rows")
    ]
    chart = alt.Chart(alt.Data(values=long), width=640, height=260, background="white").mark_line()
    chart.encode(
        x=alt.X("images:Q", title="images done"), y=alt.Y("MB:Q", title="MB"), color=alt.Color("what:N", title=None)
    ).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--plot", type=Path, help="SVG or PNG file")
    args = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, 64, 0.0), daemon=True)
    server.start()
    port = here.recv()
    with tempfile.TemporaryDirectory(prefix="l2i-soak-") as folder:
        urls = [f"http://{HOST}/{number}.jpg" for number in range(args.images)]
        table = pa.table({"URL": urls, "TEXT": urls, "punsafe": [0.0] * args.images})
        pq.write_table(table, f"{folder}/metadata.parquet", row_group_size=10_000)
        overrides = ["image.size=64", "image.min_size=32", "ingest.rows_per_shard=2000", "fetch.dedup=false"]
        overrides += ["cluster.cpus=2", f"fetch.connect_to={{{HOST}: '127.0.0.1:{port}'}}", "fetch.per_host=64"]
        config = load_config(None, overrides, metadata=f"{folder}/metadata.parquet", out=f"{folder}/out")
        start = time.monotonic()
        lines = run(config, args.images, args.every)
        seconds = time.monotonic() - start
    server.terminate()
    print(f"{args.images:,} images in {seconds:.0f} s, {args.images / seconds:.0f} a second")
    print("MB (unique): after warm-up -> at the end")
    for kind, (before, after) in summary(lines).items():
        print(f"  {kind:28} {before:8.1f} -> {after:8.1f}")
    if args.plot:
        plot(lines, args.plot)
        args.plot.with_suffix(".json").write_text(json.dumps(lines))


if __name__ == "__main__":
    main()
