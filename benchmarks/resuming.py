"""What a large output folder costs: the scan before a run goes on, and the report's count of its ledgers.

    python -m benchmarks.resuming                     # 60,000 shards locally, 3,000 on S3, 200 ledgers: two minutes
    python -m benchmarks.resuming --quick --json resuming.json

Manifests, ledgers and stats are made up but of the real format. The object store is moto's server on loopback, in a
process of its own: what counts there is this process's CPU and the requests, not the server's pace. Each scan is
compared with manifests that are read one after another.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.output.ledger import write_ledger
from l2i_builder.output.manifest import (
    RunManifest,
    ShardManifest,
    finished,
    manifest_url,
    pretty,
    read_manifest,
    shard_name,
)
from l2i_builder.output.shards import wids_index
from l2i_builder.report.options import Options
from l2i_builder.report.page import count
from l2i_builder.report.run import open_run
from l2i_builder.run.resume import whole_shards
from l2i_builder.sample import Reason, Row, sample_key

ALL = 60_000  # shards to which everything is carried on
FOLDERS = {"shards": "tar", "audit": "tar", "previews": "tar", "features": "parquet", "ledger": "parquet"}
BUCKET, REGION = "l2i", "us-east-1"


def manifest(number: int, size: int, rows: int = 10_000) -> ShardManifest:
    """Return a manifest as a commit writes it, each of its files ``size`` bytes long."""
    dice = random.Random(number)
    reasons = {reason.value: dice.randrange(1, rows // 40) for reason in list(Reason)[:20]}
    files: dict[str, dict[str, Any]] = {
        f"{folder}/{shard_name(number)}.{kind}": {"bytes": size, "sha256": dice.randbytes(32).hex()}
        for folder, kind in FOLDERS.items()
    }
    for name, entry in files.items():
        if name.endswith(".tar"):
            entry["md5"] = dice.randbytes(16).hex()
    return ShardManifest(number, rows, rows - sum(reasons.values()), reasons, files, "0" * 64)


def local_folder(out: Path, shards: int) -> None:
    """Write manifests, and files of the size that these say, all of them the same one."""
    for folder in ("manifests", *FOLDERS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        (out / folder / "content").write_bytes(b"x")
    for number in range(shards):
        one = manifest(number, 1)
        (out / "manifests" / f"{one.name}.json").write_bytes(one.to_json())
        for name in one.files:
            os.link(out / name.partition("/")[0] / "content", out / name)


def serve(there: Any, shards: int) -> None:
    """Serve a bucket that holds such a folder; moto is filled from inside, which is quicker than by requests."""
    import logging

    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket(BUCKET, REGION)
    for number in range(shards):
        one = manifest(number, 1)
        backend.put_object(BUCKET, f"out/manifests/{one.name}.json", one.to_json())
        for name in one.files:
            backend.put_object(BUCKET, f"out/{name}", b"x")
    there.send(server.get_host_and_port()[1])
    there.recv()


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what work() gives, and its CPU and wall seconds."""
    cpu, start = time.process_time(), time.monotonic()
    result = work()
    return result, time.process_time() - cpu, time.monotonic() - start


def scanned(out: str, shards: int) -> dict[str, float]:
    """Time the scan of a folder, the index, and manifests one by one."""
    (whole, damaged), cpu, wall = timed(lambda: whole_shards(out))
    assert whole == set(range(shards)), f"{len(whole)} of {shards} shards were found whole"
    assert not damaged, damaged
    _, index, _ = timed(lambda: wids_index(out))
    few = sorted(finished(out))[:1_000]
    _, single, single_wall = timed(lambda: [read_manifest(out, number) for number in few])
    facts = {"shards": shards, "scan_cpu": cpu / shards, "scan_wall": wall / shards, "index_cpu": index / shards}
    return facts | {"single_cpu": single / len(few), "single_wall": single_wall / len(few), "peak_mb": peak()}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def local_scan(shards: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="l2i-resuming-") as folder:
        local_folder(Path(folder), shards)
        return scanned(folder, shards)


def remote_scan(port: int, shards: int) -> dict[str, float]:
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": REGION}
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    return scanned(f"s3://{BUCKET}/out", shards)


