"""img2dataset's downloader as a source: its ``Downloader`` class, run inside our actor behind our guard."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import pyarrow as pa

from l2i_builder.config import Config
from l2i_builder.decode.pool import DecoderPool
from l2i_builder.errors import ConfigError
from l2i_builder.fetch.fetcher import Fetched
from l2i_builder.ingest.planning import InputShard
from l2i_builder.sample import Reason, Row
from l2i_builder.source.guarded_urllib import GuardedOpener, Request
from l2i_builder.source.img2dataset_shards import explain, received
from l2i_builder.source.source import Source
from l2i_builder.source.stream import Stream

_REASONS = frozenset(Reason)


class DownloaderSource(Source):
    """Downloads a shard's rows with img2dataset, original bytes kept, so that our decoder decides.

    It finishes rows in any order, so bodies wait in a temporary file, as large as the shard's images together. A
    shard's deadline is the time it takes when every row uses all its attempts in full.

    Raises ConfigError for what this downloader cannot do: proxies, robots.txt, a rate per host.
    """

    def __init__(self, config: Config) -> None:
        fetch = config.fetch
        for name in ("use_proxy_env", "respect_robots_txt", "per_host_rate"):
            if getattr(fetch, name):
                raise ConfigError(f"source img2dataset cannot honour fetch.{name}; unset it, or set source: urls.")
        super().__init__(config)

    async def _open(self) -> DecoderPool:
        self._module = await asyncio.to_thread(_private_downloader)
        return await super()._open()

    async def feed(self, stream: Stream, shard: InputShard) -> None:
        """Run the downloader in a thread; deliver its bodies in row order."""
        wanted = list(stream.wanted())
        if not wanted:
            return
        fetch = self.config.fetch
        rounds = math.ceil(len(wanted) / fetch.concurrency)
        opener = GuardedOpener(fetch, rounds * fetch.timeout * (fetch.retries + 1))
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            spool = _Spool(file, loop, {position for position, _ in wanted})
            job = loop.run_in_executor(None, self._run_downloader, wanted, spool, opener)
            job.add_done_callback(spool.end)
            try:
                for position, row in wanted:
                    outcome = await spool.outcomes[position]
                    await stream.room()
                    stream.deliver(position, await asyncio.to_thread(self._fetched, row, outcome, spool, opener))
            finally:
                opener.cancel()
                await asyncio.wait([job])

    def _run_downloader(self, wanted: list[tuple[int, Row]], spool: _Spool, opener: GuardedOpener) -> None:
        try:
            self._download(wanted, spool, opener)
        finally:
            opener.close()  # here, where no cancellation comes between

    def _download(self, wanted: list[tuple[int, Row]], spool: _Spool, opener: GuardedOpener) -> None:
        from img2dataset.resizer import Resizer

        self._module.urllib = SimpleNamespace(  # type: ignore[attr-defined]
            request=SimpleNamespace(Request=Request, urlopen=opener.urlopen)
        )
        fetch = self.config.fetch
        with tempfile.TemporaryDirectory() as folder:
            downloader = self._module.Downloader(
                sample_writer_class=lambda *_: spool,
                resizer=Resizer(self.config.image.size, "no", False, disable_all_reencoding=True),
                thread_count=min(fetch.concurrency, len(wanted)),
                save_caption=False,
                extract_exif=False,
                output_folder=folder,
                column_list=["position", "url"],
                timeout=fetch.timeout,
                number_sample_per_shard=len(wanted),
                oom_shard_count=5,
                compute_hash=None,
                verify_hash_type=None,
                encode_format="jpg",
                retries=fetch.retries,
                user_agent_token=None,
                disallowed_header_directives=None,  # read by the opener, which knows more of them
            )
            downloader.download_shard((0, str(_write_rows(wanted, Path(folder)))))

    def _fetched(self, row: Row, outcome: _Outcome, spool: _Spool, opener: GuardedOpener) -> Fetched:
        answer = opener.answers[row.url]
        reason, _, detail = outcome.message.partition(": ")
        if outcome.size >= 0:
            fetched = received(spool.read(outcome), row.expected_sha256)
        elif reason in _REASONS:  # a Refusal of the opener
            fetched = Fetched(reason=Reason(reason), detail=detail)
        else:
            fetched = explain("failed_to_download", outcome.message)
        fetched.status, fetched.content_type, fetched.opt_out = answer.status, answer.content_type, answer.opt_out
        return fetched


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Where a body is in the spool (size -1: nowhere), or img2dataset's message."""

    offset: int = 0
    size: int = -1
    message: str = "nothing was returned for this row"


class _Spool:
    """What the downloader takes for its writer: keeps bodies in a file, tells an event loop as each one comes."""

    def __init__(self, file: IO[bytes], loop: asyncio.AbstractEventLoop, positions: set[int]) -> None:
        self._file, self._loop = file, loop
        self.outcomes: dict[int, asyncio.Future[_Outcome]] = {position: loop.create_future() for position in positions}

    def write(self, data: bytes | None, key: str, caption: str | None, meta: Mapping[str, Any]) -> None:
        """img2dataset's writer interface; called from one thread. Blocks for no one."""
        if data is None:
            outcome = _Outcome(message=str(meta["error_message"]))
        else:
            outcome = _Outcome(self._file.seek(0, os.SEEK_END), len(data))
            self._file.write(data)
            self._file.flush()
        self._loop.call_soon_threadsafe(self._settle, meta["position"], outcome)

    def close(self) -> None:
        """img2dataset's writer interface: it calls this after the last row."""

    def end(self, job: asyncio.Future[None]) -> None:
        """Leave no row waiting when the downloader has ended."""
        for outcome in self.outcomes.values():
            if outcome.done():
                continue
            if error := job.exception():
                outcome.set_exception(error)
            else:
                outcome.set_result(_Outcome())

    def read(self, outcome: _Outcome) -> bytes:
        """Return a body; from any thread."""
        return os.pread(self._file.fileno(), outcome.size, outcome.offset)

    def _settle(self, position: int, outcome: _Outcome) -> None:
        if not self.outcomes[position].done():
            self.outcomes[position].set_result(outcome)


def _private_downloader() -> ModuleType:
    """Import a copy of img2dataset's downloader module of our own: what we put in it concerns nobody else."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the package index at import
    spec = importlib.util.find_spec("img2dataset.downloader")
    if spec is None or spec.loader is None:
        raise ConfigError("source img2dataset needs the package img2dataset: pip install --no-deps img2dataset==1.47.0")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_rows(wanted: list[tuple[int, Row]], folder: Path) -> Path:
    """Write the rows in the format that img2dataset hands to its downloaders."""
    table = pa.table({"position": [position for position, _ in wanted], "url": [row.url for _, row in wanted]})
    path = folder / "rows.feather"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path
