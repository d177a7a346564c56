"""The statistics that the paper publishes of its dataset, kept against all, as a page and as JSON.

Captions and words, areas and components of masks, likeness of image and caption, objects in an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2i_builder.statistics.options import Options

JSON_FILE, PAGE = "statistics.json", "statistics.html"


def collect(out: str, options: Options | None = None) -> dict[str, Any]:
    """Count the statistics of an output folder's finished shards, on a seeded sample; return them as JSON types.

    Nothing is written. The same folder and options give the same numbers. Raises OutputError where the folder holds no
    run or a damaged one.
    """
    from l2i_builder.statistics.collecting import collect as work
    from l2i_builder.statistics.options import Options

    return work(out, options or Options())


def write_statistics(out: str, options: Options | None = None) -> str:
    """Write ``statistics.json`` and ``statistics.html`` into an output folder; return the URL of the page.

    Raises OutputError as ``collect``.
    """
    from l2i_builder import storage
    from l2i_builder.output.manifest import pretty
    from l2i_builder.statistics.comparing import compared, read_statistics
    from l2i_builder.statistics.options import Options
    from l2i_builder.statistics.page import render

    options = options or Options()
    other = read_statistics(options.compare) if options.compare else None  # before minutes of counting
    numbers = collect(out, options)
    numbers["compared"] = compared(numbers, other) if other else None
    url = storage.join(out, PAGE)
    storage.write_bytes(storage.join(out, JSON_FILE), pretty(numbers))
    storage.write_bytes(url, render(numbers))
    return url
