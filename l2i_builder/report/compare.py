"""The run before this one: what it counted, and what has changed since."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from l2i_builder import storage
from l2i_builder.errors import L2IError, OutputError
from l2i_builder.output.manifest import RUN_FILE, difference
from l2i_builder.report.run import open_run
from l2i_builder.report.scan import scan_reasons

JSON_FILE = "report.json"
_COUNTED = ("digest", "finished_shards", "rows", "kept", "reasons")  # where these agree, nothing has happened since


def summary(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a later report compares itself with. numbers: of a report."""
    run = numbers["run"]
    return {
        "digest": str(run["digest"]),
        "version": str(run["version"]),
        "config": dict(run["config"]),
        "weights": dict(run["weights"]),
        "input": str(run["input"]["digest"]),
        "finished_shards": int(run["finished_shards"]),
        "rows": int(numbers["funnel"]["total"]),
        "kept": int(numbers["funnel"]["kept"]),
        "reasons": {str(line["reason"]): int(line["rows"]) for line in numbers["reasons"]},
        "thresholds": {judge: _number(numbers["thresholds"][judge]) for judge in ("mask", "inpainting")},
    }


def previous(out: str, numbers: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the summary of what this folder's report.json said before, "where" added, None where there is nothing.

    Where nothing was counted since, return what it compared itself with: writing a report again changes nothing. It
    may be damaged or of another version: then there is nothing to compare with.
    """
    url = storage.join(out, JSON_FILE)
    try:
        before = json.loads(storage.read_bytes(url))
        last = summary(before)
        kept_from_before = before.get("compared")
        now = summary(numbers)
        if all(last[name] == now[name] for name in _COUNTED):
            return checked(kept_from_before["previous"]) if kept_from_before else None
        return last | {"where": "the report of this folder before"}
    except (L2IError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def other_run(other: str) -> dict[str, Any]:
    """Return the summary of another run, "where" added. other: its output folder, or a report.json.

    Raises OutputError where it is no run and no report.
    """
    return _other(other) | {"where": other}


def _other(other: str) -> dict[str, Any]:
    url = other if other.endswith(".json") else storage.join(other, JSON_FILE)
    if other.endswith(".json") or storage.exists(url):
        try:
            return summary(json.loads(storage.read_bytes(url)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            raise OutputError(
                f"{url} is no report of this version ({type(problem).__name__}: {problem}). "
                "Write it anew with `l2i report`, or give the output folder of another run."
            ) from problem
    if not storage.exists(storage.join(other, RUN_FILE)):
        raise OutputError(
            f"{other} holds neither {JSON_FILE} nor {RUN_FILE}: give the output folder of a run to compare."
        )
    run = open_run(other)
    counts = scan_reasons(run)
    reasons: Counter[str] = Counter()
    for (reason, _), rows in counts.items():
        reasons[reason] += rows
    kept = reasons.pop("", 0)
    return {
        "digest": run.digest,
        "version": run.version,
        "config": run.config,
        "weights": run.weights,
        "input": run.input_digest,
        "finished_shards": len(run.finished),
        "rows": kept + sum(reasons.values()),
        "kept": kept,
        "reasons": dict(reasons),
        "thresholds": {},
    }


def checked(previous: Any) -> dict[str, Any]:
    """Return a summary as read back from a report.json. Raises TypeError, KeyError or ValueError of another shape."""
    return {
        **{name: str(previous[name]) for name in ("digest", "version", "input", "where")},
        **{name: int(previous[name]) for name in ("finished_shards", "rows", "kept")},
        **{name: dict(previous[name]) for name in ("config", "weights", "thresholds")},
        "reasons": {str(reason): int(rows) for reason, rows in dict(previous["reasons"]).items()},
    }


def compared(numbers: Mapping[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return what has changed: shares of input in points, and the settings that differ.

    reasons: one line for each reason of either run: rows and shares before and now; change: share now - before.
    """
    now = summary(numbers)
    reasons = []
    for reason in sorted(now["reasons"].keys() | before["reasons"].keys()):
        rows, rows_before = now["reasons"].get(reason, 0), before["reasons"].get(reason, 0)
        share, share_before = _ratio(rows, now["rows"]), _ratio(rows_before, before["rows"])
        line = {"reason": reason, "rows": rows, "rows_before": rows_before, "share": share}
        reasons.append(line | {"share_before": share_before, "change": share - share_before})
    share, share_before = _ratio(now["kept"], now["rows"]), _ratio(before["kept"], before["rows"])
    return {
        "previous": before,
        "same_run": now["digest"] == before["digest"],
        "kept": {"share": share, "share_before": share_before, "change": share - share_before},
        "settings": difference(settings(before), settings(now)),
        "reasons": reasons,
    }


def settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was made with, as one nested mapping; run: its config, weights, input (digest) and version."""
    return {**run["config"], "weights": run["weights"], "input": run["input"], "version": run["version"]}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
