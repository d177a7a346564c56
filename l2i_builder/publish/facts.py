"""The numbers of a dataset card: funnel, filters with their precision, opt-outs, settings; each from its one source."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from l2i_builder import storage
from l2i_builder.output.manifest import RUN_FILE, RunManifest
from l2i_builder.output.rules import rule_of
from l2i_builder.report.curves import judge_curves
from l2i_builder.report.labelled import Labelled, read_labelled
from l2i_builder.report.reasons import EXPLANATIONS
from l2i_builder.report.run import Run
from l2i_builder.report.scan import scan_reasons
from l2i_builder.report.steps import make_funnel, share
from l2i_builder.report.thresholds import thresholds
from l2i_builder.sample import Reason

STATISTICS = "statistics.json"
TASKS = ("mask", "inpainting")
FEWEST = 30  # people's labels of kept samples below which an interval says little, and the card's says more


def collect_facts(run: Run) -> dict[str, Any]:
    """Return the numbers of a run that a card shows, JSON types only. Reads all ledgers once."""
    manifest = RunManifest.from_json(storage.read_bytes(storage.join(run.out, RUN_FILE)))
    counts = scan_reasons(run)
    funnel = make_funnel(counts, run.finished_rows)
    steps, before = [], funnel.rows[0][1]
    for label, rows in funnel.rows:
        of_input, of_previous = share(rows, funnel.rows[0][1]), share(rows, before)
        steps.append({"step": label, "rows": rows, "of_previous": of_previous, "of_input": of_input})
        before = rows
    return {
        "counts": [[reason, stage, rows] for (reason, stage), rows in sorted(counts.items())],
        "funnel": steps,
        "rows": funnel.rows[0][1],
        "kept": funnel.kept,
        "reconciles": funnel.reconciles,
        "reasons": _reasons(counts),
        "filters": _filters(run, manifest),
        "derived_from": manifest.derived_from,
    }


def read_statistics(out: str) -> dict[str, Any]:
    """Return what ``l2i stats`` wrote, {} where there is nothing or something else."""
    url = storage.join(out, STATISTICS)
    try:
        found = json.loads(storage.read_bytes(url)) if storage.exists(url) else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _reasons(counts: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    rows: Counter[str] = Counter()
    for (reason, _), count in counts.items():
        if reason:
            rows[reason] += count
    known = {reason.value: EXPLANATIONS[reason] for reason in Reason}
    ordered = sorted(rows.items(), key=lambda item: (-item[1], item[0]))
    return [{"reason": reason, "rows": count, "meaning": known.get(reason, "")} for reason, count in ordered]


def _filters(run: Run, manifest: RunManifest) -> list[dict[str, Any]]:
    """Return what is known of both filters. source: "labels", "card" or "" (nothing is known)."""
    found, limits = read_labelled(run), thresholds(run)
    lines = []
    for task in TASKS:
        limit = limits[task]
        line: dict[str, Any] = {"task": task, "enabled": bool(run.judge(task).get("enabled", True))}
        line |= {"threshold": limit.value if limit else None, "source": "", "precision": None, "recall": None}
        head = rule_of(manifest, task).head
        card = head.card if head else {}
        line |= {"head": card.get("name", ""), "labels": 0}
        line |= _measured(found, task, line["threshold"]) or _by_card(card, line["threshold"])
        lines.append(line)
    return lines


def _measured(found: Labelled, task: str, threshold: float | None) -> dict[str, Any]:
    """Return precision and recall by people's labels of the audit slice, {} where there are too few."""
    curves = judge_curves(found, task, threshold)
    at = curves["at"]
    if not at or curves["labels"] < FEWEST or at["precision"] is None:
        return {}
    return {
        "source": "labels",
        "labels": curves["labels"],
        "precision": at["precision"],
        "recall": at["recall"],
    }


def _by_card(card: dict[str, Any], threshold: float | None) -> dict[str, Any]:
    """Return the precision that a head's card gives for its own threshold, {} where the run had another."""
    test = card.get("test", {})
    precision = test.get("field precision")
    if not precision or threshold is None or abs(threshold - card["threshold"]) > 1e-6:
        return {}
    return {"source": "card", "labels": test.get("field samples", 0), "precision": precision}
