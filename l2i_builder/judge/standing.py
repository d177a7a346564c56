"""What stands out of a picture by itself, as the backbone's features have it, and how far a mask agrees.

Nobody tells these measures where the object is: they compare a mask with the strongest principal components of the
features, and with their distance from those at the frame's border, where most pictures show background. A mask that
follows neither is doubtful, however well it fits its own outline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l2i_builder.judge.measures import Measures, log_of

COMPONENTS = 12  # of the features, in which distances are taken
STRONGEST = 3  # of them that may be the object by themselves
_EPS = 1e-6


def standing(stages: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Measures:
    """Compare a selection with what stands out at each stage.

    stages: standardised features float32 [c, h, w], fine to coarse; targets: the selection at the same sizes,
    float32 [h, w], 0..1.
    """
    out: Measures = {}
    for level, (maps, target) in enumerate(zip(stages, targets, strict=True)):
        places = components(maps)
        alike = [abs(_correlation(places[:, k], target.ravel())) for k in range(min(STRONGEST, places.shape[1]))]
        away = _unlike_border(places, *target.shape)
        both, either = np.minimum(away, target).sum(), np.maximum(away, target).sum()
        out |= {
            f"first_component_{level}": alike[0],
            f"best_component_{level}": log_of(1 - max(alike)),
            f"components_{level}": log_of(1 - min(float(np.square(alike).sum()), 1.0)),
            f"unlike_border_{level}": float(both / (either + _EPS)),
            f"unlike_border_correlation_{level}": _correlation(away.ravel(), target.ravel()),
            f"unlike_border_outside_{level}": float((away * (1 - target)).sum() / ((1 - target).sum() + 1)),
        }
    return out


def components(maps: np.ndarray) -> np.ndarray:
    """Return the strongest principal components of features [c, h, w] at every place, float64 [h * w, k], k <= 12.

    In torch, whose CPU threads the judge sets. Their signs are arbitrary: nothing here depends on them.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(maps.reshape(len(maps), -1).T, np.float64))  # places x channels
    x = x - x.mean(dim=0)
    if x.shape[1] <= x.shape[0]:
        _, vectors = torch.linalg.eigh(x.T @ x)
        places = x @ vectors.flip(1)[:, :COMPONENTS]
    else:  # the same from the smaller of the two matrices
        values, vectors = torch.linalg.eigh(x @ x.T)
        places = (vectors * values.clamp(min=0).sqrt()).flip(1)[:, :COMPONENTS]
    return places.numpy()


def _unlike_border(places: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return how unlike the frame's border every place is, float64 [h, w] in 0..1."""
    border = np.ones((height, width), bool)
    edge = max(1, min(height, width) // 14)
    border[edge:-edge, edge:-edge] = False
    there = places[border.ravel()]
    spread = there.std(axis=0) + 0.3 * places.std(axis=0) + 1e-3
    away = np.sqrt((((places - there.mean(axis=0)) / spread) ** 2).mean(axis=1))
    low, high = np.percentile(away, [10, 95])
    return np.clip((away - low) / (high - low + _EPS), 0, 1).reshape(height, width)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() < 1e-4 or b.std() < 1e-4:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
