"""``l2i status``: how far a run is, read from its output folder alone."""

from __future__ import annotations

from rich.console import Console

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output import manifest
from l2i_builder.report import funnel


def print_status(out: str, console: Console) -> None:
    """Print finished shards, failed ones' absence, and the funnel so far. Raises OutputError where there is no run."""
    url = storage.join(out, "input.json")
    if not storage.exists(url):
        raise OutputError(f"{out} holds no run (no input.json). `l2i build --out {out}` begins one.")
    plan = InputPlan.from_json(storage.read_bytes(url))
    done = manifest.finished(out)
    for growth in plan.growths:
        console.print(f"joined later: {growth.rows:,} new rows; {growth.known:,} known and left out")
    left = [shard for shard in plan.shards if shard.number not in done]
    console.print(f"{len(done):,} of {len(plan.shards):,} shards finished, {sum(s.rows for s in left):,} rows to go")
    if left:
        names = ", ".join(shard.name for shard in left[:10])
        console.print(f"open: {names}{' …' if len(left) > 10 else ''}; run the same build again to go on")
    if done:
        console.print(funnel(out).table())
