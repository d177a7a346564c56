"""From counts to the numbers of the report: what report.json holds, and all that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2i_builder.report.aggregate import Aggregate, Domains, ShardLine
from l2i_builder.report.bins import Histogram
from l2i_builder.report.reasons import EXPLANATIONS
from l2i_builder.report.run import Run
from l2i_builder.report.steps import make_funnel
from l2i_builder.report.thresholds import Threshold
from l2i_builder.sample import Reason, Verdict

TOP_DOMAINS = 12
LISTED_SHARDS = 20
OUTLIER = 3.0  # |z| from which a shard is one
POINTS = 200  # of the chart of shards; more shards are averaged in groups of neighbours
STAGES = ("fetch", "decode", "segment", "judge_mask", "inpaint", "judge_inpainting", "encode")


def summarize(run: Run, counted: Aggregate, limits: Mapping[str, Threshold | None]) -> dict[str, Any]:
    """Return the report's numbers, JSON types only, in the order of the page."""
    return {
        "run": _run(run),
        "funnel": _funnel(run, counted),
        "reasons": _reasons(counted),
        "scores": {name: _score(run, name, counted.scores[name], limits[name]) for name in ("mask", "inpainting")},
        "density": {
            "mask_edges": counted.density.mask_edges.tolist(),
            "inpainting_edges": counted.density.inpainting_edges.tolist(),
            "cells": _cells(counted.density.counts),
        },
        "thresholds": _thresholds(limits, counted),
        "distributions": {name: _histogram(bins) for name, bins in counted.distributions.items()},
        "domains": _domains(counted.domains, counted.rows),
        "shards": _shards(counted.shards),
        "cost": _cost(counted),
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "version": run.version,
        "digest": run.digest,
        "changed": [{"key": key, "value": value, "default": default} for key, value, default in run.changed],
        "weights": dict(sorted(run.weights.items())),
        "input": {"digest": run.input_digest, "files": len(run.files), "rows": run.planned_rows, "list": run.files},
        "finished_shards": len(run.finished),
        "planned_shards": run.planned_shards,
        "complete": len(run.finished) == run.planned_shards,
    }


def _funnel(run: Run, counted: Aggregate) -> dict[str, Any]:
    funnel = make_funnel(counted.counts, run.finished_rows)
    steps, before = [], funnel.rows[0][1]
    for label, count in funnel.rows:
        line = {"step": label, "rows": count, "lost": before - count}
        steps.append(line | {"of_previous": _ratio(count, before), "of_input": _ratio(count, counted.rows)})
        before = count
    return {
        "steps": steps,
        "kept": funnel.kept,
        "rejected": counted.verdicts[Verdict.REJECTED.value],
        "failed": counted.verdicts[Verdict.FAILED.value],
        "total": funnel.total,
        "planned": funnel.planned,
        "reconciles": funnel.reconciles,
    }


def _reasons(counted: Aggregate) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, int]] = {}
    for (reason, stage), count in counted.counts.items():
        if reason:
            rows.setdefault(reason, {})[stage] = count
    known = {reason.value: reason for reason in Reason}
    lines = []
    for reason, stages in rows.items():
        count = sum(stages.values())
        lines.append(
            {
                "reason": reason,
                "verdict": known[reason].verdict.value if reason in known else "unknown",
                "transient": reason in known and known[reason].transient,
                "rows": count,
                "share": _ratio(count, counted.rows),
                "stages": dict(sorted(stages.items())),
                "meaning": EXPLANATIONS[known[reason]] if reason in known else "Not a reason this version knows.",
                "example": counted.examples.get(reason, ""),
            }
        )
    return sorted(lines, key=lambda line: (-line["rows"], line["reason"]))


def _score(run: Run, judge: str, bins: Histogram, limit: Threshold | None) -> dict[str, Any]:
    enabled = bool(run.judge(judge).get("enabled", True))
    value, source = (limit.value, limit.source) if limit else (None, "")
    return {"enabled": enabled, "threshold": value, "threshold_from": source, **_histogram(bins)}


def _histogram(bins: Histogram) -> dict[str, Any]:
    counts = {group: line.tolist() for group, line in zip(bins.groups, bins.counts, strict=True)}
    return {"edges": bins.edges.tolist(), "counts": counts}


def _cells(counts: np.ndarray) -> list[list[int]]:
    """Return the cells that are not empty: [mask bin, inpainting bin, count]."""
    return [[int(i), int(j), int(counts[i, j])] for i, j in np.argwhere(counts)]


