"""All numbers of the statistics, as JSON types."""

from __future__ import annotations

from typing import Any

import numpy as np

from l2i_builder import __version__
from l2i_builder.report.run import Run, ledger_of, open_run
from l2i_builder.report.scan import ahead
from l2i_builder.sample import UNKNOWN
from l2i_builder.statistics import captions
from l2i_builder.statistics.drawing import READERS, Pool, Wanted, draw_images, draw_rows
from l2i_builder.statistics.images import AREAS, COMPONENTS, Group, measure
from l2i_builder.statistics.options import Options

BINS = 20  # of mask areas
MOST = 5  # components, and more, are one bar
MOST_OBJECTS = 15  # likewise
CATEGORIES = 20  # most frequent ones are listed
GROUPS = ("all", "kept")
QUANTILES = (25, 50, 75)


def collect(out: str, options: Options) -> dict[str, Any]:
    """See ``statistics.collect``."""
    stop = captions.read_stop_words(options.stop_words)
    run = open_run(out)
    pools = draw_rows(
        run, options.sample, options.seed, lambda done, total: options.told("reading ledgers", done, total)
    )
    wanted = draw_images(run, options.sample, options.seed)
    groups = measure(run, wanted, options)
    found = {name: captions.words(_captions(pool), stop) for name, pool in pools.items()}
    return {
        "version": __version__,
        "run": run.digest,
        "settings": {
            "sample": options.sample,
            "seed": options.seed,
            "stop_words": options.stop_words or "English list of the project",
            "stop_word_count": len(stop),
        },
        "drawn": _drawn(run, pools, wanted, groups),
        "captions": {
            "percentiles": list(captions.PERCENTILES),
            **{name: captions.lengths(counts) for name, (_, counts) in found.items()},
        },
        "words": captions.frequencies({name: flat for name, (flat, _) in found.items()}),
        "similarity": _similarity(pools),
        "segmented": _segmented(pools),
        "areas": [_areas(groups, i, threshold) for i, threshold in enumerate(AREAS)],
        "components": [_components(groups, i, threshold) for i, threshold in enumerate(COMPONENTS)],
        "likeness": _likeness(groups, options),
        "objects": _objects(groups, options),
        "compared": None,
    }


def _captions(pool: Pool) -> Any:
    import pyarrow as pa

    return pool.lines["caption"] if pool.lines is not None else pa.chunked_array([pa.array([], pa.string())])


def _drawn(run: Run, pools: dict[str, Pool], wanted: list[Wanted], groups: dict[str, Group]) -> dict[str, Any]:
    """Say what each number was taken from. audit: rows of the drawn shards' audit slice, without_image: why some of
    those that were drawn have none.
    """
    drawn = sum(len(one.all) for one in wanted)
    reasons: dict[str, int] = {}
    ledgers = ahead(lambda one: ledger_of(run.out, one.number, ("key", "reason", "audit")), wanted, READERS)
    rows = 0
    for one, ledger in zip(wanted, ledgers, strict=True):
        for line in ledger.filter(ledger["audit"]).to_pylist():
            rows += 1
            if line["key"] in one.all:
                reasons[line["reason"] or "kept"] = reasons.get(line["reason"] or "kept", 0) + 1
    return {
        "captions": {name: {"drawn": len(pool.drawn), "of": pool.rows} for name, pool in pools.items()},
        "images": {name: len(group) for name, group in groups.items()},
        "shards": {"read": len(wanted), "of": len(run.finished), "planned": run.planned_shards},
        "audit": {"rows": rows, "drawn": drawn, "reasons": dict(sorted(reasons.items()))},
    }


def _similarity(pools: dict[str, Pool]) -> dict[str, Any] | None:
    """Return mean and standard deviation of the similarity that the metadata give; None where they give none."""
    result = {name: _moments(_known(pool, "similarity")) for name, pool in pools.items()}
    return result if any(line["samples"] for line in result.values()) else None


def _known(pool: Pool, column: str) -> np.ndarray:
    """Return a column of the drawn rows where it is known, float64 [m]."""
    values = pool.lines[column].to_numpy() if pool.lines is not None else np.zeros(0)
    return values[values != UNKNOWN]


def _segmented(pools: dict[str, Pool]) -> dict[str, Any]:
    """Return the areas of m > 0.5 that the ledger has of every row that was segmented, also of those without image."""
    return _histogram({name: _known(pool, "mask_area") for name, pool in pools.items()}, 0.5)


def _moments(values: np.ndarray) -> dict[str, Any]:
    return {
        "samples": len(values),
        "mean": float(values.mean()) if len(values) else None,
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
    }


def _areas(groups: dict[str, Group], column: int, threshold: float) -> dict[str, Any]:
    """Return the histogram of the share of pixels above a threshold, mean and quartiles, of both groups."""
    return _histogram({name: groups[name].areas[:, column] for name in GROUPS}, threshold)


def _histogram(areas: dict[str, np.ndarray], threshold: float) -> dict[str, Any]:
    result: dict[str, Any] = {"threshold": threshold, "edges": [i / BINS for i in range(BINS + 1)]}
    for name, values in areas.items():
        counts = np.histogram(values, BINS, (0, 1))[0].tolist()
        quartiles = [float(value) for value in np.percentile(values, QUANTILES)] if len(values) else None
        result[name] = {"counts": counts, "quartiles": quartiles, **_moments(values)}
    return result


def _components(groups: dict[str, Group], column: int, threshold: float) -> dict[str, Any]:
    """Return how many masks have 0, 1, … ``MOST`` or more components."""
    result: dict[str, Any] = {"threshold": threshold, "most": MOST}
    for name in GROUPS:
        values = groups[name].components[:, column]
        counts = np.bincount(np.minimum(values, MOST), minlength=MOST + 1).tolist()
        result[name] = {"counts": counts, **_moments(values)}
    return result


def _likeness(groups: dict[str, Group], options: Options) -> dict[str, Any] | None:
    """Return the likeness of images and captions, under the name that its extractor allows."""
    if options.scorer is None:
        return None
    values = {name: _moments(groups[name].likeness) for name in GROUPS}
    return {"metric": options.scorer.metric, "extractor": options.scorer.name, **values}


def _objects(groups: dict[str, Group], options: Options) -> dict[str, Any] | None:
    """Return objects per image, and the share of images that show each of the most frequent categories."""
    if options.finder is None:
        return None
    finder = options.finder
    result: dict[str, Any] = {
        "detector": finder.name,
        "digest": finder.digest,
        "threshold": finder.threshold,
        "most": MOST_OBJECTS,
    }
    for name in GROUPS:
        values = np.array([len(image.objects) for image in groups[name].images], np.int64)
        counts = np.bincount(np.minimum(values, MOST_OBJECTS), minlength=MOST_OBJECTS + 1).tolist()
        result[name] = {"counts": counts, **_moments(values)}
    every = groups["all"].categories + groups["kept"].categories
    frequent = sorted(every, key=lambda name: (-every[name], name))[:CATEGORIES]
    shown = {name: groups[name].categories for name in GROUPS}
    result["categories"] = [[name, shown["all"][name], shown["kept"][name]] for name in frequent]
    return result
