"""The dataset card: README.md with the front matter that Hugging Face and ``datasets`` read, then text for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from l2i_builder.publish.markdown import escaped
from l2i_builder.publish.pictures import Sheet
from l2i_builder.report.run import Run
from l2i_builder.sample import Reason

MEANINGS = {
    "train": "Kept by both filters, and in no other split.",
    "test": "LL2I-E: kept by both filters, drawn by a hash of the key.",
    "la": "LA: unfiltered, whatever the filters said; for comparison with the filtered ones.",
}
LISTED_FILES = 20  # metadata files named in the card
_SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B")),
)
SPDX = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # what the front matter takes as licence; else "other" and its name


@dataclass(frozen=True)
class About:
    """What only the publisher knows. name: "" = that of the folder; license: SPDX identifier or words; contact: where
    people ask for removal; url: of the dataset's page; citation: of the dataset; date: of publication, YYYY-MM-DD."""

    name: str = ""
    license: str = ""
    contact: str = ""
    url: str = ""
    citation: str = ""
    date: str = ""


def write_card(
    run: Run,
    about: About,
    facts: Mapping[str, Any],
    statistics: str,
    splits: Sequence[Mapping[str, Any]],
    withheld: int,
    sheets: Sequence[Sheet],
    options: str = "",
) -> bytes:
    """Return the card as Markdown.

    facts: of ``facts.collect_facts``; statistics: Markdown, "" where there are none; splits: {"name",
    "samples", "shards", "bytes"} each; options: of the publish command, to say how to reproduce it.
    """
    config = run.config
    reasons = {line["reason"]: line["rows"] for line in facts["reasons"]}
    identifier = about.license.lower() if SPDX.fullmatch(about.license.lower()) else "other"
    view = {
        "name": about.name,
        "license_id": identifier,
        "license_name": about.license if identifier == "other" and about.license else "",
        "size_category": next((word for most, word in _SIZES if _total(splits) < most), "n>1T"),
        "splits": [
            {**split, "size": size_of(split["bytes"]), "meaning": MEANINGS.get(split["name"], "")} for split in splits
        ],
        "withheld": withheld,
        "sheets": sheets,
        "refused": any("rejected" in sheet.name for sheet in sheets),
        "load_name": json.dumps(about.url.removeprefix("https://huggingface.co/datasets/") or "path/to/this/folder"),
        "side": config["image"]["size"],
        "foreground_threshold": config["layers"]["foreground_threshold"],
        "config": config,
        "facts": facts,
        "statistics": statistics,
        "licence_text": _licence(about),
        "opt_out_text": _opt_outs(config, reasons),
        "unsafe": reasons.get(Reason.UNSAFE.value, 0),
        "takedown_text": _takedowns(about, reasons),
        "version": run.version,
        "digest": run.digest,
        "input_digest": run.input_digest,
        "derived": facts["derived_from"],
        "publish_options": options,
        "config_yaml": yaml.safe_dump(config, sort_keys=True, allow_unicode=True, default_flow_style=False),
        "weights": sorted(run.weights.items()),
        "files": run.files[:LISTED_FILES],
        "more_files": max(0, len(run.files) - LISTED_FILES),
        "citation": about.citation,
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown: ``text`` escapes what is not ours
        keep_trailing_newline=True,
    )
    tools: dict[str, Any] = {
        "yaml": _quoted,
        "text": escaped,
        "number": "{:,}".format,
        "interval": _interval,
        "source": _source,
    }
    environment.globals.update(tools, percent=_percent)
    page = environment.get_template("card.md.j2").render(view)
    return re.sub(r"\n{3,}", "\n\n", page).encode()


def size_of(count: int) -> str:
    """Return bytes for people: 1.2 GB."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"


def _total(splits: Sequence[Mapping[str, Any]]) -> int:
    return sum(split["samples"] for split in splits)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=True)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _interval(value: Sequence[float] | None) -> str:
    return "–" if value is None else f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"


def _source(line: Mapping[str, Any]) -> str:
    if line["source"] == "labels":
        return f"{line['labels']:,} labels of people, audit slice of this run"
    if line["source"] == "card":
        return f"the filter's card: {line['labels']:,} other pictures"
    return "not known"


def _licence(about: About) -> str:
    if about.license:
        return (
            f"This collection (masks, layers, scores, structure) is published under: {escaped(about.license)}. The "
            "photographs and captions in it belong to those who made them; their licences were not checked."
        )
    return (
        "No licence is given for this collection. The photographs and captions in it belong to those who made them; "
        "their licences were not checked. Do not redistribute it unless you know that you may."
    )


def _opt_outs(config: Mapping[str, Any], reasons: Mapping[str, int]) -> str:
    robots = ", and robots.txt of every host" if config["fetch"].get("respect_robots_txt") else ""
    if not config["fetch"].get("respect_opt_out"):
        return "Opt-out signals in the answers of the web were **not** honoured; the `opt_out` column has them."
    refused = reasons.get(Reason.OPTED_OUT.value, 0)
    return (
        f"Opt-outs were honoured: answers that forbid use for machine learning (`X-Robots-Tag`, `Content-Usage`)"
        f"{robots} were refused: {refused:,} rows."
    )


def _takedowns(about: About, reasons: Mapping[str, int]) -> str:
    where = f"write to {escaped(about.contact)}" if about.contact else "ask whoever published this collection"
    gone = reasons.get(Reason.TAKEN_DOWN.value, 0)
    return f"To have a picture removed, {where}, naming its URL or key. Taken down so far: {gone:,} rows."
