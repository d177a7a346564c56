"""The figures, drawn once as SVG: the page needs no script. Each shows all and kept as shares of their own total.

Colours are those of the report's style sheet, which the page maps to its variables, so that figures turn dark with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

GREY, BLUE, TEXT, LINE = "#7d8a96", "#0072b2", "#58636d", "#e2e6ea"
FULL, HALF, HEIGHT = 960, 450, 170  # pixels of the page's column, and of half of it
_CELL = 0.04  # side of a cell of word frequencies, in powers of ten
_AXIS = {"labelColor": TEXT, "titleColor": TEXT, "gridColor": LINE, "domainColor": LINE, "tickColor": LINE}
_FONT = {"labelFontSize": 11, "titleFontSize": 11.5, "titleFontWeight": 400}
_CONFIG = {
    "background": None,
    "font": "sans-serif",
    "aria": False,
    "view": {"stroke": None},
    "axis": {**_AXIS, **_FONT, "domain": False, "titlePadding": 8},
    "axisX": {"grid": False, "domain": True},
}


def make_charts(numbers: dict[str, Any]) -> dict[str, str]:
    """Return name -> SVG of the figures that have data. numbers: ``statistics.collect``."""
    charts: dict[str, alt.Chart | alt.LayerChart] = {}
    captions = numbers["captions"]
    if captions["all"]["captions"]:
        last = max(i for i, n in enumerate(captions["all"]["histogram"]) if n)
        shown = {group: captions[group]["histogram"][: last + 1] for group in ("all", "kept")}
        charts["captions"] = _steps(shown, range(last + 2), "words per caption", "d", FULL)
    if len(numbers["words"]["list"]) > 2 and numbers["words"]["words"]["kept"]:
        charts["words"] = _words(numbers["words"])
    for area in [*numbers["areas"], {**numbers["segmented"], "ledger": True}]:
        if area["all"]["samples"] or area["kept"]["samples"]:
            name = "area_ledger" if "ledger" in area else f"area_{area['threshold']}"
            width = FULL if "ledger" in area else HALF
            counts = {group: area[group]["counts"] for group in ("all", "kept")}
            charts[name] = _steps(counts, area["edges"], f"share of pixels with m > {area['threshold']}", ".0%", width)
    for part in numbers["components"]:
        if part["kept"]["samples"] or part["all"]["samples"]:
            title = f"components of m > {part['threshold']}"
            charts[f"components_{part['threshold']}"] = _bars(part, title)
    if numbers["objects"] and (numbers["objects"]["kept"]["samples"] or numbers["objects"]["all"]["samples"]):
        charts["objects"] = _bars(numbers["objects"], "objects per image")
    return {name: _svg(chart) for name, chart in charts.items()}


def _steps(counts: dict[str, list[int]], edges: Sequence[float], title: str, tick: str, width: int) -> alt.LayerChart:
    """Two histograms as steps. counts: group -> n; edges: n + 1."""
    layers = []
    for group, colour in (("all", GREY), ("kept", BLUE)):
        total = sum(counts[group])
        if not total:
            continue
        shares = [n / total for n in counts[group]]
        values = [{"x": edge, "y": share} for edge, share in zip(edges, [*shares, shares[-1]], strict=True)]
        chart = alt.Chart(alt.Data(values=values))
        area = chart.mark_area(
            interpolate="step-after", color=colour, fillOpacity=0.16, line={"color": colour, "strokeWidth": 1.6}
        )
        layers.append(
            area.encode(
                alt.X("x:Q", title=title)
                .scale(domain=[edges[0], edges[-1]], nice=False)
                .axis(format=tick, tickCount=6),
                alt.Y("y:Q", title=None).axis(format=".0%", tickCount=4),
            )
        )
    return alt.LayerChart(layer=layers).properties(width=width, height=HEIGHT)


def _bars(part: dict[str, Any], title: str) -> alt.Chart:
    """Shares of 0, 1, … and "most or more", all and kept side by side."""
    labels = [*map(str, range(part["most"])), f"{part['most']}+"]
    values = [
        {"n": label, "group": group, "share": n / part[group]["samples"]}
        for group in ("all", "kept")
        if part[group]["samples"]
        for label, n in zip(labels, part[group]["counts"], strict=True)
    ]
    return (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            alt.X("n:N", title=title, sort=labels).axis(labelAngle=0),
            alt.XOffset("group:N", sort=["all", "kept"]),
            alt.Y("share:Q", title=None).axis(format=".0%", tickCount=4),
            alt.Color("group:N").scale(domain=["all", "kept"], range=[GREY, BLUE]).legend(None),
        )
        .properties(width=HALF, height=HEIGHT)
    )


def _words(words: dict[str, Any]) -> alt.LayerChart:
    """Relative frequency in kept against all captions, on logarithmic axes; words of the same cell are one point."""
    cells: Counter[tuple[int, int]] = Counter()
    for _, in_all, in_kept in words["list"]:
        if in_kept:
            shares = (in_all / words["words"]["all"], in_kept / words["words"]["kept"])
            cells[tuple(round(math.log10(share) / _CELL) for share in shares)] += 1  # type: ignore[index]
    values = [{"x": 10 ** (x * _CELL), "y": 10 ** (y * _CELL), "words": n} for (x, y), n in sorted(cells.items())]
    sides = [value[axis] for value in values for axis in ("x", "y")] or [0.01, 0.1]
    low, high = min(sides) / 1.3, max(sides) * 1.3
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    points = (
        alt.Chart(alt.Data(values=values))
        .mark_circle(color=BLUE, opacity=0.55)
        .encode(
            alt.X("x:Q", title="frequency in all captions", scale=scale).axis(format=".2~%", tickCount=3),
            alt.Y("y:Q", title="in kept captions", scale=scale).axis(format=".2~%", tickCount=3),
            alt.Size("words:Q").scale(range=[14, 160]).legend(None),
        )
    )
    diagonal = alt.Chart(alt.Data(values=[{"x": low, "y": low}, {"x": high, "y": high}])).mark_line(
        color=GREY, strokeDash=[4, 3], strokeWidth=1.2
    )
    line = diagonal.encode(alt.X("x:Q", scale=scale), alt.Y("y:Q", scale=scale))
    return alt.LayerChart(layer=[line, points]).properties(width=HALF, height=2 * HEIGHT)


def _svg(chart: alt.Chart | alt.LayerChart) -> str:
    import vl_convert

    # Unvalidated: the specifications have no shapes but those that the tests draw, and checking takes a second.
    with debug_mode(False):
        specification = chart.to_dict(validate=False)
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.vegalite_to_svg(specification, vl_version=version, config=_CONFIG))
