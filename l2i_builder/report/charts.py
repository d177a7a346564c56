"""The charts of the page, as Vega-Lite specifications. Data are bins and counts, never rows.

Colours are named ranges and styles which the page fills in for light and dark; the only strings are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import altair as alt
from altair.utils.schemapi import debug_mode

from l2i_builder.report.bins import OUTCOMES
from l2i_builder.report.charts_labels import label_charts

HEIGHT = 220  # pixels
_SCORES = {"mask": "mask score", "inpainting": "inpainting score"}
_DISTRIBUTIONS: dict[str, tuple[str, Literal["log", "linear"], str, list[float] | None]] = {
    "short_side": ("shorter side, pixels", "log", "d", [128, 256, 512, 1024, 2048, 4096]),
    "aspect": ("width / height", "log", "~g", [0.25, 0.5, 1, 2, 4]),
    "aesthetic": ("aesthetic score", "linear", "~g", None),
    "mask_area": ("share of pixels in the mask", "linear", ".0%", None),
    "mask_components": ("connected components of the mask", "linear", "d", None),
}


def make_charts(numbers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name -> Vega-Lite specification, for those charts that have data. numbers: ``summary.summarize``."""
    # Unvalidated: the specifications have no shapes but those that the tests draw, and checking takes a second.
    with debug_mode(False):
        charts = _charts(numbers)
        return {name: chart.properties(width="container").to_dict(validate=False) for name, chart in charts.items()}


def _charts(numbers: Mapping[str, Any]) -> dict[str, alt.Chart | alt.LayerChart]:
    charts: dict[str, alt.Chart | alt.LayerChart] = {}
    for name in _SCORES:
        if _total(numbers["scores"][name]):
            charts[f"score_{name}"] = _scores(name, numbers["scores"][name])
    if numbers["density"]["cells"]:
        charts["density"] = _density(numbers)
    for name in _DISTRIBUTIONS:
        if _total(numbers["distributions"][name]):
            charts[f"distribution_{name}"] = _distribution(name, numbers["distributions"][name])
    for judge in _SCORES:
        charts |= label_charts(judge, numbers["labels"]["curves"][judge])
    if len(numbers["shards"]["points"]) > 1:
        charts["shards"] = _shards(numbers["shards"])
    return charts


def _scores(name: str, score: Mapping[str, Any]) -> alt.LayerChart:
    """Stacked histogram of a judge's scores by outcome, with the run's threshold and the slider's."""
    edges = score["edges"]
    present = [outcome for outcome in OUTCOMES if sum(score["counts"][outcome])]
    values = [
        {"from": edges[i], "to": edges[i + 1], "outcome": outcome, "order": order, "samples": count}
        for order, outcome in enumerate(OUTCOMES)
        for i, count in enumerate(score["counts"][outcome])
        if count
    ]
    bars = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(binSpacing=0.5)
        .encode(
            alt.X("from:Q", bin="binned", title=_SCORES[name]).scale(domain=[0, 1]).axis(tickCount=5),
            alt.X2("to:Q"),
            alt.Y("samples:Q", title="samples").stack("zero").axis(tickCount=4, format="~s"),
            alt.Color("outcome:N", title=None).scale(domain=list(OUTCOMES)).legend(values=present),
            alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("outcome:N"),
                alt.Tooltip("from:Q", format=".2f"),
                alt.Tooltip("to:Q", format=".2f"),
                alt.Tooltip("samples:Q", format=","),
            ],
        )
    )
    layers = [bars, *_rules("x", name, score["threshold"])]
    text = ", ".join(f"{sum(score['counts'][outcome]):,} {outcome}" for outcome in present)
    return _layer(layers, f"Histogram of {_SCORES[name]}s by outcome: {text}.", HEIGHT)


def _density(numbers: Mapping[str, Any]) -> alt.LayerChart:
    """Mask score against inpainting score, of samples which have both."""
    density, scores = numbers["density"], numbers["scores"]
    x, y = density["mask_edges"], density["inpainting_edges"]
    values = [
        {"x": x[i], "x2": x[i + 1], "y": y[j], "y2": y[j + 1], "samples": count} for i, j, count in density["cells"]
    ]
    cells = (
        alt.Chart(alt.Data(values=values))
        .mark_rect()
        .encode(
            alt.X("x:Q", title=_SCORES["mask"]).scale(domain=[0, 1]).axis(tickCount=10),
            alt.X2("x2:Q"),
            alt.Y("y:Q", title=_SCORES["inpainting"]).scale(domain=[0, 1]).axis(tickCount=5),
            alt.Y2("y2:Q"),
            alt.Color("samples:Q", title="samples").scale(type="log").legend(tickCount=4, format="~s"),
            tooltip=[
                alt.Tooltip("x:Q", title="mask from", format=".3f"),
                alt.Tooltip("y:Q", title="inpainting from", format=".3f"),
                alt.Tooltip("samples:Q", format=","),
            ],
        )
    )
    layers = [cells]
    for axis, name in (("x", "mask"), ("y", "inpainting")):
        layers += _rules(axis, name, scores[name]["threshold"])
    total = sum(cell[2] for cell in density["cells"])
    return _layer(layers, f"Density of mask score and inpainting score over {total:,} samples which have both.", 340)


