"""Both sides as commands: started, watched, and what they wrote."""

from __future__ import annotations

import contextlib
import json
import mimetypes
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.process_tree import ROOT, run_watched
from benchmarks.venvs import venv
from l2i_builder.config import Image
from l2i_builder.output.codecs import decode
from l2i_builder.output.shards import read_members
from pipelines.sample_laion import SampleWeb

HOST = "photos.l2i.test"
IMG2DATASET = ["img2dataset==1.47.0"]
WRAPPERS = [
    *("rembg[cpu]==2.0.86", "pypatchmatch==2.2.0", "timm==1.0.31", "torch==2.14.1", "torchvision==0.29.1"),
    *("webdataset==1.0.2", "opencv-python-headless==5.0.0.93", "numpy==2.4.6", "pillow==13.0.0"),
    *("pydantic", "safetensors", "pyyaml", "fsspec", "filelock", "psutil"),  # what the judges' code needs beside them
]


@dataclass(frozen=True)
class Links:
    """Photographs behind links on loopback. metadata: for hosts that have no address; direct: with the server's."""

    metadata: Path
    direct: Path
    connect_to: dict[str, str]
    count: int


@dataclass(frozen=True)
class Made:
    """What a side made of a photograph: uint8 arrays as in ``sample.Triplet``."""

    image: np.ndarray
    mask: np.ndarray
    background: np.ndarray


@dataclass
class Side:
    """wall: seconds of its commands; cpu: of all their processes; peak: bytes; made: caption -> what was kept."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    made: dict[str, Made] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        return len(self.made)

    def run(self, command: Sequence[str | Path], log: Path, **environment: str) -> None:
        """Run a command to its end, adding what it uses. Raises SystemExit where it fails."""
        spent = run_watched(command, log, **environment)
        self.wall, self.cpu = self.wall + spent.wall, self.cpu + spent.cpu
        self.peak = max(self.peak, spent.peak.total)

    def read(self, folder: Path) -> Side:
        """Read the triplets of all tars of a folder. Returns self."""
        for tar in sorted(folder.glob("*.tar")):
            for _, members in read_members(str(tar)):
                arrays = [decode(members[name], mode) for name, mode in _LAYERS]
                self.made[members["txt"].decode()] = Made(*arrays)
        return self


_LAYERS = (("jpg", "RGB"), ("mask.png", "L"), ("bg.jpg", "RGB"))


@contextlib.contextmanager
def published(folder: Path, photos: Sequence[Path]) -> Iterator[Links]:
    """Serve photographs on loopback, the file's name as the caption."""
    folder.mkdir(parents=True)
    routes = {}
    for photo in photos:
        shutil.copyfile(photo, folder / photo.name)
        kind = mimetypes.guess_type(photo.name)[0] or "image/webp"
        routes[f"/{photo.name}"] = {"file": photo.name, "type": kind}
    web = {"stamp": "", "hosts": [HOST], "closed": [], "routes": routes}
    (folder / "web.json").write_text(json.dumps(web))
    with SampleWeb(folder) as server:
        address = server.connect_to[HOST]
        for name, host in (("metadata", HOST), ("direct", address)):
            urls = [f"http://{host}/{photo.name}" for photo in photos]
            columns = {"URL": urls, "TEXT": [photo.name for photo in photos], "punsafe": [0.0] * len(photos)}
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        yield Links(folder / "metadata.parquet", folder / "direct.parquet", server.connect_to, len(photos))


def build(links: Links, out: Path, *overrides: str) -> Side:
    """`l2i build`: two CPUs, two shards at least, nothing else set that decides what is made but the audit slice."""
    rows = max(4, -(-links.count // 2))
    settings = [f"ingest.rows_per_shard={rows}", "ingest.audit_rate=0", "cluster.cpus=2", "cluster.batch_rows=4"]
    settings += ["image.min_size=0", "image.max_aspect=100"]  # img2dataset takes any
    settings += [f"fetch.connect_to={links.connect_to}", *overrides]
    side = Side()
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "l2i_builder.cli", "build", "--metadata", links.metadata, "--out", out, *options]
    side.run(command, out.with_suffix(".log"))
    return side.read(out / "shards")


def by_hand(
    links: Links, out: Path, threads: int, venvs: Path | None, filters_first: bool, keep_all: bool = False
) -> Side:
    """img2dataset, then the loop: two processes each."""
    side = Side()
    arguments = {
        "url_list": str(links.direct),
        "input_format": "parquet",
        "url_col": "URL",
        "caption_col": "TEXT",
        "output_format": "webdataset",
        "output_folder": str(out / "downloaded"),
        "image_size": Image().size,
        "resize_mode": "center_crop",
        "processes_count": 2,
        "thread_count": threads,
        "number_sample_per_shard": max(1, links.count // 8),  # so that no process waits long for the other
        "enable_wandb": False,
    }
    python = venv("img2dataset", IMG2DATASET, venvs)
    side.run([python, ROOT / "benchmarks" / "download.py", json.dumps(arguments)], out / "download.log")
    python = venv("wrappers", WRAPPERS, venvs)
    loop = [python, "-m", "benchmarks.naive.loop", "--tars", out / "downloaded", "--out", out / "triplets"]
    loop += ["--filters-first"] * filters_first + ["--keep-all"] * keep_all
    side.run(loop, out / "loop.log", U2NET_HOME=str(_rembg_home(out)))
    return side.read(out / "triplets")


def _rembg_home(folder: Path) -> Path:
    """A folder where rembg finds its model: the file that this project's registry names."""
    from l2i_builder.weights.registry import resolve

    home = folder / "u2net"
    home.mkdir(parents=True, exist_ok=True)
    (home / "u2net.onnx").symlink_to(resolve("u2net"))
    return home
