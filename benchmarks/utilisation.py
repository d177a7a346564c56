"""Whether models ever wait: for each model actor, the share of the time in which it works, with a slow web.

    python -m benchmarks.utilisation --images 280 --latency-ms 200 --dead 0.3
    python -m benchmarks.utilisation --models paced --pace-ms 30 --images 6000 --latency-ms 200 --dead 0.3

Every call of every stage is noted inside its actor with a clock that all processes share. Busy is the time inside
stages, over the wall time from the moment when all actors have had ``--warm`` batches until no batch is left to begin.
``paced`` models sleep ``--pace-ms`` an image, as a GPU would leave the CPUs: what limits them is the fetching.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.driving import light_parts, light_stages, run_on_ray
from benchmarks.photographs import SAMPLE, PhotographWeb
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.run.cluster import Parts
from l2i_builder.sample import Batch
from l2i_builder.stages import Stage


class Noted:
    """A stage that notes when it works, as lines of ``folder/<process>.jsonl``."""

    def __init__(self, stage: Stage, folder: str) -> None:
        self.stage, self.name, self.path = stage, stage.name, Path(folder, f"{os.getpid()}.jsonl")

    def __call__(self, batch: Batch) -> Batch:
        start = time.monotonic()
        try:
            return self.stage(batch)
        finally:
            with self.path.open("a") as file:
                file.write(json.dumps([self.name, start, time.monotonic()]) + "\n")


class Paced:
    """A segment stage that also takes as long as a model elsewhere would."""

    name = "segment"

    def __init__(self, stage: Stage, pace: float) -> None:
        self.stage, self.pace = stage, pace

    def __call__(self, batch: Batch) -> Batch:
        time.sleep(self.pace * len(batch))
        return self.stage(batch)


def paced_stages(config: Config, pace: float, names: Sequence[str], device: str, threads: int) -> Sequence[Stage]:
    stages = light_stages(config, names, device, threads)
    return [Paced(stage, pace) if stage.name == "segment" else stage for stage in stages]


def noted(make: Any, folder: str, names: Sequence[str], device: str, threads: int) -> Sequence[Stage]:
    return [Noted(stage, folder) for stage in make(names, device, threads)]


def utilisation(folder: Path, first: str, warm: int) -> dict[str, float]:
    """Return process -> busy / wall, between the ``warm``-th batch of the slowest actor and the last one begun."""
    calls: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for path in folder.glob("*.jsonl"):
        calls[path.stem] = [tuple(json.loads(line)) for line in path.read_text().splitlines()]
    begun = {actor: [start for name, start, _ in lines if name == first] for actor, lines in calls.items()}
    begin, end = max(starts[warm] for starts in begun.values()), min(starts[-1] for starts in begun.values())
    inside = {
        actor: sum(max(0.0, min(stop, end) - max(start, begin)) for _, start, stop in lines)
        for actor, lines in calls.items()
    }
    return {actor: busy / (end - begin) for actor, busy in inside.items()}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run as the command line says; returns rows, kept, wall seconds and each model actor's busy share."""
    with (
        PhotographWeb(args.folder, args.latency_ms / 1e3, args.dead) as web,
        tempfile.TemporaryDirectory(prefix="l2i-utilisation-") as scratch,
    ):
        settings = [*web.settings, f"cluster.cpus={args.cpus}", f"cluster.batch_rows={args.batch_rows}"]
        settings += [f"ingest.rows_per_shard={args.rows_per_shard}", *args.overrides]
        metadata = web.write_metadata(Path(scratch, "metadata.parquet"), args.images)
        config = load_config(None, settings, metadata=str(metadata), out=str(Path(scratch, "out")))
        notes = Path(scratch, "notes")
        notes.mkdir()
        parts = Parts.of(config)
        if args.models == "paced":
            parts = light_parts(config)
            parts = Parts(parts.source, partial(paced_stages, config, args.pace_ms / 1e3))
        parts = Parts(parts.source, partial(noted, parts.stages, str(notes)))
        spent, layout = run_on_ray(config, parts)
        shares = utilisation(notes, layout.groups[0].stages[0], args.warm)
    return {"rows": spent.rows, "kept": spent.kept, "wall": spent.wall, "busy": sorted(shares.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=["real", "paced"], default="real")
    parser.add_argument("--pace-ms", type=float, default=30.0, help="milliseconds an image of paced models")
    parser.add_argument("--images", type=int, default=280)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--dead", type=float, default=0.3, help="share of links that answer 404")
    parser.add_argument("--folder", type=Path, default=SAMPLE, help="photographs (default: the sample's)")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--rows-per-shard", type=int, default=70)
    parser.add_argument("--warm", type=int, default=2, help="batches of each actor before the clock starts")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args)
    rate = found["rows"] / found["wall"]
    print(f"{found['rows']} rows, {args.dead:.0%} of them dead, {args.latency_ms:g} ms an answer: {rate:.1f} rows/s")
    for number, share in enumerate(found["busy"]):
        print(f"  model actor {number + 1}: busy {share:.1%} of the time")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
