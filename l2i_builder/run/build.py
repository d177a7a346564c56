"""The main job: plan, claim the output, run what is not finished, index, report."""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, ShardsFailedError
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import InputPlan, InputShard
from l2i_builder.output import manifest
from l2i_builder.output.rewrite import recover
from l2i_builder.output.shards import wids_index
from l2i_builder.output.undecided import write_undecided
from l2i_builder.run import grow
from l2i_builder.run.cluster import Parts
from l2i_builder.run.eventloop import run_to_end
from l2i_builder.run.logs import Log, make_log
from l2i_builder.run.metrics import serve_metrics
from l2i_builder.run.observe import Observer, Several
from l2i_builder.run.progress import Progress
from l2i_builder.run.resume import altered_shards, whole_shards
from l2i_builder.run.retry import retry_parts, retryable

WITHOUT_WEIGHTS = {"patchmatch", "telea"}
_PASSWORD = re.compile(r"(?!github:)[^/@]+://[^/@]*:[^/@]*@")


@dataclass
class Result:
    """What ``build`` leaves behind. ``failed``: shard name -> error, for shards that failed every attempt."""

    out: str
    report: str
    shards: int
    skipped: int  # finished by an earlier run
    failed: dict[str, str] = field(default_factory=dict)


def build(
    config: Config,
    console: Console | None = None,
    inline: bool = False,
    retry_failed: bool = False,
    log: Log | None = None,
    append: bool = False,
    recheck: bool = False,
) -> Result:
    """Build the dataset that ``config`` describes into ``config.out``; finished shards are skipped.

    inline: run in this process, without Ray. retry_failed: also fetch again the rows of finished shards whose
    failure was transient. append: the metadata join the run that is there; rows whose keys it has are left out.
    recheck: read the finished shards too, and build those again in which something was changed.
    console, log: where to tell; by default what ``config.observe`` says, on standard error.

    Raises L2IError subclasses: ConfigError (also where the folder belongs to another configuration),
    MetadataError, WeightsError, ClusterError, OutputError; ShardsFailedError at the end where shards failed
    every attempt (all others are complete). KeyboardInterrupt leaves finished shards; run again to go on.
    """
    log = log or make_log(config, console)
    config = absolute(config)
    if config.out.startswith("memory://") and not inline:
        raise ConfigError("memory:// lives in one process and cannot be shared with Ray's actors; add --inline.")
    plan = planning.plan(config)
    if append:
        run, plan = grow.append(config, plan, weight_digests(config), log.say)
    else:
        plan = grow.keep_growths(config.out, plan)
        run = claim(config, plan)
    log.run = run.digest
    recover(config.out)
    done = _finished(config.out, log)
    if recheck:
        altered = altered_shards(config.out, plan, run, done)
        _tell_damage(altered, log)
        done -= set(altered)
    again = retryable(config.out, plan, done) if retry_failed else []
    todo = [shard for shard in plan.shards if shard.number not in done]
    if len(todo) < len(plan.shards):
        log.say(f"{len(plan.shards) - len(todo):,} of {len(plan.shards):,} shards are finished and skipped")
    with serve_metrics(config, run.digest) as metrics:
        failed = run_shards(config, todo, run.digest, log, inline, None, metrics) if todo else {}
        if retry_failed:
            log.say(f"{len(again):,} finished shards hold rows whose failure was transient")
            if again:
                failed |= run_shards(config, again, run.digest, log, inline, retry_parts(config), metrics)
    result = finish(config, plan, failed)
    result.skipped = len(plan.shards) - len(todo)
    if failed:
        listed = "\n  ".join(f"{name}: {error}" for name, error in sorted(failed.items())[:20])
        raise ShardsFailedError(
            f"{len(failed)} of {len(plan.shards)} shards failed every attempt; run again to retry them:\n  {listed}",
            failed,
        )
    return result


def _finished(out: str, log: Log) -> set[int]:
    """Return the shards that need no work; tell of those that do because their files are damaged."""
    done, damaged = whole_shards(out)
    _tell_damage(damaged, log)
    return done


def _tell_damage(damaged: Mapping[int, str], log: Log) -> None:
    for number, what in sorted(damaged.items()):
        log.say(f"shard {manifest.shard_name(number)} is damaged ({what}) and is built again", "warning")


def claim(config: Config, plan: InputPlan) -> manifest.RunManifest:
    """Bind the output folder to this configuration, input and weights; weights are fetched and checked here."""
    run = manifest.RunManifest.of(config, plan.digest, weight_digests(config))
    run = manifest.claim(config.out, run)
    storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
    return run


