"""Downloading against img2dataset: links on loopback to tars of pictures at 512 pixels, by turns.

    python -m benchmarks.fetch_throughput --images 1600 --latency-ms 0 100

Both get the same links, 30 % of them dead (answered with 404, refused, closed without an answer), behind a server
process of its own that waits before each answer, and write webdataset tars and a table of the rows. img2dataset runs in
its best configuration: two processes, as many threads as do best here. This project's side has three decoder processes;
its guard, digests and opt-outs are on (``downloading.py``). Each runs a quarter of the links and all of them: speed and
CPU time are those of the links between, so that starting up does not count. What both wrote is compared.

    python -m benchmarks.fetch_throughput --clients fetcher aiohttp img2dataset

measures instead what the HTTP clients alone cost, without decoding.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import clients
from benchmarks.loopback_web import HOST, MISSING, ok, serve_numbers
from benchmarks.process_tree import ROOT, Spent, ended_by_signal, run_watched
from benchmarks.venvs import venv
from l2i_builder.output.codecs import decode
from l2i_builder.output.shards import read_members

IMAGES = 16  # different bodies, served in turn
DEAD = {0: "404", 1: "refused", 2: "closed"}  # last digit of a link's number -> what becomes of it
SIDES = ("l2i", "img2dataset")


def jpegs(side: int) -> list[bytes]:
    """Return IMAGES JPEG files of side x side pixels, always the same."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(IMAGES):
        pixels = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def photographs(folder: Path, longer: int) -> list[bytes]:
    """Return IMAGES photographs of a folder as JPEG files, their longer side as long as the web's often is."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    files = []
    for path in paths[:: max(1, len(paths) // IMAGES)][:IMAGES]:
        with Image.open(path) as image:
            scale = longer / max(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            buffer = io.BytesIO()
            image.convert("RGB").resize(size).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def serve(pipe: Connection, bodies: int | list[bytes], latency: float, dead: bool = False) -> None:
    """Serve until killed; sends the port through ``pipe``. bodies: JPEG files, or the side of synthetic ones; latency:
    seconds before each answer; dead: whether some links lead nowhere."""
    answers = [ok(file) for file in (jpegs(bodies) if isinstance(bodies, int) else bodies)]

    def answer(number: int) -> tuple[bytes, bool]:
        fate = DEAD.get(number % 10, "") if dead else ""
        return {"404": MISSING, "closed": b""}.get(fate, answers[number % len(answers)]), fate == "closed"

    serve_numbers(pipe, answer, latency)


@contextmanager
def serving(bodies: int | list[bytes], latency: float, dead: bool) -> Iterator[int]:
    """Serve from a process; gives its port."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=serve, args=(there, bodies, latency, dead), daemon=True)
    server.start()
    try:
        yield here.recv()
    finally:
        server.kill()
        server.join()


@dataclass
class Measured:
    """A side at one latency: runs over a quarter of the links and over all, a pair a round."""

    pairs: list[tuple[Spent, Spent]]
    links: tuple[int, int]
    kept: dict[str, bytes]  # caption -> JPEG, of the last run

    def per_link(self, what: str) -> float:
        """Seconds a link, "wall" or "cpu"."""
        between = self.links[1] - self.links[0]
        return statistics.median((getattr(b, what) - getattr(a, what)) / between for a, b in self.pairs)

    @property
    def peak(self) -> float:
        return max(one.peak.total for _, one in self.pairs) / 1e6


