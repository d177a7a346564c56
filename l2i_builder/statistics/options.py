"""What is asked of the statistics beyond their folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Scorer(Protocol):
    """Likeness of images and captions.

    Callable: images uint8 [H, W, 3] and texts, N of each -> float [N]. ``metric``: what the tables may call it;
    ``name``: the extractor.
    """

    metric: str
    name: str

    def __call__(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray: ...


class Finder(Protocol):
    """Finds objects. Callable: images uint8 [H, W, 3] -> for each the names of the objects' categories.

    ``name``, ``digest``: of the detector and its weights; ``threshold``: score from which an object counts.
    """

    name: str
    digest: str
    threshold: float
    categories: Sequence[str]

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[str]]: ...


@dataclass(frozen=True)
class Options:
    """sample: captions, and images, drawn of each group (paper: 100 K). seed: of the draw. stop_words: a file of words,
    "" = the project's own English list. compare: output folder or statistics.json of another run. told: called with
    what is done, how many and of how many.
    """

    sample: int = 100_000
    seed: int = 0
    stop_words: str = ""
    compare: str = ""
    scorer: Scorer | None = None
    finder: Finder | None = None
    workers: int = 0
    told: Callable[[str, int, int], None] = lambda what, done, total: None
