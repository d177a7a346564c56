"""Writing report.html and report.json."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from l2i_builder import storage
from l2i_builder.output.manifest import layer_count, shard_name
from l2i_builder.report import text
from l2i_builder.report.aggregate import COLUMNS, FURTHER, Aggregate
from l2i_builder.report.charts import make_charts
from l2i_builder.report.compare import JSON_FILE, compared, other_run, previous
from l2i_builder.report.cost import FOLDERS
from l2i_builder.report.galleries import COLUMNS as GALLERY_COLUMNS
from l2i_builder.report.galleries import (
    MAX_BYTES,
    Galleries,
    Gallery,
    Sample,
    gallery_shards,
    in_turn,
    plain,
    preview_index,
)
from l2i_builder.report.labelled import read_labelled
from l2i_builder.report.options import ON_PAGE, Options
from l2i_builder.report.run import Run, ledger_of, open_run, read_stats, sizes
from l2i_builder.report.scan import Block, ahead, scan
from l2i_builder.report.strip import PANELS
from l2i_builder.report.summary import summarize
from l2i_builder.report.thresholds import thresholds

HERE = Path(__file__).parent
SIDECAR = "report-files"  # folder of the pages beside the report
MORE = 300  # strips of such a page, at most
READERS = 8  # shards whose previews are read at a time


def write(out: str, options: Options) -> str:
    """See ``report.write_report``."""
    run = open_run(out)
    # What may be named wrongly is read first, before minutes of counting.
    other = other_run(options.compare) if options.compare else None
    found = read_labelled(run, options.labels)
    limits = thresholds(run)
    mask, inpainting = (limit.value if limit else None for limit in limits.values())
    values = (mask, inpainting)
    counted = count(run, values, options)
    numbers = summarize(run, counted, limits, found, _stored(run), options.prices)
    galleries = Galleries(*values, options.samples, found)
    looked_at = gallery_shards(run.finished, found)
    _look(run, galleries, looked_at)
    chosen = galleries.load(out)
    for line in numbers["reasons"]:
        line["example"] = galleries.examples.get(line["reason"], "")
    before = other or previous(out, numbers)
    numbers["compared"] = compared(numbers, before) if before else None
    numbers["galleries"] = [plain(gallery) for gallery in chosen]
    numbers["problems"] = galleries.problems
    view = {"looked_at": len(looked_at), "galleries": _arrange(out, run, chosen)}
    view["changes"] = {line["reason"]: line for line in numbers["compared"]["reasons"]} if before else {}
    view["disputed"] = any(gallery.name.startswith("disputed") for gallery in chosen)
    page = render("page.html.j2", ["page.js"], {"numbers": numbers, "charts": make_charts(numbers), **view})
    url = storage.join(out, "report.html")
    storage.write_bytes(storage.join(out, JSON_FILE), json.dumps(numbers, indent=1, allow_nan=False).encode())
    storage.write_bytes(url, page)
    return url


def count(run: Run, values: tuple[float | None, float | None], options: Options) -> Aggregate:
    """Count all finished shards. values: thresholds of the mask and the inpainting judge. Raises OutputError."""
    total, done = Aggregate(*values), 0

    def part(blocks: Iterator[Block]) -> Aggregate:
        result = Aggregate(*values)
        for block in blocks:
            result.add(block, read_stats(run.out, block.numbers))
        return result

    def told(shards: int) -> None:
        nonlocal done
        done += shards
        options.told(done, len(run.finished))

    columns = (*COLUMNS, *FURTHER) if layer_count(run.config) > 2 else COLUMNS
    for one in scan(run, columns, part, told):
        total.merge(one)
    return total


def _stored(run: Run) -> dict[str, int]:
    """Return folder -> bytes of the finished shards' files."""
    finished = set(run.finished)
    return {
        folder: sum(size for number, size in sizes(run.out, folder).items() if number in finished) for folder in FOLDERS
    }


def _look(run: Run, galleries: Galleries, numbers: set[int]) -> None:
    """Offer the samples of some shards to the galleries."""
    ordered = sorted(numbers & set(run.finished))
    columns = (*GALLERY_COLUMNS, "layers") if layer_count(run.config) > 2 else GALLERY_COLUMNS
    parts = ahead(
        lambda number: (ledger_of(run.out, number, columns), *preview_index(run.out, number)), ordered, READERS
    )
    for number, (ledger, previews, problem) in zip(ordered, parts, strict=True):
        galleries.add(number, ledger, previews)
        if problem:
            galleries.problems.append(problem)


def _arrange(out: str, run: Run, galleries: list[Gallery]) -> list[dict[str, Any]]:
    """Return what the page shows of each gallery; write what it has no room for to pages of their own."""
    shown: dict[str, list[Sample]] = {gallery.name: [] for gallery in galleries}
    for gallery, sample in in_turn(galleries, ON_PAGE, MAX_BYTES):
        shown[gallery.name].append(sample)
    arranged, written = [], 0
    for gallery in galleries:
        here = {id(sample) for sample in shown[gallery.name]}
        rest = [sample for sample in gallery.samples if id(sample) not in here]
        links = []
        for part in _parts(rest):
            written += 1
            links.append(f"{SIDECAR}/{written:03d}.html")
            page = render("more.html.j2", [], {"run": run, "gallery": gallery, "samples": part})
            storage.write_bytes(storage.join(out, links[-1]), page)
        head = {"title": gallery.title, "text": gallery.text, "offered": gallery.offered, "links": links}
        arranged.append(head | {"samples": shown[gallery.name], "chosen": len(gallery.samples)})
    for name in storage.list_names(storage.join(out, SIDECAR), ".html"):
        if re.fullmatch(r"\d{3,}\.html", name) and int(name[:-5]) > written:  # of an earlier, larger report
            storage.delete(storage.join(out, SIDECAR, name))
    return arranged


def _parts(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Yield the samples in parts that make a page of at most 8 MB."""
    part: list[Sample] = []
    for sample in samples:
        if part and (len(part) == MORE or sum(one.size for one in part) + sample.size > MAX_BYTES):
            yield part
            part = []
        part.append(sample)
    if part:
        yield part


def render(template: str, scripts: list[str], values: dict[str, Any]) -> bytes:
    """Return a page made from a template, with the viewer's script and those named; with Vega if it has ``charts``.

    The page may load nothing: its policy names the digests of its own scripts, and images come as data.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(text, name) for name in text.FILTERS}
    environment.filters |= {"json": script_json, "data_url": data_url, "shard_name": shard_name}
    environment.filters["tojson_text"] = lambda value: json.dumps(value, indent=1, ensure_ascii=True)
    sources = [(HERE / name).read_text("utf-8") for name in ["viewer.js", *scripts]]
    if values.get("charts"):
        sources.insert(0, _vega())
    inert = [_inert_script(source) for source in sources]
    environment.globals |= {
        "panels": PANELS,
        "scripts": [Markup(script) for script in inert],  # ours, not input
        "hashes": [_digest(script) for script in inert],
        "style": Markup((HERE / "page.css").read_text("utf-8")),
    }
    return environment.get_template(template).render(values).encode("utf-8", "replace")


def script_json(value: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in, nor start markup."""
    data = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Markup(data)  # ASCII without <, > and &


def data_url(strip: bytes) -> Markup:
    """Return a WebP image as a data URL."""
    return Markup(f"data:image/webp;base64,{base64.b64encode(strip).decode()}")


@cache
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
