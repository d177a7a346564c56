"""A small sample in the shape of LAION-Aesthetics: real photographs, a real web on loopback, and its real troubles."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pipelines.sample_laion import photos as _photos
from pipelines.sample_laion.metadata import write_metadata
from pipelines.sample_laion.web import SampleWeb

__all__ = ["Sample", "SampleWeb", "gather"]


@dataclass(frozen=True)
class Sample:
    """What ``gather`` left in its folder. ``notes``: a sentence per package that could not be had in full."""

    metadata: Path
    photos: int
    rows: int
    notes: list[str]


def gather(folder: str | Path) -> Sample:
    """Fill ``folder`` with photographs, ``photos.json``, ``metadata.parquet`` and what ``SampleWeb`` serves.

    What is already there is not fetched or written again. Missing packages are logged as warnings.
    Raises MetadataError when there is not a single photograph.
    """
    folder = Path(folder)
    present, notes = _photos.gather(folder)
    for note in notes:
        logging.getLogger(__name__).warning("sample: %d photographs; %s", len(present), note)
    return Sample(folder / "metadata.parquet", len(present), write_metadata(folder, present), notes)
