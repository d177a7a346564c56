"""A run of toy stages in a process of its own, to be disturbed: METADATA OUT FAULT PAUSE KEY=VALUE..."""

from __future__ import annotations

import errno
import os
import random
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy import toy_config, toy_parts

from l2i_builder import storage
from l2i_builder.errors import L2IError, ShardsFailedError
from l2i_builder.ingest import planning
from l2i_builder.output import manifest
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.shards import wids_index
from l2i_builder.run import cluster
from l2i_builder.run.build import run_shards
from l2i_builder.run.logs import Log
from l2i_builder.run.resume import altered_shards, whole_shards


def unsteady_commit(out, *args):
    """Commit on a disk where one file in five cannot be put in its place, or says so although it was."""
    real = Path.replace

    def replace(path, target):
        draw = random.random()
        if draw < 0.1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        result = real(path, target)
        if draw > 0.9:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return result

    Path.replace = replace
    try:
        return commit_shard(out, *args)
    finally:
        Path.replace = real


def main() -> None:
    metadata, out, fault, pause, *overrides = sys.argv[1:]
    cluster.COMMIT_PAUSES = (0.2,) * 25
    config = toy_config(Path(metadata), out, *overrides)
    parts = toy_parts(config, float(pause), fault)
    if fault == "unsteady disk":
        parts = cluster.Parts(parts.source, parts.stages, unsteady_commit)
    console = Console(stderr=True)
    try:
        plan = planning.plan(config)
        run = manifest.RunManifest.of(config, plan.digest, {})
        manifest.claim(config.out, run)
        storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
        done, _ = whole_shards(config.out)
        if fault == "recheck":
            done -= set(altered_shards(config.out, plan, run, done))
        todo = [shard for shard in plan.shards if shard.number not in done]
        failed = run_shards(config, todo, run.digest, Log(console), parts=parts) if todo else {}
        storage.write_bytes(storage.join(config.out, "index.json"), wids_index(config.out))
        if failed:
            raise ShardsFailedError(str(failed))
    except L2IError as error:
        console.print(str(error), markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
