"""The toy pipeline that every engine runs: pictures drawn from keys, four stages of a stated cost, encoding, tars.

It needs numpy and OpenCV only, since it also runs in the environments of the other engines. What may be killed and is
watched, the workers that hold "models", tell of themselves in files: ``Models``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

MEMBERS = ("jpg", "fg.png", "bg.jpg", "mask.png", "txt", "json")  # of a sample, in order
MASK_KEEPS, INPAINTING_KEEPS = 0.7, 0.7  # share of samples that each judge lets through
SOURCE_CPUS, MODEL_CPUS, WRITER_CPUS = 0.25, 0.75, 0.25  # what engines that account for CPUs reserve: 2 in all


@dataclass(frozen=True)
class Job:
    """cost_ms: CPU milliseconds that each of the four model stages takes for an image, beside its few numpy calls."""

    out: str
    rows: int
    rows_per_shard: int = 128
    batch: int = 32
    side: int = 512
    cost_ms: float = 5.0
    workers: int = 2  # that hold models

    @property
    def shards(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def batches(self) -> list[tuple[int, int]]:
        """Return (first row, row after the last) of every batch; none reaches over the end of a shard."""
        return [
            (start, min(start + self.batch, stop))
            for first in range(0, self.rows, self.rows_per_shard)
            for stop in [min(first + self.rows_per_shard, self.rows)]
            for start in range(first, stop, self.batch)
        ]


def url(row: int) -> str:
    return f"http://toy.test/{row}.jpg"


def caption(row: int) -> str:
    return f"toy {row}"


def key(row: int) -> str:
    """The key of a row, as the project makes it of URL and caption."""
    return hashlib.blake2b(f"{url(row)}\n{caption(row)}".encode(), digest_size=16).hexdigest()


def draw(key: str, salt: str) -> float:
    """A fixed number in 0..1."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, salt=salt.encode()).digest(), "big") / 2**64


def kept(key: str) -> bool:
    """What becomes of a row in the end, without doing the work."""
    return draw(key, "mask") < MASK_KEEPS and draw(key, "inpainting") < INPAINTING_KEEPS


# the source


def images(keys: Sequence[str], side: int) -> np.ndarray:
    """Draw a picture of each key: coloured blocks and a bright disc, uint8 [N, side, side, 3]."""
    return np.stack([_picture(key, side) for key in keys])


def _picture(key: str, side: int) -> np.ndarray:
    rng = np.random.default_rng(int(key[:15], 16))
    small = rng.integers(0, 200, (side // 8, side // 8, 3), dtype=np.uint8)
    picture = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    centre = (int(side * (0.3 + 0.4 * draw(key, "x"))), side // 2)
    return cv2.circle(picture, centre, side // 5, (255, 255, 255), -1)


# the models


class Models:
    """What a worker holds: made once, inside it. ``run`` is the whole of the model stages and encoding."""

    def __init__(self, job: Job) -> None:
        cv2.setNumThreads(1)
        self.job = job
        self._mark = Path(job.out) / "workers" / str(os.getpid())
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        self._mark.touch()

    def began(self, rows: int) -> None:
        """Tell that this worker begins with so many rows: its file grows by a byte each."""
        with self._mark.open("ab") as file:
            file.write(b"." * rows)

    def run(self, keys: Sequence[str], pictures: np.ndarray) -> list[dict[str, bytes] | None]:
        """Return the members of each sample, None where a judge refuses it. pictures: uint8 [N, S, S, 3]."""
        self.began(len(keys))
        found: list[dict[str, bytes] | None] = [None] * len(keys)
        masks = self.segment(pictures)
        left = np.flatnonzero(self.judge([*keys], "mask"))
        filled = self.inpaint(pictures[left], masks[left])
        good = self.judge([keys[i] for i in left], "inpainting")
        for slot, i in enumerate(left):
            if good[slot]:
                found[i] = self.encode(keys[i], pictures[i], masks[i], filled[slot])
        return found

    def segment(self, pictures: np.ndarray) -> np.ndarray:
        """Return masks uint8 [N, S, S]."""
        self._spend(len(pictures))
        return (pictures.min(axis=-1) == 255).astype(np.uint8) * 255

    def judge(self, keys: Sequence[str], task: str) -> np.ndarray:
        """Return bool [N]."""
        self._spend(len(keys))
        share = MASK_KEEPS if task == "mask" else INPAINTING_KEEPS
        return np.array([draw(key, task) < share for key in keys], bool)

    def inpaint(self, pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Return backgrounds uint8 [N, S, S, 3]."""
        self._spend(len(pictures))
        return np.where(masks[..., None] > 0, np.uint8(90), pictures)

    def encode(self, key: str, picture: np.ndarray, mask: np.ndarray, background: np.ndarray) -> dict[str, bytes]:
        front = cv2.copyTo(picture, mask)
        members = (_jpeg(picture), _png(front), _jpeg(background), _png(mask), key.encode(), b"{}")
        return dict(zip(MEMBERS, members, strict=True))

    def _spend(self, images: int) -> None:
        """Use CPU for as long as the models of so many images would: CPU time, whatever else runs here."""
        end = time.thread_time() + images * self.job.cost_ms / 1e3
        while time.thread_time() < end:
            sum(range(500))


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


# the writer


def write_shard(out: str, number: int, samples: Iterable[tuple[str, dict[str, bytes]]]) -> None:
    """Write a shard's tar, whole or not at all."""
    target = Path(out) / "shards" / f"{number:05d}.tar"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(f".{os.getpid()}.part")
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    temporary.replace(target)


# of the process that runs an engine


def main(start: Callable[[Job], Callable[[], None]]) -> None:
    """Start an engine, run the job of the command line, and tell when: lines of ``@@ event time`` on standard output.

    ``start`` returns what runs the job once the engine is up. Waits for a line before it ends, so that what its
    processes used can be read.
    """
    job = Job(**json.loads(sys.argv[1]))
    run = start(job)
    _say("up")
    run()
    _say("done")
    sys.stdin.readline()


def _say(event: str) -> None:
    print(f"\n@@ {event} {time.time()}", flush=True)
