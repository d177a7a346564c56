"""What a build says while it runs: sentences for people, or JSON lines for machines (``observe.log_format``).

A JSON line has the same first keys whatever it is about: time (ISO 8601, UTC), level, event, run (first twelve digits
of the run's digest), invocation (eight digits, new with each start of the program), shard ("" where it is about
none), attempt (0 where it is about none), message; then what belongs to the event.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from datetime import UTC, datetime
from threading import Lock
from types import TracebackType
from typing import IO, Any

from rich.console import Console

from l2i_builder.config import Config
from l2i_builder.output.manifest import ShardManifest
from l2i_builder.run.observe import Observer
from l2i_builder.run.progress import ConsoleProgress, Progress

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Sentences on a console, and a bar or a line a minute."""

    observer = Observer()

    def __init__(self, console: Console, every: float = 60.0) -> None:
        self.console, self.every, self.run = console, every, ""

    def say(self, text: str, level: str = "info") -> None:
        """Tell people something."""
        self.console.print(text, markup=False, highlight=False)

    def event(self, event: str, level: str = "info", message: str = "", **facts: Any) -> None:
        """Tell machines something; people learn it otherwise."""

    def progress(self, rows: int, shards: int) -> ConsoleProgress | JsonProgress:
        """Return a context that shows how far ``rows`` rows in ``shards`` shards are."""
        return ConsoleProgress(self.console, rows, shards, self.every)


class JsonLog(Log):
    """One JSON object a line. ``run`` is set once the run is known."""

    def __init__(self, file: IO[str], level: str = "info", every: float = 60.0) -> None:
        super().__init__(Console(file=file), every)
        self.file, self.least = file, LEVELS.index(level)
        self.invocation = secrets.token_hex(4)
        self.observer = _Events(self)
        self._lock = Lock()

    def say(self, text: str, level: str = "info") -> None:
        self.event("note", level, text)

    def event(
        self, event: str, level: str = "info", message: str = "", shard: str = "", attempt: int = 0, **facts: Any
    ) -> None:
        if LEVELS.index(level) < self.least:
            return
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event}
        ids = {"run": self.run[:12], "invocation": self.invocation, "shard": shard, "attempt": attempt}
        line = json.dumps(head | ids | {"message": message} | facts, ensure_ascii=True, default=str)
        with self._lock:
            self.file.write(line + "\n")
            self.file.flush()

    def progress(self, rows: int, shards: int) -> ConsoleProgress | JsonProgress:
        return JsonProgress(self, rows, shards)


class JsonProgress(Progress):
    """How far the build is, an event every ``log.every`` seconds and one at the end."""

    def __init__(self, log: JsonLog, rows: int, shards: int) -> None:
        self.log, self.total, self.shards = log, rows, shards
        self.done = self.kept = self.finished = 0
        self.started = self.told = time.monotonic()

    def __enter__(self) -> JsonProgress:
        self.log.event("begin", message="loading models", rows=self.total, shards=self.shards)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell()

    def rows(self, rows: int, kept: int) -> None:
        self.done, self.kept = self.done + rows, self.kept + kept
        if time.monotonic() - self.told >= self.log.every:
            self._tell()

    def undo(self, rows: int, kept: int) -> None:
        self.rows(-rows, -kept)

    def shard_done(self, manifest: ShardManifest) -> None:
        self.finished += 1

    def note(self, text: str, shard: str = "", attempt: int = 0) -> None:
        self.log.event("note", "warning", text, shard, attempt)

    def _tell(self) -> None:
        self.told = time.monotonic()
        speed = self.done / max(self.told - self.started, 1e-9)
        left = round((self.total - self.done) / speed) if speed > 0 else -1  # -1: not known
        facts: dict[str, Any] = {"rows": self.done, "rows_total": self.total, "kept": self.kept}
        facts |= {"shards": self.finished, "shards_total": self.shards}
        self.log.event("progress", **facts, rows_per_second=round(speed, 2), seconds_left=left)


class _Events(Observer):
    """Attempts at shards, as events."""

    def __init__(self, log: JsonLog) -> None:
        self.log = log

    def began(self, shard: str, attempt: int) -> None:
        self.log.event("attempt", "debug", "", shard, attempt)

    def failed(self, shard: str, attempt: int, last: bool, rows: int) -> None:
        self.log.event("attempt_failed", "error" if last else "warning", "", shard, attempt, last=last, rows=rows)

    def finished(self, shard: str, attempt: int, seconds: float, manifest: ShardManifest) -> None:
        size = sum(entry["bytes"] for entry in manifest.files.values())
        facts: dict[str, Any] = {
            "rows": manifest.rows,
            "kept": manifest.kept,
            "seconds": round(seconds, 3),
            "bytes": size,
        }
        self.log.event("shard_done", "info", "", shard, attempt, **facts, reasons=manifest.reasons)


def make_log(config: Config, console: Console | None = None) -> Log:
    """Return the log that ``observe.log_format`` names; ``console`` is for people, standard error by default."""
    settings = config.observe
    if settings.log_format == "json":
        return JsonLog(sys.stderr, settings.log_level, settings.log_every)
    return Log(console or Console(stderr=True), settings.log_every)
