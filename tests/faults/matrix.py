"""The fault matrix: ``python tests/faults/matrix.py --rounds 50 --seed 0`` (``make test-faults``).

Runs of toy stages on a two-node Ray cluster in this machine, each disturbed at a random moment, then run again
where the disturbance ended it. After each: no row lost or twice in the ledgers, no torn file, and all bytes equal to
those of a plain loop. Prints a table; exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from finished_toy import plain_run
from toy import contents, toy_config, toy_parts, write_metadata
from unsteady_s3 import UnsteadyRelay

from l2i_builder import storage
from l2i_builder.output import manifest
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.verify import verify

PAUSE = 0.03  # seconds an image takes, so that there is a middle to disturb
ROWS, FILES = 60, 2
GROUPS = "cluster.groups=[{stages: [segment, judge_mask, inpaint, judge_inpainting, encode], actors: 2, cpus: 0.5}]"
LAYOUT = [GROUPS, "cluster.fetchers=2", "cluster.call_timeout=20"]
LARGE = ["image.size=256", "ingest.rows_per_shard=60", "cluster.batch_rows=30"]


class Machines:
    """A Ray cluster of two nodes on this machine."""

    def __init__(self, store_mb: int = 100) -> None:
        from ray.cluster_utils import Cluster

        self.options = {"num_cpus": 2, "object_store_memory": store_mb * 2**20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=self.options)
        self.second = self.cluster.add_node(**self.options)
        self.address = self.cluster.address

    def workers(self, title: str) -> list[psutil.Process]:
        """Processes of this cluster's nodes whose title begins with ``ray::title``."""
        found = []
        for node in self.cluster.list_all_nodes():
            for process in psutil.Process(_raylet(node)).children(recursive=True):
                try:
                    if process.name().startswith("ray::") and process.cmdline()[0].startswith(f"ray::{title}"):
                        found.append(process)
                except (psutil.Error, IndexError):
                    continue
        return found

    def lose_second(self, whole: bool) -> None:
        """Kill the second node's raylet, or all its processes at once; a new node joins after a moment."""
        raylet = psutil.Process(_raylet(self.second))
        for process in [*(raylet.children(recursive=True) if whole else []), raylet]:
            _kill(process)
        time.sleep(2)
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = self.cluster.add_node(**self.options)

    def close(self) -> None:
        self.cluster.shutdown()


def _raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def _kill(process: psutil.Process) -> bool:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


@dataclass
class Round:
    """One run to be disturbed. ``hits`` counts what was really hit: a round that hit nothing proves nothing."""

    machines: Machines
    metadata: Path
    out: str
    draw: random.Random
    overrides: Sequence[str] = ()
    hits: int = 0
    drivers: list[subprocess.Popen] = field(default_factory=list)

    def start(self, fault: str = "", prefix: Sequence[str] = ()) -> subprocess.Popen:
        command = [sys.executable, str(HERE / "driver.py"), str(self.metadata), self.out, fault, str(PAUSE)]
        log = (self.metadata.parent / "driver.log").open("a")
        environment = os.environ | ({} if prefix else {"RAY_ADDRESS": self.machines.address})
        driver = subprocess.Popen(
            [*prefix, *command, *LAYOUT, *self.overrides], stderr=log, stdout=log, env=environment
        )
        self.drivers.append(driver)
        return driver

    def end(self, driver: subprocess.Popen, status: int | None = 0) -> None:
        code = driver.wait(timeout=240)
        if status is not None and code != status:
            raise AssertionError(f"the driver ended with status {code}, not {status}")

    def wait_for_work(self, title: str = "StageWorker") -> None:
        """Return at a random moment while actors of that name work."""
        end = time.monotonic() + 90
        while not self.machines.workers(f"{title}."):
            assert time.monotonic() < end, f"no {title} at work"
            assert self.drivers[-1].poll() is None, "the run ended before it could be disturbed"
            time.sleep(0.1)
        time.sleep(self.draw.uniform(0, 1.5))

    def kill_workers(self, title: str) -> None:
        driver = self.start()
        for _ in range(2):
            self.wait_for_work("StageWorker")
            victims = self.machines.workers(title)
            self.hits += bool(victims) and _kill(self.draw.choice(victims))
        self.end(driver)


def kill_commit(run: Round) -> None:
    """Kill a commit task in the act; it is short, so look often."""
    driver = run.start()
    while driver.poll() is None and run.hits < 2:
        time.sleep(0.05)
        victims = run.machines.workers("_commit")
        run.hits += bool(victims) and _kill(run.draw.choice(victims))
    run.end(driver)


def stop_driver(run: Round, how: signal.Signals) -> None:
    for _ in range(2):
        driver = run.start()
        run.wait_for_work()
        driver.send_signal(how)
        run.hits += 1
        run.end(driver, None)
    run.end(run.start())


