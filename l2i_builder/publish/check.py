"""What a run must be before anything of it is published: finished, whole by size, with nothing half-done."""

from __future__ import annotations

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import PENDING, finished
from l2i_builder.report.run import Run
from l2i_builder.run.resume import whole_shards


def check_source(run: Run, unfinished: bool = False) -> None:
    """Raise OutputError unless a run can be published: manifests are read, sizes compared; digests of tars are
    compared while they are copied. unfinished: publish what there is of a run that is not finished.
    """
    if finished(storage.join(run.out, PENDING)):
        raise OutputError(
            f"{run.out} has shards under {PENDING}/, left by an interruption. Run that command again first."
        )
    if not run.finished:
        raise OutputError(f"{run.out} has no finished shard. Run its build first.")
    left = run.planned_shards - len(run.finished)
    if run.planned_shards < 0:
        raise OutputError(f"{run.out} has no input.json: nobody can tell whether it is whole. Restore it.")
    if left and not unfinished:
        raise OutputError(
            f"{left:,} of {run.planned_shards:,} shards of {run.out} are not finished. Run the build again; to publish "
            "what there is, add --unfinished."
        )
    _, damaged = whole_shards(run.out)
    if damaged:
        listed = "; ".join(damaged[number] for number in sorted(damaged)[:5])
        raise OutputError(f"{len(damaged)} shards of {run.out} are damaged: {listed}. Run `l2i verify {run.out}`.")
