"""The statistics as tables of text, in the shape of the paper's: for the page, and for a dataset card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NAMES = {"all": "all rows", "kept": "kept"}
IMAGES = {"all": "audit slice", "kept": "kept"}  # what stands for all where images are needed
NAMED = "CLIP score"  # the only extractor whose numbers compare with the paper's
PAPER = {"LAION-A": "0.278 ± 0.037", "LAION-L2I": "0.273 ± 0.034"}
PAPER_TOKENS = (1, 3, 5, 7, 10, 15, 36)  # of LAION-A and LAION-L2I alike
PAPER_PEARSON = 0.930


@dataclass(frozen=True)
class Table:
    """head: names of the columns; rows: cells as text, the first one names the row; notes: sentences below it."""

    id: str
    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def make_tables(numbers: dict[str, Any]) -> list[Table]:
    """Return the tables of what was measured. numbers: ``statistics.collect``."""
    made = [_captions(numbers), _words(numbers), _likeness(numbers), _areas(numbers), _components(numbers)]
    made.append(_objects(numbers))
    return [table for table in made if table is not None]


def _captions(numbers: dict[str, Any]) -> Table:
    captions = numbers["captions"]
    rows = []
    for group, name in NAMES.items():
        line = captions[group]
        values = line["percentiles"] or ["–"] * len(captions["percentiles"])
        rows.append(
            [name, *map(str, values), f"{line['mean']:.1f}" if line["captions"] else "–", count(line["captions"])]
        )
    rows.append(["paper, both of its sets", *map(str, PAPER_TOKENS), "–", "100,000"])
    percentiles = [f"{p} %" for p in captions["percentiles"]]
    note = "Words per caption at percentiles, without stop words, symbols and punctuation."
    return Table("captions", "Caption length", ["", *percentiles, "mean", "captions"], rows, [note])


def _words(numbers: dict[str, Any]) -> Table:
    words = numbers["words"]
    r = words["pearson"]
    cells = ["this run", f"{r:.3f}" if r is not None else "too few words", count(words["top"])]
    cells += [count(words["words"][group]) for group in NAMES]
    rows = [cells, ["paper", f"{PAPER_PEARSON:.3f}", "5,000", "–", "–"]]
    head = ["", "Pearson r", "top words", "words in all", "words in kept"]
    notes = [f"Frequencies in kept against all captions, over the {words['asked']:,} words most frequent in all."]
    if words["top"] < words["asked"]:
        notes.append(f"The captions have no more than {words['top']:,} words: r is not comparable with the paper's.")
    return Table("words", "Word frequency", head, rows, notes)


def _likeness(numbers: dict[str, Any]) -> Table | None:
    rows, notes = [], []
    if likeness := numbers["likeness"]:
        rows.append([likeness["metric"], *(spread(likeness[group], 3) for group in NAMES), likeness["extractor"]])
        notes.append(f"Images: {_images(numbers)}.")
        if likeness["metric"] == NAMED:
            rows.append([f"{NAMED}, paper", *PAPER.values(), "not stated; LAION-A against LAION-L2I"])
    if similarity := numbers["similarity"]:
        rows.append(
            ["similarity in the metadata", *(spread(similarity[group], 3) for group in NAMES), "as given there"]
        )
    return Table("likeness", "Image and caption", ["", "all", "kept", "measured by"], rows, notes) if rows else None


def _areas(numbers: dict[str, Any]) -> Table:
    rows = []
    for area in numbers["areas"]:
        for group, name in IMAGES.items():
            rows.append([f"m > {area['threshold']}, {name}", *_distribution(area[group])])
    for group, name in NAMES.items():
        rows.append(
            [f"m > {numbers['segmented']['threshold']}, {name}, ledger", *_distribution(numbers["segmented"][group])]
        )
    head = ["", "mean", "25 %", "50 %", "75 %", "masks"]
    notes = ["Share of the image, ± standard deviation, and its quartiles.", f"Images: {_images(numbers)}."]
    notes.append("Ledger: every row that was segmented, also those whose image was not stored.")
    return Table("areas", "Mask area", head, rows, notes)


def _distribution(line: dict[str, Any]) -> list[str]:
    quartiles = [f"{value:.1%}" for value in line["quartiles"]] if line["quartiles"] else ["–"] * 3
    return [spread(line, 3), *quartiles, count(line["samples"])]


def _components(numbers: dict[str, Any]) -> Table:
    rows = []
    for part in numbers["components"]:
        for group, name in IMAGES.items():
            line = part[group]
            shares = [f"{n / line['samples']:.1%}" if line["samples"] else "–" for n in line["counts"]]
            rows.append([f"m > {part['threshold']}, {name}", *shares, spread(line, 2), count(line["samples"])])
    most = numbers["components"][0]["most"]
    head = ["", *map(str, range(most)), f"{most} or more", "mean", "masks"]
    notes = [
        "Share of masks with so many 8-connected components. Those under 100 pixels at 512 × 512 are dropped; at other "
        "sizes, those under the same share of the image.",
        f"Images: {_images(numbers)}.",
    ]
    return Table("components", "Connected components", head, rows, notes)


def _objects(numbers: dict[str, Any]) -> Table | None:
    objects = numbers["objects"]
    if not objects:
        return None
    total = {group: objects[group]["samples"] for group in IMAGES}
    rows = [["objects per image, mean", *(spread(objects[group], 2) for group in IMAGES)]]
    for name, *found in objects["categories"]:
        shares = (f"{n / whole:.1%}" if whole else "–" for n, whole in zip(found, total.values(), strict=True))
        rows.append([name, *shares])
    notes = [
        f"{objects['detector']}, boxes from score {objects['threshold']:g}, weights {objects['digest'][:16]}…; then "
        "the share of images that show a category. The paper counted with YOLOv7.",
        f"Images: {_images(numbers)}.",
    ]
    return Table("objects", "Objects", ["", *IMAGES.values()], rows, notes)


def _images(numbers: dict[str, Any]) -> str:
    images = numbers["drawn"]["images"]
    return f"{images['kept']:,} kept, {images['all']:,} of the audit slice"


def spread(line: dict[str, Any], digits: int) -> str:
    """Return mean ± standard deviation: "0.273 ± 0.034"; "–" of nothing."""
    if line["mean"] is None:
        return "–"
    return f"{line['mean']:.{digits}f}" + (f" ± {line['std']:.{digits}f}" if line["std"] is not None else "")


def count(value: int) -> str:
    """1234567 -> "1,234,567"."""
    return f"{value:,}"


def markdown(numbers: dict[str, Any]) -> str:
    """Return all tables as GitHub's Markdown, a level-3 heading each: for a dataset card."""
    parts = []
    for table in make_tables(numbers):
        lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
        cells = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts.append("\n".join([f"### {table.title}", "", *cells, "", *table.notes]))
    return "\n\n".join(parts) + "\n"
