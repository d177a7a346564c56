"""What refusing early saves: busy seconds for a kept triplet, with stages that stop at the first refusal and without.

    python -m benchmarks.early_rejection --images 140

Builds from the same photographs twice on a local Ray, the second time with ``ingest.audit_rate=1``: every row goes
through every stage whatever the judges say. Both keep the same samples, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.driving import Digests, light_parts, run_on_ray, stored_pictures
from benchmarks.photographs import SAMPLE, PhotographWeb
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.run.cluster import Parts

STAGES = ["segment", "judge_mask", "inpaint", "judge_inpainting", "encode"]


def measure(
    images: int, folder: Path, overrides: list[str], make_parts: Callable[[Config], Parts] = Parts.of
) -> dict[str, Any]:
    """Return way ("early", "all") -> kept, cpu and wall seconds, and per stage busy seconds and images."""
    found: dict[str, Any] = {}
    kept: dict[str, Digests] = {}
    with PhotographWeb(folder) as web, tempfile.TemporaryDirectory(prefix="l2i-early-") as scratch:
        metadata = web.write_metadata(Path(scratch, "metadata.parquet"), images)
        for way, audit in (("early", 0), ("all", 1)):
            out = Path(scratch, way)
            settings = [*web.settings, f"ingest.audit_rate={audit}", "ingest.rows_per_shard=70", "cluster.batch_rows=8"]
            config = load_config(None, [*settings, *overrides], metadata=str(metadata), out=str(out))
            spent, _ = run_on_ray(config, make_parts(config))
            stats = [json.loads(path.read_text()) for path in sorted((out / "stats").glob("*.json"))]
            kept[way] = stored_pictures(out)
            found[way] = {"kept": spent.kept, "cpu": spent.cpu, "wall": spent.wall}
            for name in ("seconds", "images"):
                total: Counter[str] = Counter()
                for shard in stats:
                    total.update(shard[name])
                found[way][name] = dict(total)
    if kept["early"] != kept["all"]:
        raise SystemExit(f"The runs kept {len(kept['early'])} and {len(kept['all'])} samples; they are not the same.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=140)
    parser.add_argument("--folder", type=Path, default=SAMPLE, help="photographs (default: the sample's)")
    parser.add_argument("--light", type=float, metavar="SHARE", help="models that cost nothing and refuse this share")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    make_parts = Parts.of if args.light is None else partial(light_parts, threshold=args.light)
    found = measure(args.images, args.folder, args.overrides, make_parts)
    early, all_ = found["early"], found["all"]
    print(f"{args.images} photographs, {early['kept']} kept")
    print(f"  {'stage':18} {'images, early':>14} {'images, all':>12} {'saved':>7}")
    for stage in STAGES:
        seen, of = early["images"].get(stage, 0), all_["images"].get(stage, 0)
        print(f"  {stage:18} {seen:14} {of:12} {1 - seen / max(of, 1):7.1%}")
    costs = [way["cpu"] / max(way["kept"], 1) for way in (early, all_)]
    print(f"  CPU seconds a kept triplet: {costs[0]:.2f} and {costs[1]:.2f}: {costs[0] / costs[1]:.3f} of it")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