def lose_node(run: Round, whole: bool) -> None:
    driver = run.start()
    run.wait_for_work()
    run.machines.lose_second(whole)
    run.hits += 1
    run.end(driver)


def fault_inside(run: Round, fault: str) -> None:
    mark = run.metadata.parent / f"mark-{run.draw.random()}"
    run.end(run.start(f"{fault} {mark}" if fault.endswith("once") else fault))
    run.hits += mark.exists() or not fault.endswith("once")


def store_pressure(run: Round) -> None:
    run.overrides = LARGE
    run.end(run.start())
    run.hits += 1


def two_drivers(run: Round) -> None:
    first = run.start()
    run.wait_for_work()
    second = run.start()
    run.end(first)
    run.end(second)
    run.hits += 1


def full_disk(run: Round) -> None:
    """A file system too small for the run, in a mount namespace of its own, then one that was made larger."""
    script = (
        f'mount -t tmpfs -o size={run.draw.randrange(60, 300)}k tmpfs "$0" || exit 99; "$@"; first=$?; '
        'mount -o remount,size=200m tmpfs "$0"; "$@" && cp -r "$0" "$0.copy" && exit $first'
    )
    Path(run.out).mkdir(parents=True)
    run.overrides = ["cluster.cpus=2", "cluster.object_store_gb=0.2"]
    code = run.start(prefix=["unshare", "-rm", "sh", "-c", script, run.out]).wait(timeout=240)
    if code == 99:
        raise NotImplementedError("this machine gives no mount namespaces")
    assert code == 5, f"the first run ended with {code}, not 5 (output)"
    shutil.rmtree(run.out)
    Path(f"{run.out}.copy").rename(run.out)
    run.hits += 1


def damaged_output(run: Round) -> None:
    """A finished shard, ledger or manifest gone, cut short or with a byte changed, found by the next run."""
    run.end(run.start())
    for folder in run.draw.sample(["shards", "audit", "previews", "features", "ledger", "manifests"], 3):
        path = run.draw.choice(sorted((Path(run.out) / folder).iterdir()))
        data, place = path.read_bytes(), run.draw.randrange(path.stat().st_size)
        how = run.draw.choice(["gone", "cut", "changed"])
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(
                data[:place] if how == "cut" else data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            )
        run.hits += 1
    run.end(run.start("recheck"))


KINDS: dict[str, Callable[[Round], None]] = {
    "SIGKILL of fetch actors": lambda run: run.kill_workers("SourceWorker"),
    "SIGKILL of stage actors": lambda run: run.kill_workers("StageWorker"),
    "SIGKILL of commit tasks": kill_commit,
    "SIGKILL of the driver": lambda run: stop_driver(run, signal.SIGKILL),
    "Ctrl-C": lambda run: stop_driver(run, signal.SIGINT),
    "SIGKILL of a raylet": lambda run: lose_node(run, whole=False),
    "loss of a node": lambda run: lose_node(run, whole=True),
    "a stage that hangs": lambda run: fault_inside(run, "hang once"),
    "a fetch actor that hangs": lambda run: fault_inside(run, "fetch hangs once"),
    "a stage out of memory": lambda run: fault_inside(run, "memory once"),
    "a stage that raises on a sample": lambda run: fault_inside(run, "one"),
    "object store pressure": store_pressure,
    "two drivers at once": two_drivers,
    "write errors": lambda run: fault_inside(run, "unsteady disk"),
    "full disk": full_disk,
    "unsteady object store": None,  # type: ignore[dict-item]  # set in main, with the store
    "damaged output found": damaged_output,
}


@dataclass
class Line:
    """What the rounds of one kind came to."""

    rounds: int = 0
    hits: int = 0
    lost: int = 0
    doubled: int = 0
    torn: int = 0
    differing: int = 0
    skipped: str = ""
    errors: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.torn or self.differing or self.errors)


class Yardsticks:
    """What a plain loop writes, by kind of run."""

    def __init__(self, folder: Path, metadata: Path) -> None:
        self.folder, self.metadata, self._made = folder, metadata, dict[tuple, dict[str, bytes]]()

    def __call__(self, overrides: Sequence[str], fault: str = "") -> dict[str, bytes]:
        key = (tuple(overrides), fault)
        if key not in self._made:
            config = toy_config(self.metadata, self.folder / f"plain-{len(self._made)}", *LAYOUT, *overrides)
            plain_run(config, toy_parts(config, fault=fault))
            self._made[key] = contents(Path(config.out))
        return self._made[key]


def fetch_s3(url: str, folder: Path) -> None:
    fs, path = storage.filesystem(url)
    fs.get(path, str(folder), recursive=True)


