"""The charts that take people's labels: precision-recall, ROC and reliability of one judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

HEIGHT = 190  # pixels
_UNIT = {"domain": [0, 1]}


def label_charts(judge: str, curves: Mapping[str, Any]) -> dict[str, alt.LayerChart]:
    """Return name -> chart of a judge ("mask", "inpainting"), for those curves that have points.

    curves: ``curves.judge_curves``.
    """
    charts = {}
    told = f"{curves['labels']:,} labels, {curves['good']:,} good and {curves['bad']:,} bad"
    at = curves["at"] or {}
    if curves["pr"]:
        names = ("threshold", "x", "y", "low", "high")
        values = [dict(zip(names, line, strict=True)) for line in curves["pr"]]
        point = [at["recall"][0], at["precision"][0]] if at.get("precision") and at.get("recall") else None
        layers = [_band(values), _line(values, "recall", "precision")]
        charts[f"pr_{judge}"] = _finish(layers, point, f"Precision against recall of the {judge} judge, by {told}.")
    if curves["roc"]:
        values = [dict(zip(("threshold", "x", "y"), line, strict=True)) for line in curves["roc"]]
        rate = at.get("false_positive_rate")
        point = [rate[0], at["recall"][0]] if rate and at.get("recall") else None
        layers = [_diagonal(), _line(values, "bad ones passed", "good ones passed")]
        charts[f"roc_{judge}"] = _finish(layers, point, f"ROC curve of the {judge} judge, by {told}.")
    if curves["reliability"]:
        charts[f"reliability_{judge}"] = _reliability(judge, curves["reliability"], told)
    return charts


def _line(values: Sequence[Mapping[str, Any]], x: str, y: str) -> alt.Chart:
    return (
        alt.Chart(alt.Data(values=values))
        .mark_line(style="curve", strokeWidth=1.8, interpolate="linear")
        .encode(
            _axis(alt.X("x:Q"), x),
            _axis(alt.Y("y:Q"), y),
            alt.Order("threshold:Q", sort="descending"),
            tooltip=[
                alt.Tooltip("threshold:Q", title="threshold", format=".3f"),
                alt.Tooltip("x:Q", title=x, format=".1%"),
                alt.Tooltip("y:Q", title=y, format=".1%"),
            ],
        )
    )


def _band(values: Sequence[Mapping[str, Any]]) -> alt.Chart:
    band = alt.Chart(alt.Data(values=values)).mark_area(style="curve", opacity=0.16)
    return band.encode(_axis(alt.X("x:Q"), "recall"), _axis(alt.Y("low:Q"), "precision"), alt.Y2("high:Q"))


def _diagonal() -> alt.Chart:
    line = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(style="guide", strokeDash=[3, 3])
    return line.encode(alt.X("x:Q"), alt.Y("y:Q"))


def _reliability(judge: str, lines: Sequence[Mapping[str, Any]], told: str) -> alt.LayerChart:
    """Share of good ones against the mean score of each bin; on the diagonal a score is what it says."""
    values = [{name: line[name] for name in ("score", "good", "low", "high", "labels")} for line in lines]
    data = alt.Chart(alt.Data(values=values))
    tooltip = [
        alt.Tooltip("score:Q", title="mean score", format=".3f"),
        alt.Tooltip("good:Q", title="labelled good", format=".1%"),
        alt.Tooltip("low:Q", format=".1%"),
        alt.Tooltip("high:Q", format=".1%"),
        alt.Tooltip("labels:Q", format=","),
    ]
    x, y = _axis(alt.X("score:Q"), "score"), _axis(alt.Y("good:Q"), "labelled good")
    bars = data.mark_rule(style="whisker").encode(x, alt.Y("low:Q"), alt.Y2("high:Q"))
    dots = data.mark_point(style="curve", filled=True, opacity=1).encode(
        x, y, alt.Size("labels:Q", legend=None).scale(range=[25, 140], zero=True), tooltip=tooltip
    )
    text = f"Reliability of the {judge} score, by {told}: share of good ones against the score, in {len(lines)} bins."
    return _finish([_diagonal(), bars, dots], None, text)


def _finish(layers: list[alt.Chart], point: list[float] | None, description: str) -> alt.LayerChart:
    """Put layers together, with a mark at the run's own threshold."""
    if point:
        mark = alt.Chart(alt.Data(values=[{"x": point[0], "y": point[1]}])).mark_point(
            style="operating", size=70, strokeWidth=2, filled=False, opacity=1
        )
        layers = [*layers, mark.encode(alt.X("x:Q"), alt.Y("y:Q"))]
    return alt.LayerChart(layer=layers).properties(height=HEIGHT, description=description)


def _axis(channel: Any, title: str) -> Any:
    return channel.title(title).scale(**_UNIT).axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1], labelOverlap=True)