def run(side: str, port: int, links: int, folder: Path, args: argparse.Namespace) -> Spent:
    """Download so many links into ``folder/out``."""
    folder.mkdir(parents=True)
    per_shard, table = max(10, args.images // 8), folder / "links.parquet"
    address = f"127.0.0.1:{port}"
    host = HOST if side == "l2i" else address
    urls = [f"http://{f'127.0.0.1:{args.refused}' if _refused(i) else host}/{i}.jpg" for i in range(links)]
    if side == "l2i":
        urls = [url.replace(f"127.0.0.1:{args.refused}", "refused.test") for url in urls]
    columns = {"URL": urls, "TEXT": [f"link {i}" for i in range(links)], "punsafe": [0.0] * links}
    pq.write_table(pa.table(columns), table)
    if side == "l2i":
        pins = {HOST: address, "refused.test": f"127.0.0.1:{args.refused}"}
        job = {"metadata": str(table), "out": str(folder / "out"), "connect_to": pins, "rows_per_shard": per_shard}
        job |= {"concurrency": args.concurrency, "workers": 3}
        return run_watched([sys.executable, "-m", "benchmarks.downloading", json.dumps(job)], folder / "log")
    arguments: dict[str, object] = {"url_list": str(table), "input_format": "parquet"}
    arguments |= {"url_col": "URL", "caption_col": "TEXT"}
    arguments |= {"output_format": "webdataset", "output_folder": str(folder / "out"), "image_size": 512}
    arguments |= {"resize_mode": "center_crop", "processes_count": 2, "thread_count": args.threads}
    arguments |= {"enable_wandb": False, "number_sample_per_shard": per_shard}
    python = venv("img2dataset", ["img2dataset==1.47.0"], args.venvs)
    return run_watched([python, ROOT / "benchmarks" / "download.py", json.dumps(arguments)], folder / "log")


def _refused(number: int) -> bool:
    return DEAD.get(number % 10) == "refused"


def read(folder: Path) -> dict[str, bytes]:
    tars = sorted(folder.glob("*.tar"))
    return {members["txt"].decode(): members["jpg"] for tar in tars for _, members in read_members(str(tar))}


def compare(one: dict[str, bytes], other: dict[str, bytes], links: int) -> float:
    """Return the least PSNR in dB of the same picture of both sides. Raises SystemExit unless both have all."""
    wanted = {f"link {i}" for i in range(links) if i % 10 not in DEAD}
    for side, kept in zip(SIDES, (one, other), strict=True):
        if kept.keys() != wanted:
            raise SystemExit(f"{side} has {len(kept)} pictures of {len(wanted)}: not the same work")
    least = float("inf")
    for name in sorted(wanted)[:IMAGES]:
        pair = [decode(kept[name], "RGB").astype(np.float64) for kept in (one, other)]
        if pair[0].shape != (512, 512, 3) or pair[1].shape != (512, 512, 3):
            raise SystemExit(f"{name}: {pair[0].shape} and {pair[1].shape}, not 512²")
        least = min(least, float(10 * np.log10(255**2 / max(((pair[0] - pair[1]) ** 2).mean(), 1e-9))))
    return least


def against_img2dataset(args: argparse.Namespace, latency: float, bodies: list[bytes]) -> dict[str, Measured]:
    links = (args.images // 4, args.images)
    found = {side: Measured([], links, {}) for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="l2i-download-") as name, serving(bodies, latency / 1e3, True) as port:
        for side in SIDES:
            run(side, port, IMAGES, Path(name) / f"{side}-warm-up", args)
        for number in range(args.repeat):
            for side, measured in found.items():
                folders = [Path(name) / f"{side}-{number}-{count}" for count in links]
                spent = [run(side, port, count, folder, args) for count, folder in zip(links, folders, strict=True)]
                measured.pairs.append((spent[0], spent[1]))
                measured.kept = read(folders[1] / "out")
    return found


def show(latency: float, found: dict[str, Measured], least: float) -> dict[str, object]:
    numbers: dict[str, dict[str, float]] = {}
    for side, one in found.items():
        wall, cpu = one.per_link("wall"), one.per_link("cpu")
        numbers[side] = {"per_second": 1 / wall, "per_cpu_second": 1 / cpu, "peak_mb": one.peak}
        print(f"{side:<12}{latency:>11g}{1 / wall:>10.1f}{1 / cpu:>15.1f}{one.peak:>9.0f}")
    ours, theirs = numbers.values()
    ratio = {name: ours[name] / theirs[name] for name in ours}
    print(f"{'ratio':<12}{'':>11}{ratio['per_second']:>10.2f}{ratio['per_cpu_second']:>15.2f}{ratio['peak_mb']:>9.2f}")
    return {"latency_ms": latency, "sides": numbers, "ratio": ratio, "least_psnr": least}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1600, help="links, dead ones among them")
    parser.add_argument("--folder", type=Path, default=Path("runs/sample-web/photos"), help="photographs to serve")
    parser.add_argument("--side", type=int, default=768, help="pixels of the longer side as served")
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0, 100])
    parser.add_argument("--concurrency", type=int, default=128, help="requests in flight of this project's fetcher")
    parser.add_argument("--threads", type=int, default=64, help="of img2dataset, a process")
    parser.add_argument("--repeat", type=int, default=1, help="rounds, by turns")
    parser.add_argument("--clients", nargs="+", choices=sorted(clients.CLIENTS), help="measure HTTP clients alone")
    parser.add_argument("--quick", action="store_true", help="120 links without latency: to see that it works")
    parser.add_argument("--venvs", type=Path, help="folder of img2dataset's environment")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args(arguments)
    ended_by_signal()
    if args.quick:
        args.images, args.latency_ms = 120, [0.0]
    lines = []
    if args.clients:
        lines = clients.compare(args, serving)
    else:
        bodies = photographs(args.folder, args.side) if args.folder.is_dir() else jpegs(args.side)
        with clients.refusing() as args.refused:
            print(f"{'side':<12}{'latency ms':>11}{'links/s':>10}{'links/CPU s':>15}{'peak MB':>9}")
            for latency in args.latency_ms:
                found = against_img2dataset(args, latency, bodies)
                least = compare(*(found[side].kept for side in SIDES), args.images)
                lines.append(show(latency, found, least))
    if args.json:
        args.json.write_text(json.dumps(lines))


if __name__ == "__main__":
    main()
