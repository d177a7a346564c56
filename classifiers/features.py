"""Feature vectors with what is known of their samples: computed once, kept by their content, one file a task."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from classifiers.scenes import Scene
from l2i_builder.errors import MetadataError
from l2i_builder.judge import features as family_code
from l2i_builder.judge import measures, standing
from l2i_builder.judge.backbone import Backbone
from l2i_builder.judge.features import Maps
from l2i_builder.judge.judges import Extractor

_COLUMNS = ("quality", "weight", "test", "kind", "scene", "source", "truth")
_VIEWS = 24  # maps of views kept in memory: a scene's masks share their picture


@dataclass(frozen=True)
class Labelled:
    """Feature vectors of one task, and the labels they are to be trained on or measured against.

    ``vectors``: family -> float32 [N, D]; ``quality`` float32 [N], the label P(good) in 0..1; ``weight`` float32
    [N]: what it counts in training, beside 1 for a person's label; ``test`` bool [N]: the side of the split;
    ``kind`` str [N]: how the sample came about; ``scene`` str [N]; ``source`` str [N]: the photograph, which scenes
    may share; ``truth`` float32 [N]: what the label was made of (masks: IoU; fills: distance from the true
    background); ``facts``: backbone, seed, counts: it goes to the card.
    """

    vectors: dict[str, np.ndarray]
    quality: np.ndarray
    weight: np.ndarray
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

    def take(self, chosen: np.ndarray) -> Labelled:
        """Return the samples of an index or a flag for each."""
        rest = {name: getattr(self, name)[chosen] for name in _COLUMNS}
        return replace(self, vectors={name: vectors[chosen] for name, vectors in self.vectors.items()}, **rest)

    def __len__(self) -> int:
        return len(self.quality)


def mixed(bootstrapped: Labelled, people: Labelled, bootstrap_weight: float, family: str) -> Labelled:
    """Return both sets of labels as one, bootstrapped ones weighing ``bootstrap_weight`` beside a person's 1.

    Raises MetadataError when they were made with different backbones.
    """
    ours = replace(
        bootstrapped,
        vectors={family: bootstrapped.vectors[family]},
        weight=bootstrapped.weight * np.float32(bootstrap_weight),
        facts=bootstrapped.facts | {"bootstrap weight": f"{bootstrap_weight:g}"},
    )
    return joined(ours, people)


def joined(one: Labelled, other: Labelled) -> Labelled:
    """Return the samples of both; counts of people's labels add up. Raises MetadataError where backbones differ."""
    if one.facts["backbone sha256"] != other.facts["backbone sha256"]:
        raise MetadataError(
            f"features of two backbones do not mix: {one.facts['backbone']} and {other.facts['backbone']}; "
            "make the bootstrapped labels with the backbone of the run's heads"
        )
    facts = one.facts | other.facts
    for name in ("labels of people", "labels without pixels"):
        facts[name] = str(int(one.facts.get(name, 0)) + int(other.facts.get(name, 0)))
    facts["runs"] = " ".join(data.facts["runs"] for data in (one, other) if "runs" in data.facts)
    columns = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in _COLUMNS}
    vectors = {name: np.concatenate([one.vectors[name], other.vectors[name]]) for name in other.vectors}
    return Labelled(vectors=vectors, facts=facts, **columns)


class FeatureCache:
    """Feature vectors by content: of the sample, the backbone's weights, and the code that makes them.

    One SQLite file that several processes may share; what is there is not computed again, and a change of code,
    weights or pixels never meets an old vector. ``folder`` None keeps nothing.
    """

    def __init__(self, backbone: Backbone, folder: Path | None) -> None:
        self.backbone, self._maps = backbone, OrderedDict[bytes, Maps]()
        code = b"".join(Path(str(module.__file__)).read_bytes() for module in (family_code, measures, standing))
        self._made = hashlib.sha256(code + backbone.digest.encode()).digest()
        self._extractors: dict[str, Extractor] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._store = sqlite3.connect(folder / "features.sqlite" if folder else ":memory:", timeout=60)
        self._store.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")

    def __call__(self, families: Iterable[str], *sample: np.ndarray) -> dict[str, np.ndarray]:
        """Return family -> float32 [D] of one sample (``judge.features`` says which arrays)."""
        content = hashlib.sha256(self._made)
        for array in sample:
            content.update(str((array.shape, array.dtype)).encode() + np.ascontiguousarray(array).tobytes())
        out = {}
        for family in families:
            key = hashlib.sha256(content.digest() + family.encode()).digest()
            row = self._store.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
            if row is None:
                out[family] = np.asarray(self._vector(family, sample), np.float32)
                self._store.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?)", (key, out[family].tobytes()))
                self._store.commit()
            else:
                out[family] = np.frombuffer(row[0], np.float32)
        return out

    def _vector(self, family: str, sample: tuple[np.ndarray, ...]) -> np.ndarray:
        extractor = self._extractors.setdefault(family, Extractor(self.backbone, family))
        return extractor.family.vector(sample, [self.maps(view) for view in extractor.family.views(sample)])

    def maps(self, view: np.ndarray) -> Maps:
        """Return what the backbone makes of one view; the last ones are remembered."""
        key = hashlib.sha256(str(view.shape).encode() + np.ascontiguousarray(view).tobytes()).digest()
        if key not in self._maps:
            extractor = self._extractors.setdefault("inpainting-plain", Extractor(self.backbone, "inpainting-plain"))
            self._maps[key] = next(iter(extractor.maps([view])))
            if len(self._maps) > _VIEWS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]


@dataclass
class Collector:
    """Gathers labelled vectors one by one."""

    families: Iterable[str]

    def __post_init__(self) -> None:
        self._rows: dict[str, list[np.ndarray]] = {family: [] for family in self.families}
        self._known: list[tuple[float, float, bool, str, str, str, float]] = []

    def add(
        self, vectors: dict[str, np.ndarray], scene: Scene, kind: str, quality: float, truth: float, weight: float = 1.0
    ) -> None:
        for family, rows in self._rows.items():
            rows.append(vectors[family])
        self._known.append((quality, weight, scene.test, kind, scene.name, scene.sources[0], truth))

    def __len__(self) -> int:
        return len(self._known)

    def labelled(self, facts: dict[str, str]) -> Labelled:
        quality, weight, test, kind, scene, source, truth = (np.array(c) for c in zip(*self._known, strict=True))
        vectors = {family: np.stack(rows).astype(np.float32) for family, rows in self._rows.items()}
        numbers = {"quality": quality, "weight": weight, "truth": truth}
        return Labelled(
            vectors=vectors,
            facts=facts,
            test=test,
            kind=kind,
            scene=scene,
            source=source,
            **{name: values.astype(np.float32) for name, values in numbers.items()},
        )
