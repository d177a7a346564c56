"""The page: one self-contained file in the style of the report, without any script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from l2i_builder.output.manifest import shard_name
from l2i_builder.report import text
from l2i_builder.report.page import data_url
from l2i_builder.statistics.captions import LISTED
from l2i_builder.statistics.charts import BLUE, GREY, LINE, TEXT, make_charts
from l2i_builder.statistics.tables import make_tables

HERE = Path(__file__).parent
REPORT = HERE.parent / "report"
# A figure's colours, as the style sheet's variables.
_VARIABLES = {GREY: "neutral", BLUE: "kept", TEXT: "soft", LINE: "line"}


def render(numbers: dict[str, Any]) -> bytes:
    """Return the page of ``statistics.collect``'s numbers, as UTF-8."""
    environment = Environment(
        loader=FileSystemLoader([HERE, REPORT]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(text, name) for name in text.FILTERS}
    environment.filters |= {"data_url": data_url, "shard_name": shard_name}  # of the report's parts
    colours = "".join(
        f'.figure svg [{kind}="{colour}"] {{ {kind}: var(--{name}); }}\n'
        for colour, name in _VARIABLES.items()
        for kind in ("fill", "stroke")
    )
    style = (REPORT / "page.css").read_text("utf-8") + (HERE / "page.css").read_text("utf-8") + colours
    environment.globals |= {"hashes": [], "style": Markup(style)}  # ours, not input
    charts = {name: Markup(_fluid(svg)) for name, svg in make_charts(numbers).items()}  # made of numbers alone
    view = {
        "numbers": numbers,
        "tables": {table.id: table for table in make_tables(numbers)},
        "charts": charts,
        "words": _listed(numbers["words"]),
    }
    return environment.get_template("statistics.html.j2").render(view).encode("utf-8", "replace")


def _fluid(svg: str) -> str:
    """Return an SVG that is as wide as its place."""
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)


def _listed(words: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the most frequent words with their shares in all and in kept, and the share that fills a bar."""
    lines = [
        {"word": word, "all": in_all / words["words"]["all"], "kept": in_kept / max(1, words["words"]["kept"])}
        for word, in_all, in_kept in words["list"][:LISTED]
    ]
    most = max((max(line["all"], line["kept"]) for line in lines), default=1) or 1
    return [line | {"all_bar": line["all"] / most, "kept_bar": line["kept"] / most} for line in lines]