def _thresholds(limits: Mapping[str, Threshold | None], counted: Aggregate) -> dict[str, Any]:
    """What the sliders compute from. ``both``: rows with both scores, or where the inpainting judge is off.

    Below the run's mask threshold these are audit rows, and ``mask_only`` are the others, never inpainted.
    """
    return {
        **{judge: limit.value if limit else None for judge, limit in limits.items()},
        "mask_edges": counted.both.mask_edges.tolist(),
        "inpainting_edges": counted.both.inpainting_edges.tolist(),
        "both": _cells(counted.both.counts),
        "mask_only": counted.mask_only.tolist(),
        "rows": counted.rows,
        "kept": counted.counts["", ""],
        "audit": {name: counted.audit[name] for name in ("rows", "judged", "kept")},
    }


def _domains(domains: Domains, rows: int) -> dict[str, Any]:
    def lines(column: int) -> list[dict[str, Any]]:
        ranked = sorted(domains.counts.items(), key=lambda item: (-int(item[1][column]), -int(item[1][0]), item[0]))
        return [
            {
                "host": host,
                "rows": int(count),
                "share": _ratio(int(count), rows),
                "failed": int(failed),
                "kept": int(kept),
            }
            for host, (count, failed, kept) in ranked[:TOP_DOMAINS]
            if (count, failed, kept)[column]
        ]

    return {
        "hosts": len(domains.counts),
        "forgotten": domains.forgotten,
        "by_share": lines(0),
        "by_failures": lines(1),
    }


def _shards(shards: Sequence[ShardLine]) -> dict[str, Any]:
    """Kept share along the run, and the shards far from the run's share.

    z = (share - run's share) / spread. spread: the larger of binomial chance at the shard's rows and the robust
    spread of all shards (1.4826 x median absolute deviation from their median), so that neither few rows nor a
    varied input raise an alarm by themselves.
    """
    if not shards:
        return {"shards": 0, "share": 0.0, "outliers": 0, "list": [], "points": []}
    rows = np.array([shard.rows for shard in shards], np.float64)
    kept = np.array([shard.kept for shard in shards], np.float64)
    share = kept / np.maximum(rows, 1)
    run_share = float(kept.sum() / max(rows.sum(), 1))
    chance = np.sqrt(run_share * (1 - run_share) / np.maximum(rows, 1))
    spread = np.maximum(chance, 1.4826 * float(np.median(np.abs(share - np.median(share)))))
    z = np.where((rows > 0) & (spread > 0), (share - run_share) / np.where(spread > 0, spread, 1), 0.0)
    listed = np.argsort(-np.abs(z), kind="stable")[:LISTED_SHARDS]
    return {
        "shards": len(shards),
        "share": run_share,
        "outliers": int((np.abs(z) >= OUTLIER).sum()),
        "retried": sum(shard.attempts > 1 for shard in shards),
        "list": [
            {
                "shard": shards[i].number,
                "rows": shards[i].rows,
                "kept": shards[i].kept,
                "failed": shards[i].failed,
                "share": float(share[i]),
                "z": round(float(z[i]), 2),
                "outlier": bool(abs(z[i]) >= OUTLIER),
                "attempts": shards[i].attempts,
            }
            for i in listed
        ],
        "points": _points(shards),
    }


def _points(shards: Sequence[ShardLine]) -> list[dict[str, Any]]:
    """Kept and failed shares of at most POINTS groups of neighbouring shards."""
    size = -(-len(shards) // POINTS)
    points = []
    for start in range(0, len(shards), size):
        group = shards[start : start + size]
        rows = sum(shard.rows for shard in group)
        points.append(
            {
                "first": group[0].number,
                "last": group[-1].number,
                "kept": _ratio(sum(shard.kept for shard in group), rows),
                "failed": _ratio(sum(shard.failed for shard in group), rows),
            }
        )
    return points


def _cost(counted: Aggregate) -> dict[str, Any]:
    kept = counted.counts["", ""]
    total = sum(counted.seconds.values())
    order = [*STAGES, *sorted(set(counted.seconds) - set(STAGES))]
    stages = []
    for stage in order:
        if stage not in counted.seconds:
            continue
        seconds, images = counted.seconds[stage], counted.images.get(stage, 0)
        stages.append(
            {
                "stage": stage,
                "seconds": seconds,
                "share": _ratio(seconds, total),
                "images": images,
                "per_image": _ratio(seconds, images),
                "per_kept": _ratio(seconds, kept),
            }
        )
    stored = dict(sorted(counted.stored.items()))
    return {
        "stages": stages,
        "seconds": total,
        "per_kept": _ratio(total, kept),
        "fetched": {
            "bytes": counted.fetched_bytes,
            "bodies": counted.fetched_rows,
            "per_body": _ratio(counted.fetched_bytes, counted.fetched_rows),
            "per_kept": _ratio(counted.fetched_bytes, kept),
        },
        "stored": stored,
        "stored_per_kept": _ratio(stored.get("shards", 0), kept),
    }


def _ratio(part: float, whole: float) -> float:
    """Return part / whole, 0 where there is no whole."""
    return part / whole if whole else 0.0
