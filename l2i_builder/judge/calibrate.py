"""Thresholds for a wanted precision, from people's labels of the audit slice.

The audit slice is a random draw of all rows that ran through every stage whatever the scores, and its queue shows
each sample with a known probability: weighted by its inverse, its labels say without bias how good what a threshold
keeps is. What is kept is counted on the whole audit slice, labelled or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder.errors import OutputError
from l2i_builder.labels import AUDIT, consensus, read_labels
from l2i_builder.metrics import threshold_for
from l2i_builder.report.run import ledger_of, open_run
from l2i_builder.report.thresholds import thresholds

TASKS = ("mask", "inpainting")
HALF_WIDTH = 0.05  # of the interval of a precision that is worth deciding on
LEAST = 10  # good ones and bad ones, below which a threshold is a guess
REPEATS = 1000
_READERS = 8
_COLUMNS = ("key", "audit", *(f"{task}_{what}" for task in TASKS for what in ("score", "head")))

Interval = tuple[float, float, float]  # value, and the ends of its 95 % interval
UNKNOWN_INTERVAL = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Audited:
    """The audit slice of a run. Arrays [N]: scores float (NaN: that judge did not score), good float (share of the
    reviewers who say so, NaN: not labelled), weight float (1 / probability of being shown, 0: not labelled)."""

    scores: dict[str, np.ndarray]
    good: dict[str, np.ndarray]
    weight: np.ndarray
    heads: dict[str, list[str]]  # which scored


@dataclass(frozen=True)
class Calibration:
    """What is proposed for one judge. Shares are of audit rows with a mask; for the inpainting judge, of those
    whose mask is kept. ``recall``: share of the good ones that are kept. ``advice``: what the numbers lack, or ""."""

    task: str
    heads: list[str]
    labels: int
    good: int
    bad: int
    current: float | None  # the run's own threshold
    current_precision: Interval = UNKNOWN_INTERVAL
    current_yield: Interval = UNKNOWN_INTERVAL
    threshold: Interval = UNKNOWN_INTERVAL
    precision: Interval = UNKNOWN_INTERVAL
    recall: Interval = UNKNOWN_INTERVAL
    kept: Interval = UNKNOWN_INTERVAL
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """Both judges, and what both together keep of the audit rows with a mask (``precision``: mask and inpainting
    are good)."""

    run: str
    wanted: float
    audit_rows: int
    judges: list[Calibration] = field(default_factory=list)
    precision: Interval = UNKNOWN_INTERVAL
    kept: Interval = UNKNOWN_INTERVAL

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN as null."""
        return _plain(asdict(self))


def calibrate(out: str, labels: str = "", precision: float = 0.9, seed: int = 0) -> Report:
    """Propose thresholds for a run from audit labels.

    out: the run's folder or URL. labels: where the labels are, empty = the run's folder. precision: share of good
    ones wanted among what each judge keeps, 0..1. Raises OutputError where run or labels cannot be read.
    """
    run = open_run(out)
    audited = read_audit(run.out, run.finished, read_labels(labels or out))
    own = thresholds(run)
    shown, judges = ~np.isnan(audited.scores["mask"]), []
    for task in TASKS:
        limit = own[task]
        found = propose(audited, task, shown, precision, limit.value if limit else None, seed)
        judges.append(found)
        if math.isnan(decided := _decided(found)):
            return Report(run.digest, precision, len(audited.weight), judges)
        with np.errstate(invalid="ignore"):
            shown = shown & (audited.scores[task] >= decided)
    masks = ~np.isnan(audited.scores["mask"])
    both = np.minimum(audited.good["mask"], audited.good["inpainting"])
    return Report(
        run.digest,
        precision,
        len(audited.weight),
        judges,
        _share(both, audited.weight, shown, seed),
        _plain_share(shown[masks], seed),
    )


def read_audit(out: str, shards: list[int], labels: pa.Table) -> Audited:
    """Gather the audit rows of a run's ledgers, and what people say of them; six columns are read."""

    def audit_rows(shard: int) -> pa.Table:
        ledger = ledger_of(out, shard, _COLUMNS).replace_schema_metadata(None)
        return ledger.filter(ledger["audit"])

    with ThreadPoolExecutor(_READERS) as pool:  # object stores answer slowly
        found = list(pool.map(audit_rows, shards))
    rows = pa.concat_tables(found) if found else None
    if rows is None or not len(rows):
        raise OutputError(
            f"{out} has no audit rows: build with ingest.audit_rate above 0, so that filters can be told."
        )
    said = consensus(labels)
    said = said.filter(pc.and_(pc.equal(said["queue"], AUDIT), pc.greater(said["weight"], 0)))
    place = {key: i for i, key in enumerate(said["key"].to_pylist())}
    at = np.array([place.get(key, -1) for key in rows["key"].to_pylist()])
    known = at >= 0

    def column(name: str, otherwise: float) -> np.ndarray:
        out_ = np.full(len(at), otherwise)
        out_[known] = said[name].to_numpy()[at[known]]
        return out_

    scores = {task: rows[f"{task}_score"].to_numpy().astype(float) for task in TASKS}
    return Audited(
        scores={task: np.where(values < 0, np.nan, values) for task, values in scores.items()},
        good={task: column(f"{task}_good", math.nan) for task in TASKS},
        weight=column("weight", 0.0),
        heads={task: sorted(set(rows[f"{task}_head"].to_pylist()) - {""}) for task in TASKS},
    )


