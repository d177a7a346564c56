"""A folder of photographs as a web of any length on loopback, served by a process of its own."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.loopback_web import HOST, MISSING, ok, serve_numbers

SAMPLE = Path("runs/sample-web/photos")  # what `make build-shards` gathers


class PhotographWeb:
    """Context manager: ``/<n>.jpg`` is photograph n modulo their number, after ``latency`` seconds.

    dead: share of the numbers that answer 404, spread evenly. CPU time of the server is its own process's.
    """

    def __init__(self, folder: Path, latency: float = 0.0, dead: float = 0.0) -> None:
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        if not files:
            raise SystemExit(f"There are no photographs in {folder}: run `make build-shards` once, or give --folder.")
        self.dead = dead
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._server = context.Process(target=_serve, args=(there, files, latency, dead), daemon=True)
        self._server.start()
        self.port: int = here.recv()

    @property
    def settings(self) -> list[str]:
        """Overrides of a configuration that reaches this web and nothing else."""
        connect = f"fetch.connect_to={{{HOST}: '127.0.0.1:{self.port}'}}"
        return [connect, "fetch.per_host=64", "fetch.dedup=false", "image.min_size=32", "image.max_aspect=100"]

    def write_metadata(self, path: Path, rows: int) -> Path:
        """Write LAION-shaped parquet of ``rows`` rows; returns ``path``."""
        urls = [f"http://{HOST}/{number}.jpg" for number in range(rows)]
        captions = [f"photograph {number}" for number in range(rows)]
        pq.write_table(pa.table({"URL": urls, "TEXT": captions, "punsafe": [0.0] * rows}), path)
        return path

    def __enter__(self) -> PhotographWeb:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.terminate()
        self._server.join()


def is_dead(number: int, share: float) -> bool:
    """Whether a number answers 404: ``share`` of them do, evenly spread."""
    return int((number + 1) * share) > int(number * share)


def _serve(pipe: Connection, files: list[Path], latency: float, dead: float) -> None:
    answers = [ok(path.read_bytes()) for path in files]
    serve_numbers(
        pipe, lambda number: (MISSING if is_dead(number, dead) else answers[number % len(answers)], False), latency
    )