def weight_digests(config: Config) -> dict[str, str]:
    """Return the SHA-256 of everything learned that the run uses, fetching what this machine lacks; where nothing is
    learned, of the name of the algorithm, if its results ever changed.

    Raises WeightsError on a digest that differs, before anything else is downloaded.
    """
    from l2i_builder.decode.resize import ALGORITHM
    from l2i_builder.inpaint.inpainter import ALGORITHMS
    from l2i_builder.judge.judges import load_head
    from l2i_builder.safety.blocklists import Blocklists
    from l2i_builder.weights.registry import file_sha256, resolve

    digests = Blocklists(config.safety).digests()
    digests["image: resize"] = hashlib.sha256(ALGORITHM.encode()).hexdigest()
    if config.safety.nsfw.enabled:
        from l2i_builder.safety.nsfw import weights_path

        path = weights_path(config.safety.nsfw)
        digests[f"nsfw: {config.safety.nsfw.weights or path.stem}"] = file_sha256(path)
    for stage, section in (("segment", config.segment), ("inpaint", config.inpaint)):
        if section.backend not in WITHOUT_WEIGHTS:
            path = resolve(section.weights or section.backend, section.sha256)
            digests[f"{stage}: {section.weights or section.backend}"] = file_sha256(path)
        elif section.backend in ALGORITHMS:
            digests[f"{stage}: {section.backend}"] = hashlib.sha256(ALGORITHMS[section.backend].encode()).hexdigest()
    for task, judge in (("mask", config.judge.mask), ("inpainting", config.judge.inpainting)):
        if judge.enabled:
            head = load_head(judge.head, task)
            digests[f"judge {task}: {head.card['name']}"] = head.digest
            digests[f"judge {task}: {head.card['backbone']['name']}"] = head.card["backbone"]["sha256"]
    return digests


def run_shards(
    config: Config,
    todo: list[InputShard],
    run_digest: str,
    log: Log,
    inline: bool = False,
    parts: Parts | None = None,
    observer: Observer | None = None,
) -> dict[str, str]:
    """Run shards on Ray, or inline. Returns those that failed every attempt, with the last error."""
    observer = Several(observer, log.observer) if observer else log.observer
    with log.progress(sum(shard.rows for shard in todo), len(todo)) as progress:
        if inline:
            from l2i_builder.run.inline import run_inline

            run_inline(config, todo, run_digest, progress, parts, observer)
            return {}
        return _run_on_ray(config, todo, run_digest, progress, parts, observer)


def _run_on_ray(
    config: Config,
    todo: list[InputShard],
    run_digest: str,
    progress: Progress,
    parts: Parts | None,
    observer: Observer,
) -> dict[str, str]:
    import ray

    from l2i_builder.run import cluster, connection
    from l2i_builder.run.resources import plan_layout

    resources = connection.start_ray(config)
    try:
        connection.check_shared_output(config.out)
        layout = plan_layout(config, resources)

        async def drive() -> cluster.Outcome:
            task = asyncio.current_task()
            here = threading.current_thread() is threading.main_thread()  # signals reach no other thread
            for number in (signal.SIGINT, signal.SIGTERM) if here else ():
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)  # type: ignore[union-attr]
            return await cluster.Driver(config, layout, run_digest, progress, parts, observer).run(todo)

        try:
            return run_to_end(drive).failed
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    finally:
        ray.shutdown()


def finish(config: Config, plan: InputPlan, failed: dict[str, str]) -> Result:
    """Write the index and the report over everything committed so far."""
    from l2i_builder.report import write_report

    storage.write_bytes(storage.join(config.out, "index.json"), wids_index(config.out))
    write_undecided(config.out)
    return Result(config.out, write_report(config.out), len(plan.shards), 0, failed)


def absolute(config: Config) -> Config:
    """Local paths made absolute: actors live in other working directories. Raises ConfigError where one is missing or
    holds a password, which input.json and error messages would show."""
    if not config.metadata or not config.out:
        missing = "metadata" if not config.metadata else "out"
        raise ConfigError(f"{missing} is not set: give --{missing}, or {missing}: in the configuration.")
    paths = {name: getattr(config, name) for name in ("metadata", "out")}
    for name, path in paths.items():
        if _PASSWORD.match(path):
            raise ConfigError(
                f"{name} holds a password, which would be written where everybody reads it. Give credentials through "
                "the environment: AWS_*, FSSPEC_HTTP and the like."
            )
    local = {name: str(Path(path).expanduser().absolute()) for name, path in paths.items() if "://" not in path}
    return config.model_copy(update=local)
