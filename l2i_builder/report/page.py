"""Writing report.html and report.json."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from l2i_builder import storage
from l2i_builder.output.manifest import shard_name
from l2i_builder.report import text
from l2i_builder.report.aggregate import COLUMNS, Aggregate
from l2i_builder.report.charts import make_charts
from l2i_builder.report.galleries import COLUMNS as GALLERY_COLUMNS
from l2i_builder.report.galleries import Galleries, gallery_shards, plain, preview_index
from l2i_builder.report.run import ShardFiles, ahead, open_run, read_shard
from l2i_builder.report.strip import PANELS
from l2i_builder.report.summary import summarize
from l2i_builder.report.thresholds import thresholds

HERE = Path(__file__).parent


def write(out: str) -> str:
    """See ``report.write_report``."""
    run = open_run(out)
    limits = thresholds(run)
    values = [limit.value if limit else None for limit in limits.values()]
    counted, galleries = Aggregate(*values), Galleries(*values)
    looked_at = gallery_shards(run.finished)

    def read(number: int) -> tuple[ShardFiles, dict[str, tuple[int, int]], str]:
        if number not in looked_at:
            return read_shard(out, number, COLUMNS), {}, ""
        return read_shard(out, number, [*COLUMNS, *GALLERY_COLUMNS]), *preview_index(out, number)

    for shard, previews, problem in ahead(read, run.finished):
        counted.add(shard.manifest.shard, shard.ledger, shard.stats, shard.manifest.files)
        if previews:
            galleries.add(shard.manifest.shard, shard.ledger, previews)
        if problem:
            galleries.problems.append(problem)
    numbers = summarize(run, counted, limits)
    chosen = galleries.load(out)
    numbers["galleries"] = [plain(gallery) for gallery in chosen]
    numbers["problems"] = galleries.problems
    view = {"looked_at": len(looked_at), "galleries": chosen}
    page = render(numbers, make_charts(numbers), view)
    url = storage.join(out, "report.html")
    storage.write_bytes(storage.join(out, "report.json"), json.dumps(numbers, indent=1, allow_nan=False).encode())
    storage.write_bytes(url, page)
    return url


def render(numbers: dict[str, Any], charts: dict[str, Any], view: dict[str, Any]) -> bytes:
    """Return the page. numbers: as in report.json; charts: name -> specification; view: galleries and the like.

    The page may load nothing: its policy names the digests of its own two scripts, and images come as data.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(text, name) for name in ("count", "percent", "duration", "size", "visible")}
    environment.filters |= {"json": script_json, "data_url": data_url, "shard_name": shard_name}
    scripts = [_inert_script(_vega() if charts else ""), _inert_script((HERE / "page.js").read_text("utf-8"))]
    page = environment.get_template("template.html.j2").render(
        numbers=numbers,
        charts=charts,
        scripts=[Markup(script) for script in scripts],  # ours, not input
        hashes=[_digest(script) for script in scripts],
        style=Markup((HERE / "page.css").read_text("utf-8")),
        panels=PANELS,
        **view,
    )
    return page.encode("utf-8", "replace")


def script_json(value: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in, nor start markup."""
    data = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Markup(data)  # ASCII without <, > and &


def data_url(strip: bytes) -> Markup:
    """Return a WebP image as a data URL."""
    return Markup(f"data:image/webp;base64,{base64.b64encode(strip).decode()}")


def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes for."""
    import altair
    import vl_convert

    return str(
        vl_convert.javascript_bundle(
            "window.vegaEmbed = vegaEmbed;", vl_version=".".join(altair.SCHEMA_VERSION.split(".")[:2])
        )
    )


def _inert_script(script: str) -> str:
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("a script of the page would end its own element")
    return script


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
