"""The Python API, as short as the command line: ``build`` makes a dataset, ``open_dataset`` reads one.

from l2i_builder import build, open_dataset

summary = build("metadata.parquet", "runs/mine", set=["segment.backend=u2netp"])
print(summary.kept, summary.reasons)
triplet = open_dataset("runs/mine")[0]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.configfile import known_keys, load_config
from l2i_builder.dataset import LayeredDataset, open_dataset
from l2i_builder.errors import ShardsFailedError
from l2i_builder.output import manifest
from l2i_builder.sample import Reason, Verdict

__all__ = ["LayeredDataset", "RunSummary", "build", "open_dataset", "summarize"]


@dataclass(frozen=True)
class RunSummary:
    """What an output folder holds: counts of rows over its finished shards.

    Attributes:
        out: the folder; local paths are absolute.
        report: URL of the page, "" where there is none yet.
        rows: input rows.
        kept: samples in ``shards/``.
        finished_shards: shards with a manifest.
        skipped: those of them that an earlier call had finished.
        reasons: reason -> rows, most frequent first, of the rows that were not kept.
        failed: name -> last error, of the shards that failed every attempt of this call.
    """

    out: str
    report: str
    rows: int
    kept: int
    finished_shards: int
    skipped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Rows that a rule or a judge decided against."""
        return self._rows_of(Verdict.REJECTED)

    @property
    def lost(self) -> int:
        """Rows that could not be fetched, decoded or processed (verdict "failed")."""
        return self._rows_of(Verdict.FAILED)

    def _rows_of(self, verdict: Verdict) -> int:
        return sum(rows for reason, rows in self.reasons.items() if Reason(reason).verdict == verdict)


def build(
    metadata: str | Path,
    out: str | Path,
    config: str | Path | Config | None = None,
    *,
    set: Iterable[str] = (),
    inline: bool = False,
    retry_failed: bool = False,
    append: bool = False,
    recheck: bool = False,
    progress: bool = False,
    check: bool = True,
    **overrides: Any,
) -> RunSummary:
    """Build the shards that ``l2i build`` would, and return what the output folder then holds.

    Finished shards are skipped: call it again to go on. Works in scripts, threads and notebooks, and starts Ray as
    the command does.

    Args:
        metadata: parquet file, folder or glob; local or URL.
        out: output folder; local or URL.
        config: YAML file or a whole ``Config``; None for the defaults.
        set: dotted keys over it, in the spelling of ``--set``: ``["inpaint.backend=lama"]``.
        inline: one process, no Ray.
        retry_failed: fetch rows of finished shards again whose failure was transient.
        append: the metadata join the finished run in ``out``; only rows with new keys are fetched.
        recheck: read the finished shards too, and build those again in which something was changed.
        progress: show a bar (or, without a terminal, a line a minute) on standard error.
        check: raise where shards failed every attempt; False: return them in ``RunSummary.failed``.
        **overrides: sections or keys as Python values: ``image={"size": 256}, seed=1``. They win over ``set``.

    Raises:
        L2IError: one of ``l2i_builder.errors``: ConfigError, MetadataError, WeightsError, OutputError, ClusterError,
            or ShardsFailedError, whose ``failed`` names the shards; all others are complete.
        KeyboardInterrupt: finished shards are kept.
    """
    from l2i_builder.run.build import build as run

    settings = _settings(config, [*set, *_dotted(overrides)], str(metadata), str(out))
    console = Console(file=sys.stderr, quiet=not progress, highlight=False)
    try:
        result = run(settings, console, inline=inline, retry_failed=retry_failed, append=append, recheck=recheck)
    except ShardsFailedError as error:
        if check:
            raise
        return summarize(settings.out, failed=error.failed)
    return summarize(result.out, result.skipped)


def summarize(out: str | Path, skipped: int = 0, failed: Mapping[str, str] | None = None) -> RunSummary:
    """Return what an output folder holds, also while a build is going on; reads its manifests alone.

    skipped, failed: passed on. Raises OutputError where the folder holds no run, or a damaged manifest.
    """
    folder = str(storage.local_path(str(out))) if storage.is_local(str(out)) else str(out)
    manifest.RunManifest.from_json(storage.read_bytes(storage.join(folder, manifest.RUN_FILE)))
    rows = kept = shards = 0
    totals: dict[str, int] = {}
    for shard in manifest.whole_manifests(folder, sorted(manifest.finished(folder))):
        shards, rows, kept = shards + 1, rows + shard.rows, kept + shard.kept
        for reason, count in shard.reasons.items():
            totals[reason] = totals.get(reason, 0) + count
    report = storage.join(folder, "report.html")
    return RunSummary(
        out=folder,
        report=report if storage.exists(report) else "",
        rows=rows,
        kept=kept,
        finished_shards=shards,
        skipped=skipped,
        reasons=dict(sorted(totals.items(), key=lambda item: (-item[1], item[0]))),
        failed=dict(failed or {}),
    )


def _settings(config: str | Path | Config | None, overrides: list[str], metadata: str, out: str) -> Config:
    if isinstance(config, Config):
        return load_config(None, [*_dotted(config.model_dump(mode="json")), *overrides], metadata=metadata, out=out)
    return load_config(config, overrides, metadata=metadata, out=out)


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield sections given as Python values as ``section.key=value``; a mapping that a key itself takes stays whole."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and any(known.startswith(f"{key}.") for known in known_keys()):
            yield from _dotted(value, f"{key}.")
        else:
            yield f"{key}={json.dumps(value, ensure_ascii=False, default=str)}"