def _rules(axis: str, name: str, threshold: float | None) -> list[alt.Chart]:
    """The run's threshold, and a second line that follows the slider (signal ``chosen_<name>``)."""
    if threshold is None:
        return []
    channel = alt.XDatum if axis == "x" else alt.YDatum
    param = alt.param(name=f"chosen_{name}", value=threshold)
    blank = alt.Chart(alt.Data(values=[{}]))
    return [
        blank.mark_rule(style="threshold").encode(channel(threshold, type="quantitative")),
        blank.mark_rule(style="chosen").encode(channel(alt.ExprRef(param.name), type="quantitative")).add_params(param),
    ]


def _distribution(name: str, bins: Mapping[str, Any]) -> alt.Chart:
    """Kept against rejected rows: each as shares of its own total, so that shapes compare."""
    title, scale, tick, ticks = _DISTRIBUTIONS[name]
    edges, values = bins["edges"], []
    for group, counts in bins["counts"].items():
        total = sum(counts)
        for i in range(len(edges) if total else 0):
            at = min(i, len(counts) - 1)  # the last edge ends the last step
            values.append({"from": edges[i], "outcome": group, "share": counts[at] / total, "rows": counts[at]})
    low, high = _span(bins)
    totals = ", ".join(f"{sum(counts):,} {group}" for group, counts in bins["counts"].items())
    return (
        alt.Chart(alt.Data(values=values))
        .mark_area(interpolate="step-after", line=True, fillOpacity=0.12, clip=True)
        .encode(
            alt.X("from:Q", title=title)
            .scale(type=scale, domain=[low, high], nice=False)
            .axis(format=tick, tickCount=5, values=ticks or alt.Undefined),
            alt.Y("share:Q", title=None).stack(None).axis(format=".0%", tickCount=3),
            alt.Color("outcome:N", title=None).scale(domain=["kept", "rejected"]).legend(None),
            tooltip=[
                alt.Tooltip("outcome:N"),
                alt.Tooltip("from:Q", format=tick),
                alt.Tooltip("rows:Q", format=","),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
        .properties(height=140, description=f"Distribution of {title}: {totals} rows, each as shares of its own total.")
    )


def _span(bins: Mapping[str, Any]) -> tuple[float, float]:
    """Return the edges around the bins that hold anything."""
    filled = [i for i, pair in enumerate(zip(*bins["counts"].values(), strict=True)) if any(pair)]
    return bins["edges"][filled[0]], bins["edges"][filled[-1] + 1]


def _shards(shards: Mapping[str, Any]) -> alt.LayerChart:
    """Kept and failed share along the run, with the run's kept share as a line."""
    values = [
        {"shard": point["first"], "last": point["last"], "outcome": outcome, "share": point[outcome]}
        for point in shards["points"]
        for outcome in ("kept", "failed")
    ]
    lines = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point={"size": 22} if len(shards["points"]) <= 60 else False, strokeWidth=1.5)
        .encode(
            alt.X("shard:Q", title="shard").axis(format="d", tickMinStep=1).scale(zero=False, nice=False),
            alt.Y("share:Q", title="share of the shard's rows").axis(format=".0%", tickCount=4),
            alt.Color("outcome:N", title=None)
            .scale(domain=[*OUTCOMES[:3], "failed"])
            .legend(values=["kept", "failed"]),
            tooltip=[
                alt.Tooltip("shard:Q", title="from shard", format="d"),
                alt.Tooltip("last:Q", title="to shard", format="d"),
                alt.Tooltip("outcome:N"),
                alt.Tooltip("share:Q", format=".2%"),
            ],
        )
    )
    text = f"Kept and failed share along {shards['shards']:,} shards; the run keeps {shards['share']:.1%}."
    rule = alt.Chart(alt.Data(values=[{}])).mark_rule(style="threshold")
    mean = rule.encode(alt.YDatum(shards["share"], type="quantitative"))
    return _layer([mean, lines], text, HEIGHT)


def _layer(layers: list[alt.Chart], description: str, height: int) -> alt.LayerChart:
    return alt.LayerChart(layer=layers).properties(height=height, description=description)


def _total(histogram: Mapping[str, Any]) -> int:
    return sum(map(sum, histogram["counts"].values()))