def judge(line: Line, out: Path, expected: dict[str, bytes]) -> None:
    """Compare an output folder with a plain loop's, and count its rows."""
    found = contents(out)
    leftovers = [name for name in found if name.endswith(".tmp")]
    line.differing += sum(found.get(name) != data for name, data in expected.items())
    line.differing += len(set(found) - set(expected) - set(leftovers))
    line.torn += sum(finding.serious for finding in verify(str(out), deep=True))
    counts: Counter[tuple[int, int]] = Counter()
    for number in sorted(manifest.finished(str(out))):
        table = read_ledger(f"{out}/ledger/{number:05d}.parquet", ["shard", "index"])
        counts.update(zip(*(table[name].to_pylist() for name in ("shard", "index")), strict=True))
    line.lost += ROWS * FILES - len(counts)
    line.doubled += sum(counts.values()) - len(counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=len(KINDS), help="spread evenly over the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="kinds whose name contains one of these words")
    args = parser.parse_args()
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": f"{HERE.parent}:{HERE.parents[1]}",
        "AWS_ACCESS_KEY_ID": "test",
    }
    os.environ |= {"AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["FSSPEC_S3"] = '{"config_kwargs": {"connect_timeout": 2, "read_timeout": 2}}'
    with tempfile.TemporaryDirectory(prefix="l2i-faults-") as folder:
        return Matrix(Path(folder), args.seed).run(args.rounds, args.only or [])


class Matrix:
    def __init__(self, folder: Path, seed: int) -> None:
        from moto.server import ThreadedMotoServer

        self.folder, self.draw = folder, random.Random(seed)
        self.metadata = write_metadata(folder / "metadata", ROWS, FILES)
        self.yardsticks = Yardsticks(folder, self.metadata)
        self.s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.s3.start()
        self.relay = UnsteadyRelay(self.s3.get_host_and_port(), seed)
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{self.relay.port}"
        self.machines = Machines()
        self.lines = {kind: Line() for kind in KINDS}

    def run(self, rounds: int, words: Sequence[str]) -> int:
        kinds = [kind for kind in KINDS if not words or any(word in kind for word in words)]
        started = time.monotonic()
        try:
            for number in range(rounds):
                self.round(number, kinds[number % len(kinds)])
        finally:
            self.machines.close()
            self.relay.close()
            self.s3.stop()
        self.table(kinds, rounds, time.monotonic() - started)
        return 0 if all(line.clean for line in self.lines.values()) else 1

    def round(self, number: int, kind: str) -> None:
        line = self.lines[kind]
        if line.skipped:
            return
        place = self.folder / f"round-{number}"
        run = Round(self.machines, self.metadata, str(place), random.Random(self.draw.random()))
        try:
            (KINDS[kind] or self.unsteady_store)(run)
        except NotImplementedError as reason:
            line.skipped = str(reason)
            return
        except Exception as error:
            log = (self.folder / "driver.log").read_text(errors="replace").splitlines()[-8:]
            line.errors.append(f"round {number}: {type(error).__name__}: {error}\n  " + "\n  ".join(log))
        finally:
            for driver in run.drivers:
                driver.kill()
        line.rounds += 1
        line.hits += run.hits
        judge(line, place, self.yardsticks(run.overrides if run.overrides == LARGE else (), self._fault(kind)))
        shutil.rmtree(place, ignore_errors=True)
        print(f"round {number + 1:3}  {kind:32} {'clean' if line.clean else 'NOT CLEAN'}", file=sys.stderr, flush=True)

    @staticmethod
    def _fault(kind: str) -> str:
        return "one" if kind == "a stage that raises on a sample" else ""

    def unsteady_store(self, run: Round) -> None:
        bucket = f"bucket-{run.draw.randrange(10**9)}"
        storage.filesystem(f"s3://{bucket}")[0].mkdir(bucket)
        place, run.out = run.out, f"s3://{bucket}/out"
        before = self.relay.seen.total() - self.relay.seen["through"]
        self.relay.trouble = 0.3
        run.end(run.start())
        self.relay.trouble = 0.0
        run.hits += self.relay.seen.total() - self.relay.seen["through"] - before
        fetch_s3(run.out, Path(place))

    def table(self, kinds: Sequence[str], rounds: int, seconds: float) -> None:
        columns = ("rounds", "hits", "lost", "doubled", "torn", "differing")
        print(f"| fault | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for kind in kinds:
            line = self.lines[kind]
            print(f"| {kind} | " + (line.skipped or " | ".join(str(getattr(line, name)) for name in columns)) + " |")
        print(f"\n{rounds} rounds in {seconds / 60:.1f} minutes")
        for kind in kinds:
            for error in self.lines[kind].errors:
                print(f"{kind}: {error}")


if __name__ == "__main__":
    sys.exit(main())
