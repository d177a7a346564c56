"""From counts to the numbers of the report: what report.json holds, and all that the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from l2i_builder import __version__
from l2i_builder.output.manifest import layer_count
from l2i_builder.report.aggregate import JUDGES, Aggregate
from l2i_builder.report.bins import Histogram
from l2i_builder.report.cost import summarize_cost
from l2i_builder.report.curves import judge_curves
from l2i_builder.report.domains import Domains
from l2i_builder.report.drift import summarize_shards
from l2i_builder.report.labelled import Labelled, label_bins, wilson
from l2i_builder.report.options import Prices
from l2i_builder.report.reasons import EXPLANATIONS, NOT_PEELED, PEEL_ENDS
from l2i_builder.report.run import Run
from l2i_builder.report.steps import make_funnel
from l2i_builder.report.thresholds import Threshold
from l2i_builder.sample import Reason, Verdict

TOP_DOMAINS = 12


def summarize(
    run: Run,
    counted: Aggregate,
    limits: Mapping[str, Threshold | None],
    found: Labelled,
    stored: Mapping[str, int],
    prices: Prices,
) -> dict[str, Any]:
    """Return the report's numbers, JSON types only, in the order of the page."""
    values = {judge: limit.value if limit else None for judge, limit in limits.items()}
    further = {"layers": _layers(run, counted)} if layer_count(run.config) > 2 else {}
    return {
        "run": _run(run, counted, limits),
        "funnel": _funnel(run, counted),
        **further,
        "reasons": _reasons(counted),
        "scores": {name: _score(run, name, counted.scores[name], limits[name]) for name in JUDGES},
        "density": {
            "mask_edges": counted.density.mask_edges.tolist(),
            "inpainting_edges": counted.density.inpainting_edges.tolist(),
            "cells": _cells(counted.density.counts),
        },
        "thresholds": _thresholds(values, counted, found),
        "labels": found.counts | {"curves": {judge: judge_curves(found, judge, values[judge]) for judge in JUDGES}},
        "distributions": {name: _histogram(bins) for name, bins in counted.distributions.items()},
        "domains": _domains(counted.domains, counted.rows),
        "shards": summarize_shards(counted.shards),
        "cost": summarize_cost(counted, stored, prices),
    }


def _run(run: Run, counted: Aggregate, limits: Mapping[str, Threshold | None]) -> dict[str, Any]:
    return {
        "version": run.version,
        "report_version": __version__,
        "digest": run.digest,
        "config": run.config,
        "changed": [{"key": key, "value": value, "default": default} for key, value, default in run.changed],
        "weights": dict(sorted(run.weights.items())),
        "judges": [_judge(run, name, counted, limits[name]) for name in JUDGES],
        "input": {
            "digest": run.input_digest,
            "files": len(run.files),
            "rows": run.planned_rows,
            "columns": run.columns,
            "list": run.files,
        },
        "finished_shards": len(run.finished),
        "planned_shards": run.planned_shards,
        "complete": len(run.finished) == run.planned_shards,
    }


def _judge(run: Run, name: str, counted: Aggregate, limit: Threshold | None) -> dict[str, Any]:
    """A judge of the run: its threshold, and the versions of the heads that scored, as the ledgers have them."""
    heads = sorted(counted.heads[name].items(), key=lambda item: (-item[1], item[0]))
    return {
        "judge": name,
        "enabled": bool(run.judge(name).get("enabled", True)),
        "threshold": limit.value if limit else None,
        "threshold_from": limit.source if limit else "",
        "heads": [
            {"version": head, "rows": rows, "digest": run.weights.get(f"judge {name}: {head}", "")}
            for head, rows in heads
        ],
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


def _layers(run: Run, counted: Aggregate) -> dict[str, Any]:
    """How many layers the kept samples have, and why no more were peeled off."""
    kept = counted.counts["", ""]
    ends = sorted(counted.peel_ends.items(), key=lambda item: (-item[1], item[0]))
    known = {end.value: meaning for end, meaning in PEEL_ENDS.items()}
    return {
        "most": layer_count(run.config),
        "samples": [
            {"layers": layers, "rows": counted.layers[layers], "share": _ratio(counted.layers[layers], kept)}
            for layers in range(2, layer_count(run.config) + 1)
        ],
        "ended": [
            {"why": end, "rows": rows, "share": _ratio(rows, kept), "meaning": known.get(end, NOT_PEELED)}
            for end, rows in ends
        ],
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
                "example": "",
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


def _thresholds(values: Mapping[str, float | None], counted: Aggregate, found: Labelled) -> dict[str, Any]:
    """What the sliders compute from. ``both``: rows with both scores, or where the inpainting judge is off.

    Below the run's mask threshold these are audit rows, and ``mask_only`` are the others, never inpainted.
    ``labels``: what precision and recall are estimated from.
    """
    return {
        **values,
        "mask_edges": counted.both.mask_edges.tolist(),
        "inpainting_edges": counted.both.inpainting_edges.tolist(),
        "both": _cells(counted.both.counts),
        "mask_only": counted.mask_only.tolist(),
        "rows": counted.rows,
        "kept": counted.counts["", ""],
        "audit": _audit(counted, values),
        "labels": label_bins(found, counted.both.mask_edges, counted.both.inpainting_edges),
    }


def _audit(counted: Aggregate, values: Mapping[str, float | None]) -> dict[str, Any]:
    """What the audit slice says without bias, since its rows go through every stage whatever their scores.

    Shares come as [value, low, high] with Wilson's 95 % interval, None of nothing. ``inpainting_of_all`` is what
    rejected masks hide elsewhere: how often the inpainting judge passes, whatever the mask's score.
    """
    bins = counted.audited
    total = int(bins.counts.sum())
    i, j = (
        _bin_of(edges, values[judge])
        for judge, edges in zip(JUDGES, (bins.mask_edges, bins.inpainting_edges), strict=True)
    )
    mask, inpainting, both = bins.counts[i:].sum(), bins.counts[:, j:].sum(), bins.counts[i:, j:].sum()

    def share(part: int, whole: int) -> list[float] | None:
        return [part / whole, *wilson(part / whole, whole)] if whole else None

    return {name: counted.audit[name] for name in ("rows", "judged", "kept")} | {
        "mask": share(int(mask), total),
        "inpainting_of_good_masks": share(int(both), int(mask)),
        "inpainting_of_all": share(int(inpainting), total),
        "both": share(int(both), total),
    }


def _bin_of(edges: np.ndarray, threshold: float | None) -> int:
    return int(np.searchsorted(edges, threshold)) if threshold is not None else 0


def _domains(domains: Domains, rows: int) -> dict[str, Any]:
    def lines(column: str) -> list[dict[str, Any]]:
        return [line | {"share": _ratio(line["rows"], rows)} for line in domains.top(column, TOP_DOMAINS)]

    return {
        "hosts": len(domains.table),
        "forgotten": domains.forgotten,
        "by_share": lines("rows"),
        "by_failures": lines("failed"),
    }


def _ratio(part: float, whole: float) -> float:
    """Return part / whole, 0 where there is no whole."""
    return part / whole if whole else 0.0