def propose(
    audited: Audited, task: str, shown: np.ndarray, wanted: float, current: float | None, seed: int = 0
) -> Calibration:
    """Return the lowest threshold of one judge at which what is kept is as good as wanted.

    shown: bool [N], the rows that reach the judge. Intervals are of resampled labels (1,000 draws).
    """
    score, good = audited.scores[task], audited.good[task]
    judged = shown & ~np.isnan(score)
    labelled = judged & ~np.isnan(good) & (audited.weight > 0)
    s, q, w = score[labelled], good[labelled], audited.weight[labelled]
    good_ones = int((q >= 0.5).sum())
    found = Calibration(task, audited.heads[task], len(q), good_ones, len(q) - good_ones, current)

    def at(threshold: float) -> tuple[Interval, Interval, Interval]:
        with np.errstate(invalid="ignore"):
            kept = judged & (score >= threshold)
        recall = _interval(lambda i: _ratio((w * q * (s >= threshold))[i], (w * q)[i]), len(q), seed)
        return _share(good, audited.weight, kept, seed), recall, _plain_share(kept[shown], seed)

    if current is not None:
        then, _, held = at(current)
        found = replace(found, current_precision=then, current_yield=held)
    if not found.good or not found.bad:
        return replace(found, advice=_too_few(found, audited, wanted, math.nan))

    def choose(i: np.ndarray) -> float:  # rounded down: the threshold as people write it keeps what it was chosen to
        return math.floor(threshold_for(s[i], q[i], wanted, w[i]) * 1e4) / 1e4

    chosen = _interval(choose, len(q), seed)
    precision, recall, kept = at(chosen[0])
    found = replace(found, threshold=chosen, precision=precision, recall=recall, kept=kept)
    return replace(found, advice=_too_few(found, audited, wanted, _kish(w)))


def _decided(found: Calibration) -> float:
    if not math.isnan(found.threshold[0]):
        return found.threshold[0]
    return found.current if found.current is not None else math.nan


def _too_few(found: Calibration, audited: Audited, wanted: float, effective: float) -> str:
    """Say how many more labels make the precision known within ``HALF_WIDTH``, "" where there are enough."""
    kept = found.kept[0] if found.kept[0] > 0 else 0.5
    needed = wanted * (1 - wanted) * (1.96 / HALF_WIDTH) ** 2 / kept
    if effective > 0:
        needed *= found.labels / effective
    rarer = max(LEAST - found.good, LEAST - found.bad, 0)
    share = min(found.good, found.bad) / found.labels if found.labels else 0
    more = max(needed - found.labels, rarer / share if share else rarer)
    missed = found.precision[0] < wanted - 1e-9
    said = ""
    if missed:
        said = f"No threshold reaches a precision of {wanted:.2f} on these labels; this is the best there is. "
    if more >= 1:
        there = int(np.isfinite(audited.scores[found.task]).sum())
        said += (
            f"{found.labels} audit labels of the {found.task} are few: about {math.ceil(more)} more make its precision "
            f"known within ±{HALF_WIDTH:.2f} (l2i review, queue audit; the audit slice has {there} rows to label)."
        )
    return said.strip()


def _kish(weight: np.ndarray) -> float:
    """Return how many equally weighted samples these weights are worth (Kish)."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def _share(good: np.ndarray, weight: np.ndarray, chosen: np.ndarray, seed: int) -> Interval:
    """Return the weighted mean quality of the labelled rows among the chosen, with its interval."""
    chosen = chosen & ~np.isnan(good) & (weight > 0)
    q, w = good[chosen], weight[chosen]
    return _interval(lambda i: _ratio((w * q)[i], w[i]), len(q), seed)


def _plain_share(flags: np.ndarray, seed: int) -> Interval:
    """Return the share of true ones with Wilson's interval, which needs no draws."""
    n = len(flags)
    if not n:
        return UNKNOWN_INTERVAL
    p, z = float(flags.mean()), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    total = float(whole.sum())
    return float(part.sum()) / total if total else math.nan


def _interval(measure: Callable[[np.ndarray], float], count: int, seed: int) -> Interval:
    """Return a measure of all samples, and the 95 % interval of it over resampled ones."""
    if not count:
        return UNKNOWN_INTERVAL
    rng = np.random.default_rng(seed)
    values = np.array([measure(rng.integers(count, size=count)) for _ in range(REPEATS)])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (math.nan, math.nan)
    return measure(np.arange(count)), float(low), float(high)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