def rows_of(number: int, rows: int) -> list[Row]:
    """Return a shard's rows with the spread of reasons, hosts and scores that a ledger has."""
    dice = random.Random(number)
    found = []
    for index in range(rows):
        url = f"https://host-{int(dice.paretovariate(0.7)) % 100_000}.example/{number}/{index}.jpg"
        row = Row(sample_key(url, str(index)), url, f"a caption of row {index}", number, index, width=800, height=600)
        fate = dice.random()
        if fate < 0.4:
            row.refuse(dice.choice((Reason.HTTP_4XX, Reason.TIMEOUT, Reason.DNS_ERROR)), "fetch", "no answer")
        else:
            row.bytes, row.status, row.sha256 = dice.randrange(10_000, 500_000), 200, f"{dice.getrandbits(256):064x}"
            row.original_width, row.original_height, row.format = 1024, 768, "JPEG"
            row.mask_score, row.mask_area, row.mask_components, row.mask_head = fate, 0.3, 2, "head-1"
            if fate < 0.8:
                row.refuse(Reason.MASK_REJECTED, "judge_mask")
            else:
                row.inpainting_score, row.inpainting_head = dice.random(), "head-1"
                if fate < 0.9:
                    row.refuse(Reason.INPAINTING_REJECTED, "judge_inpainting")
        found.append(row)
    return found


def report_folder(out: Path, shards: int, rows: int) -> None:
    """Write a run of so many ledgers and stats; after the first few they are copies, which cost a reader the same."""
    storage.write_bytes(f"{out}/run.json", RunManifest.of(Config(), "none", {}).to_json())
    ledgers = [write_ledger(rows_of(number, rows), {"shard": number}) for number in range(min(shards, 8))]
    stats = {
        "count": rows,
        "successes": rows // 10,
        "attempt": 1,
        "seconds": {"segment": 1.0},
        "images": {"segment": 9},
    }
    for folder in ("ledger", "stats", "manifests"):
        (out / folder).mkdir()
    for number in range(shards):
        (out / "ledger" / f"{shard_name(number)}.parquet").write_bytes(ledgers[number % len(ledgers)])
        (out / "stats" / f"{shard_name(number)}.json").write_bytes(pretty(stats))
        Path(manifest_url(str(out), number)).write_bytes(manifest(number, 1, rows).to_json())


def reported(shards: int, rows: int) -> dict[str, float]:
    """Time what `l2i report` does with each ledger: read, and count."""
    with tempfile.TemporaryDirectory(prefix="l2i-resuming-") as folder:
        report_folder(Path(folder), shards, rows)
        run, before = open_run(folder), peak()
        counted, cpu, wall = timed(lambda: count(run, (0.5, 0.5), Options()))
    assert counted.rows == shards * rows, f"{counted.rows} of {shards * rows} rows were counted"
    return {
        "shards": shards,
        "rows": rows,
        "cpu": cpu / shards,
        "wall": wall / shards,
        "peak_mb": peak(),
        "before": before,
    }


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """Return ``work(*args)``, done by a process of its own: the peak of its memory is its alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=ALL, help="finished shards of the local folder")
    parser.add_argument("--s3-shards", type=int, default=3_000, help="finished shards in the object store")
    parser.add_argument("--ledgers", type=int, nargs="+", default=[50, 200], help="ledgers of each report")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of a ledger")
    parser.add_argument("--quick", action="store_true", help="the smallest of everything")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    if args.quick:
        args.shards, args.s3_shards, args.ledgers, args.rows = 60, 20, [4], 500
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, args.s3_shards), daemon=True)
    server.start()
    found = {"local": apart(local_scan, args.shards), "s3": apart(remote_scan, here.recv(), args.s3_shards)}
    here.send("")
    for name, one in found.items():
        print(
            f"{name}: {one['shards']:,} shards scanned, {one['scan_cpu'] * 1e3:.3f} ms of CPU and "
            f"{one['scan_wall'] * 1e3:.3f} ms a shard: {one['scan_cpu'] * ALL:.0f} s of CPU for {ALL:,}; index "
            f"{one['index_cpu'] * 1e3:.3f} ms of CPU; peak {one['peak_mb']:.0f} MB; manifests one by one "
            f"{one['single_cpu'] * 1e3:.3f} ms of CPU, {one['single_wall'] * 1e3:.3f} ms"
        )
    reports = [apart(reported, ledgers, args.rows) for ledgers in args.ledgers]
    for one in reports:
        print(
            f"report: {one['shards']:,} ledgers of {one['rows']:,} rows, {one['cpu'] * 1e3:.1f} ms of CPU a shard: "
            f"{one['cpu'] * ALL / 60:.0f} min of CPU for {ALL:,}; peak {one['before']:.0f} to {one['peak_mb']:.0f} MB"
        )
    if args.json:
        args.json.write_text(json.dumps(found | {"report": reports}, indent=1))


if __name__ == "__main__":
    main()
