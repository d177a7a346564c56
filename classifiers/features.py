"""Feature vectors with what is known of their samples, computed once and kept in one file a task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from classifiers.scenes import Scene
from l2i_builder.errors import MetadataError

_COLUMNS = ("quality", "test", "kind", "scene", "source", "truth")


@dataclass(frozen=True)
class Labelled:
    """Feature vectors of one task, and the labels they are to be trained on or measured against.

    ``vectors``: family -> float32 [N, D]; ``quality`` float32 [N], the label P(good) in 0..1; ``test`` bool [N]:
    the side of the split; ``kind`` str [N]: how the sample came about; ``scene`` str [N]; ``source`` str [N]: the
    photograph, which scenes may share; ``truth`` float32 [N]: what the label was made of (masks: IoU; fills:
    distance from the true background); ``facts``: backbone, seed, counts: it goes to the card.
    """

    vectors: dict[str, np.ndarray]
    quality: np.ndarray
    test: np.ndarray
    kind: np.ndarray
    scene: np.ndarray
    source: np.ndarray
    truth: np.ndarray
    facts: dict[str, str]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {key: getattr(self, key) for key in _COLUMNS}
        named |= {f"vectors {family}": vectors for family, vectors in self.vectors.items()}
        named |= {f"fact {key}": np.array(value) for key, value in self.facts.items()}
        np.savez(path, allow_pickle=False, **named)

    @classmethod
    def load(cls, path: Path) -> Labelled:
        """Raises MetadataError when the file is missing or is no such file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                named = {key: file[key] for key in file.files}
            vectors = {key.removeprefix("vectors "): named[key] for key in named if key.startswith("vectors ")}
            facts = {key.removeprefix("fact "): str(named[key]) for key in named if key.startswith("fact ")}
            rest = {key: named[key] for key in _COLUMNS}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise MetadataError(
                f"labelled features {path} could not be read ({error}); make them: python -m classifiers.bootstrap"
            ) from error
        return cls(vectors=vectors, facts=facts, **rest)


@dataclass
class Collector:
    """Gathers labelled vectors one by one."""

    families: Iterable[str]

    def __post_init__(self) -> None:
        self._rows: dict[str, list[np.ndarray]] = {family: [] for family in self.families}
        self._known: list[tuple[float, bool, str, str, str, float]] = []

    def add(self, vectors: dict[str, np.ndarray], scene: Scene, kind: str, quality: float, truth: float) -> None:
        for family, rows in self._rows.items():
            rows.append(vectors[family])
        self._known.append((quality, scene.test, kind, scene.name, scene.sources[0], truth))

    def __len__(self) -> int:
        return len(self._known)

    def labelled(self, facts: dict[str, str]) -> Labelled:
        quality, test, kind, scene, source, truth = (np.array(column) for column in zip(*self._known, strict=True))
        vectors = {family: np.stack(rows).astype(np.float32) for family, rows in self._rows.items()}
        return Labelled(vectors, quality.astype(np.float32), test, kind, scene, source, truth.astype(np.float32), facts)
