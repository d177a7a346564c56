"""``l2i status --watch``: a run on any machine, followed through its output folder alone.

A look is one listing of ``manifests/`` (on S3 a request per thousand shards); manifests are read once, when they are
new. When shards were finished is when storage says their manifests were written, so rate and time left are known from
the first look.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from l2i_builder import storage
from l2i_builder.commands.shardbar import shard_bar
from l2i_builder.errors import OutputError
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output import manifest
from l2i_builder.sample import Reason

READERS = 32  # manifests read at once
EVERY_LOCAL, EVERY_URL = 10.0, 30.0  # seconds between looks
WINDOW = 3600.0  # seconds of finished shards that the rate is taken from ...
LEAST = 30  # ... but of so many shards at least
REASONS = 12  # reasons shown; the others are added up
QUIET = 5.0  # typical gaps between shards after which silence is mentioned


class Seen(NamedTuple):
    """A finished shard. time: when its manifest was written, seconds since the epoch."""

    time: float
    rows: int
    kept: int
    reasons: dict[str, int]


class Followed:
    """What is known of a run in ``out``. Raises OutputError where there is none."""

    def __init__(self, out: str) -> None:
        url = storage.join(out, "input.json")
        if not storage.exists(url):
            raise OutputError(f"{out} holds no run (no input.json). `l2i build --out {out}` begins one.")
        plan = InputPlan.from_json(storage.read_bytes(url))
        self.out, self.shards, self.total = out, len(plan.shards), plan.all_rows
        self.seen: dict[int, Seen] = {}
        self.trouble = ""  # what kept the last look from seeing everything

    def look(self, console: Console | None = None) -> int:
        """List the manifests and read those that are new. Returns how many were read; never raises OutputError:
        ``trouble`` then says what is wrong, and the next look tries again."""
        self.trouble = ""
        try:
            times = storage.list_times(storage.join(self.out, manifest.FOLDER))
        except OutputError as error:
            self.trouble = str(error)
            return 0
        found = {int(name[:-5]): when for name, when in times.items() if name[:-5].isdecimal() and name[-5:] == ".json"}
        new = sorted(number for number, when in found.items() if self._unknown(number, when))
        for gone in self.seen.keys() - found.keys():  # being made anew
            del self.seen[gone]
        with ThreadPoolExecutor(READERS) as pool, shard_bar(console or Console(quiet=True), "reading manifests") as bar:
            for done, (number, shard) in enumerate(zip(new, pool.map(self._read, new), strict=True), 1):
                if shard:
                    reasons = {Reason(reason).value: rows for reason, rows in shard.reasons.items()}
                    self.seen[number] = Seen(found[number], shard.rows, shard.kept, reasons)
                bar(done, len(new))
        return len(new)

    def _unknown(self, number: int, when: float) -> bool:
        return number not in self.seen or self.seen[number].time != when

    def _read(self, number: int) -> manifest.ShardManifest | None:
        try:
            return manifest.read_manifest(self.out, number)
        except OutputError as error:
            self.trouble = str(error)
            return None

    @property
    def complete(self) -> bool:
        """Whether every shard of the plan is finished."""
        return len(self.seen) >= self.shards

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.seen.values())

    @property
    def kept(self) -> int:
        return sum(shard.kept for shard in self.seen.values())

    def reasons(self) -> Counter[str]:
        """Rows that were not kept, by reason."""
        counts: Counter[str] = Counter()
        for shard in self.seen.values():
            counts.update(shard.reasons)
        return counts

    def rate(self) -> tuple[float, float, float]:
        """Return rows a second of late, typical seconds between two shards, and when the last one was written; zeros
        where fewer than two shards are finished.

        Of late: since an hour before the last shard, or its thirtieth predecessor. A longer pause ends it: the run
        stood still.
        """
        ends = sorted((shard.time, shard.rows) for shard in self.seen.values() if shard.time)
        if not ends:
            return 0.0, 0.0, 0.0
        last = ends[-1][0]
        late = [end for end in ends if end[0] >= last - WINDOW]
        late = late if len(late) >= LEAST else ends[-LEAST:]
        gaps = [after[0] - before[0] for before, after in pairwise(late)]
        pause = max(WINDOW, 20 * statistics.median(gaps)) if gaps else 0.0
        begin = max((place + 1 for place, gap in enumerate(gaps) if gap > pause), default=0)
        late, gaps = late[begin:], gaps[begin:]
        seconds = late[-1][0] - late[0][0]
        if seconds <= 0:
            return 0.0, 0.0, last
        return sum(rows for _, rows in late[1:]) / seconds, seconds / len(gaps), last


def follow(out: str, console: Console, every: float | None = None) -> None:
    """Show a run until it is complete: in place on a terminal, elsewhere a line whenever something is new.

    every: seconds between looks, by default 10 for folders of this machine and 30 for URLs. Raises OutputError where
    there is no run, or where the first look fails.
    """
    every = every or (EVERY_LOCAL if storage.is_local(out) else EVERY_URL)
    run = Followed(out)
    run.look(console)
    if run.trouble and not run.seen:
        raise OutputError(run.trouble)
    if console.is_terminal:
        with Live(screen_of(run, time.time()), console=console, auto_refresh=False) as live:
            while not run.complete:
                time.sleep(every)
                run.look()
                live.update(screen_of(run, time.time()), refresh=True)
    else:
        console.print(line_of(run, time.time()), soft_wrap=True)
        while not run.complete:
            time.sleep(every)
            if run.look() or run.trouble:
                console.print(line_of(run, time.time()), soft_wrap=True)
    console.print(f"complete. Is it whole? l2i verify {out}", soft_wrap=True)


def screen_of(run: Followed, now: float) -> Group:
    """What a terminal shows at ``now``, seconds since the epoch."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("rows", f"{run.rows:,} of {run.total:,}", f"{run.rows / max(run.total, 1):.1%}")
    facts.add_row("shards", f"{len(run.seen):,} of {run.shards:,}", ProgressBar(run.shards, len(run.seen), width=40))
    facts.add_row("kept", f"{run.kept:,}", f"{run.kept / max(run.rows, 1):.2%} of the rows so far")
    facts.add_row("speed", *speed_of(run, now))
    counts = run.reasons()
    table = Table("not kept because", "", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    largest = max(counts.values(), default=1)
    for reason, rows in counts.most_common(REASONS):
        bar = Text("━" * max(1, round(30 * rows / largest)), "red" if Reason(reason).verdict == "failed" else "yellow")
        table.add_row(reason, bar, f"{rows:,}", f"{rows / max(run.rows, 1):.1%}")
    if others := sum(rows for _, rows in counts.most_common()[REASONS:]):
        table.add_row(f"{len(counts) - REASONS} others", "", f"{others:,}", f"{others / max(run.rows, 1):.1%}")
    parts: list[RenderableType] = [Text(run.out, "bold"), facts]
    if counts:
        parts += [Text(""), table]
    if run.trouble:
        parts.append(Text(run.trouble, "red"))
    return Group(*parts)


def line_of(run: Followed, now: float) -> str:
    """The same in a line."""
    words = [f"{run.rows:,} of {run.total:,} rows", f"{len(run.seen):,} of {run.shards:,} shards", f"{run.kept:,} kept"]
    words += [word for word in speed_of(run, now) if word]
    if counts := run.reasons().most_common(1):
        words.append(f"most often {counts[0][0]} ({counts[0][1]:,})")
    return ", ".join(words) + (f"\n{run.trouble}" if run.trouble else "")


def speed_of(run: Followed, now: float) -> tuple[str, str]:
    """Return rows a second, and the time left or for how long nothing has been heard."""
    rate, gap, last = run.rate()
    if run.complete:
        return (f"{rate:,.1f} rows/s" if rate else "", "")
    if not last:
        return "", "no shard is finished yet"
    silence = max(0.0, now - last)
    heard = f"last shard {span(silence)} ago"
    if not rate:
        return "", heard
    if silence > max(60.0, QUIET * gap):
        return f"{rate:,.1f} rows/s", f"{heard}, usually one every {span(gap)}: is the build still running?"
    return f"{rate:,.1f} rows/s", f"about {span((run.total - run.rows) / rate)} left, {heard}"


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // part} {below}" if rest // part else f"{whole} {unit}"
    return f"{seconds:.0f} s"
