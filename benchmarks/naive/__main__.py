"""What a user would write by hand, against this project's build: same photographs, weights, filters and machine.

    python -m benchmarks.naive --photos 40

By hand: img2dataset in its best configuration, then a loop (``loop.py``) in two processes: rembg's U2-Net, PatchMatch
on the whole picture as its package's page shows it, the judges, webdataset. It can filter at the end or, what someone
would do once they see the bill, put the mask filter before inpainting: both are measured. The build: `l2i build` as it
is, on two CPUs, with ledger, previews, features and report. Both start from the same links on the same loopback server.

Whole runs are timed, from the command to its end, over all photographs and over every fourth: what lies between is what
further photographs cost once everything has started. Then composites whose background is known go through both with
nothing refused: PSNR of the backgrounds in the hole. The other environment is made by ``benchmarks/venvs.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.naive.quality import composites, measure_quality
from benchmarks.naive.sides import Side, build, by_hand, published
from benchmarks.process_tree import ended_by_signal
from pipelines.sample_laion import gather


def table(ours: Side, others: dict[str, Side]) -> list[dict[str, object]]:
    """What each side made and spent, and how many times the build makes and saves a kept triplet."""
    lines: list[dict[str, object]] = []
    for name, side in {"l2i build": ours, **others}.items():
        lines.append(
            {
                "side": name,
                "kept": side.kept,
                "wall": side.wall,
                "kept_per_hour": side.kept / side.wall * 3600,
                "cpu_seconds": side.cpu,
                "cpu_per_kept": side.cpu / max(side.kept, 1),
                "peak_mb": side.peak / 1e6,
                "throughput_ratio": (ours.kept / ours.wall) / max(side.kept / side.wall, 1e-9),
                "cost_ratio": (side.cpu / max(side.kept, 1)) / (ours.cpu / max(ours.kept, 1)),
            }
        )
    return lines


def between(few: Side, all_of_them: Side) -> Side:
    """What a side made and spent beyond its run over every fourth photograph."""
    made = {name: one for name, one in all_of_them.made.items() if name not in few.made}
    return Side(all_of_them.wall - few.wall, all_of_them.cpu - few.cpu, all_of_them.peak, made)


def show(lines: list[dict[str, object]], what: str) -> None:
    print(what)
    print(f"{'':<26}{'kept':>6}{'wall s':>9}{'kept/h':>9}{'CPU s':>8}{'CPU s/kept':>12}{'peak MB':>9}")
    for line in lines:
        print(
            f"{line['side']:<26}{line['kept']:>6}{line['wall']:>9.1f}{line['kept_per_hour']:>9.0f}"
            f"{line['cpu_seconds']:>8.1f}{line['cpu_per_kept']:>12.2f}{line['peak_mb']:>9.0f}"
        )
    for line in lines[1:]:
        print(
            f"l2i build against {line['side']}: {line['throughput_ratio']:.2f} × the kept triplets an hour, "
            f"{line['cost_ratio']:.2f} × cheaper in CPU a kept triplet"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/sample-web"), help="the sample; fetched if missing")
    parser.add_argument("--photos", type=int, default=40, help="photographs, evenly from the sample")
    parser.add_argument("--composites", type=int, default=8, help="with a known background; 0 = no measure of quality")
    parser.add_argument("--threads", type=int, default=32, help="of img2dataset, a process")
    parser.add_argument("--naive-filters-first", action="store_true", help="measure only this way by hand")
    parser.add_argument("--quick", action="store_true", help="4 photographs, 1 composite: to see that it works")
    parser.add_argument("--venvs", type=Path, help="folder of the other environments")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args()
    ended_by_signal()
    if args.quick:
        args.photos, args.composites = 4, 1
    gather(args.folder)
    photos = sorted((args.folder / "photos").iterdir())
    chosen = [photos[i * len(photos) // args.photos] for i in range(min(args.photos, len(photos)))]
    ways = {"by hand, filters first": True} | ({} if args.naive_filters_first else {"by hand": False})
    with tempfile.TemporaryDirectory(prefix="l2i-naive-") as name:
        folder = Path(name)
        with published(folder / "warm-up", chosen[:2]) as links:
            build(links, folder / "warm-up-ours")
            by_hand(links, folder / "warm-up-by-hand", args.threads, args.venvs, filters_first=True)
        runs = [compare(folder / str(len(part)), part, ways, args) for part in (chosen[::4], chosen)]
        ours, others = runs[1]
        quality = None
        if args.composites:
            scenes = composites(ours, chosen, args.composites)
            quality = measure_quality(scenes, folder / "quality", args.threads, args.venvs)
            quality.compare_kept(ours, others["by hand, filters first"])
    whole = table(ours, others)
    show(whole, f"{len(chosen)} photographs, from the command to its end")
    (few, few_others), _ = runs
    further = table(between(few, ours), {way: between(few_others[way], side) for way, side in others.items()})
    show(further, f"{len(chosen) - len(chosen[::4])} of them, everything having started")
    if quality:
        quality.show()
    if args.json:
        facts = {"photos": len(chosen), "sides": whole, "further": further}
        args.json.write_text(json.dumps(facts | {"quality": quality.to_dict() if quality else None}))


def compare(folder: Path, photos: list[Path], ways: dict[str, bool], args: argparse.Namespace) -> tuple[Side, dict]:
    """Run the build and every way by hand over the same photographs."""
    folder.mkdir()
    with published(folder / "web", photos) as links:
        ours = build(links, folder / "ours")
        return ours, {
            way: by_hand(links, folder / way.replace(" ", "-"), args.threads, args.venvs, filters_first=first)
            for way, first in sorted(ways.items(), key=lambda pair: pair[1])
        }


if __name__ == "__main__":
    main()
