"""Masks whose quality is known: true ones, segmenters' own, and true ones spoilt along the paper's three conditions.

The paper calls a mask bad where the object is largely incomplete, the mask contains background, or the selection
is too small. With the truth at hand, the first two are one number, IoU, and the third is the selected area.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from classifiers.scenes import SIDE, Scene, Segment, iou

BAD_IOU, GOOD_IOU = 0.7, 0.9
SMALL_AREA, LARGE_ENOUGH = 0.01, 0.03  # share of pixels selected
_TRIES = 6


def mask_quality(mask: np.ndarray, alpha: np.ndarray) -> float:
    """Return the label P(good): 0 at an IoU of 0.7 or an area of 1 %, 1 from 0.9 and 3 % on, linear between."""
    whole = (iou(mask, alpha) - BAD_IOU) / (GOOD_IOU - BAD_IOU)
    size = (float((mask > 127).mean()) - SMALL_AREA) / (LARGE_ENOUGH - SMALL_AREA)
    return float(np.clip(whole, 0, 1) * np.clip(size, 0, 1))


def masks_of(
    scene: Scene, segmenters: dict[str, Segment], rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (kind, mask uint8 [SIDE, SIDE]) for one scene; ``mask_quality`` labels them.

    The last segmenter, the cheapest, also sees disturbed copies of the picture, and unusual views of it: its errors
    are real ones.
    """
    name, cheap = list(segmenters.items())[-1]
    for_disturbing, for_views, for_spoiling = rng.spawn(3)
    results = [(name, segment(scene.image)) for name, segment in segmenters.items()]
    results += [(f"{name}-disturbed", cheap(disturbed(scene.image, for_disturbing)))]
    results += [(f"{name}-viewed", viewed(scene.image, cheap, for_views)) for _ in range(2)]
    yield from ((kind, mask) for kind, mask in results if mask.max() > 127 and not scene.chose_another(mask))
    if scene.certain:
        yield from _spoilt(scene, for_spoiling)


def _spoilt(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (kind, mask) of the true mask, as a segmenter would deliver it, and of spoilt ones."""
    yield "true", soften(scene.alpha, rng)
    for kind in rng.choice(list(SPOILT), 5, replace=False):
        for _ in range(_TRIES):  # some objects have no leg to cut: try until it changes anything
            spoilt = SPOILT[kind](scene, rng)
            if iou(spoilt, scene.alpha) < 0.97 and spoilt.max() > 127:
                yield kind, soften(hesitant(spoilt, scene.alpha, rng), rng)
                break


def viewed(image: np.ndarray, segment: Segment, rng: np.random.Generator) -> np.ndarray:
    """Return what a segmenter makes of a picture it sees in an unusual way: turned, small in a frame, too close, or
    in other colours. The mask lies where the picture does; the picture itself stays as it is."""
    what = rng.integers(4)
    if what == 0:
        turns = int(rng.integers(1, 4))
        return np.ascontiguousarray(np.rot90(segment(np.ascontiguousarray(np.rot90(image, turns))), -turns))
    if what == 1:  # far away, in a frame of its mean colour
        side = int(rng.integers(SIDE // 4, SIDE // 2))
        frame = np.broadcast_to(image.mean(axis=(0, 1)), image.shape).astype(np.uint8)
        top, left = (int(v) for v in rng.integers(0, SIDE - side, 2))
        frame[top : top + side, left : left + side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        return cv2.resize(segment(frame)[top : top + side, left : left + side], (SIDE, SIDE))
    if what == 2:  # only a part of it
        side = int(rng.integers(SIDE * 3 // 10, SIDE * 3 // 4))
        top, left = (int(v) for v in rng.integers(0, SIDE - side, 2))
        part = image[top : top + side, left : left + side]
        out = np.zeros((SIDE, SIDE), np.uint8)
        seen = segment(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
        out[top : top + side, left : left + side] = cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA)
        return out
    colours = np.stack([image[..., i] for i in rng.permutation(3)], axis=2).astype(np.float32)
    return segment(
        np.clip(255 - colours if rng.random() < 0.5 else 255 * (colours / 255) ** 3, 0, 255).astype(np.uint8)
    )


def hesitant(spoilt: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a spoilt mask that, most times, is not sure of its errors, as segmenters seldom are."""
    if rng.random() < 0.25:
        return spoilt
    surely = np.clip(rng.uniform(0.55, 1) + 0.25 * field(SIDE, rng, rng.uniform(10, 50)), 0.2, 1)
    return np.rint(alpha + (spoilt.astype(np.float32) - alpha) * surely).astype(np.uint8)


def soften(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a mask as segmenters deliver them: often at a lower resolution, blurred, not quite saturated."""
    if rng.random() < 0.2:
        return mask
    side = int(rng.choice([192, 256, 320, 384, 512]))
    sharp = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    small = np.asarray(cv2.GaussianBlur(sharp, (0, 0), float(rng.uniform(0.3, 2.0))))
    if rng.random() < 0.3:  # a soft doubt in places, as of hair or shadow
        doubt = field(side, rng, 24)
        small = np.clip(small - 0.35 * np.clip(doubt, 0, None) * cv2.GaussianBlur(small, (0, 0), 3), 0, 1)
    return np.rint(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) * 255).astype(np.uint8)


def field(side: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Return smooth noise float32 [side, side], standardised."""
    noise = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), scale)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def disturbed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image that makes segmenters err: noisy, blurred, washed out, or partly covered."""
    out = image.astype(np.float32)
    what = rng.integers(4)
    if what == 0:
        out += rng.normal(0, rng.uniform(30, 90), out.shape)
    elif what == 1:
        small = int(rng.integers(20, 56))
        out[:] = cv2.resize(cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA), (SIDE, SIDE))
    elif what == 2:
        out[:] = (out - 128) * rng.uniform(0.06, 0.25) + 128 + rng.normal(0, 8, out.shape)
    else:
        for _ in range(int(rng.integers(2, 6))):
            y, x = rng.integers(0, SIDE - 64, 2)
            h, w = rng.integers(48, 220, 2)
            out[y : y + h, x : x + w] = rng.uniform(0, 255, 3)
    return np.clip(out, 0, 255).astype(np.uint8)


def _cut_by_line(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Incomplete: what lies on one side of a line is missing."""
    ys, xs = np.nonzero(scene.alpha > 127)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIDE, :SIDE]
    along = np.cos(angle) * x + np.sin(angle) * y
    limit = np.quantile(np.cos(angle) * xs + np.sin(angle) * ys, rng.uniform(0.15, 0.9)) if len(xs) else 0
    return np.where(along < limit, scene.alpha, 0).astype(np.uint8)


def _lose_limbs(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Incomplete: the thin parts are missing."""
    radius = max(2, round(np.sqrt((scene.alpha > 127).sum()) * rng.uniform(0.05, 0.2)))
    return cv2.morphologyEx(scene.alpha, cv2.MORPH_OPEN, _disc(radius))


def _lose_blobs(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Incomplete: smooth holes and bites."""
    return np.where(field(SIDE, rng, rng.uniform(12, 50)) > rng.uniform(-0.5, 1.0), 0, scene.alpha).astype(np.uint8)


def _lose_colour(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Incomplete: one of the object's colours is missing, as where a segmenter stops at a pattern."""
    part = _colour_part(scene, scene.alpha > 127, rng)
    return np.where(part, 0, scene.alpha).astype(np.uint8)


def _add_colour(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Background included: a neighbouring region of one colour."""
    object_ = scene.alpha > 127
    reach = int(rng.integers(20, 120))
    near = cv2.dilate(object_.astype(np.uint8), _disc(reach)).astype(bool) & ~object_
    return np.maximum(scene.alpha, np.where(_colour_part(scene, near, rng), 255, 0)).astype(np.uint8)


def _colour_part(scene: Scene, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the smoothed part of a region (bool) that has one of its four main colours, bool [SIDE, SIDE]."""
    if where.sum() < 64:
        return np.zeros_like(where)
    lab = cv2.cvtColor(cv2.GaussianBlur(scene.image, (0, 0), 3), cv2.COLOR_RGB2LAB).astype(np.float32)
    colours = lab[where][:: max(1, int(where.sum()) // 4000)]
    centres = colours[rng.choice(len(colours), 4, replace=len(colours) < 4)]
    for _ in range(6):
        nearest = np.linalg.norm(colours[:, None] - centres, axis=2).argmin(axis=1)
        centres = np.stack(
            [colours[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(4)]
        )
    labels = np.linalg.norm(lab[:, :, None] - centres, axis=3).argmin(axis=2)
    part = ((labels == rng.integers(4)) & where).astype(np.uint8)
    return cv2.morphologyEx(part, cv2.MORPH_CLOSE, _disc(4)).astype(bool)


def _add_blob(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Background included: a smooth region beside the object, or grown around it."""
    blob = field(SIDE, rng, rng.uniform(20, 60)) > rng.uniform(0.6, 1.6)
    near = cv2.dilate((scene.alpha > 127).astype(np.uint8), _disc(int(rng.integers(15, 100)))).astype(bool)
    return np.maximum(scene.alpha, np.where(blob & near, 255, 0)).astype(np.uint8)


def _grow(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Background included: all around, as with a blurred outline."""
    return cv2.dilate(scene.alpha, _disc(int(rng.integers(8, 40))))


def _hull(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Background included: between the legs, or the whole box."""
    points = cv2.findNonZero((scene.alpha > 127).astype(np.uint8))
    out = scene.alpha.copy()
    if points is None:
        return out
    if rng.random() < 0.3:
        x, y, w, h = cv2.boundingRect(points)
        out[y : y + h, x : x + w] = 255
    else:
        cv2.fillConvexPoly(out, cv2.convexHull(points), 255)
    return out


def _add_ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Background included: a strip at one border, as ground or sky."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    across = [y, 1 - y, x, 1 - x][rng.integers(4)] + 0.05 * field(SIDE, rng, 40)
    return np.maximum(scene.alpha, np.where(across > rng.uniform(0.6, 0.92), 255, 0)).astype(np.uint8)


def _shrink(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Too small: only the core of the object."""
    depth = cv2.distanceTransform((scene.alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    return np.where(depth > depth.max() * rng.uniform(0.15, 0.85), scene.alpha, 0).astype(np.uint8)


def _speck(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Too small: a spot on the object, such as its eye."""
    ys, xs = np.nonzero(scene.alpha > 127)
    out = np.zeros_like(scene.alpha)
    if len(ys):
        i = rng.integers(len(ys))
        axes = tuple(int(a) for a in rng.integers(8, 60, 2))
        cv2.ellipse(out, (int(xs[i]), int(ys[i])), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    return np.minimum(out, scene.alpha)


def _elsewhere(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Background instead of the object: the true outline, moved."""
    shift = rng.integers(20, 200, 2) * rng.choice([-1, 1], 2)
    return cv2.warpAffine(scene.alpha, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32), (SIDE, SIDE))


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


SPOILT: dict[str, Callable[[Scene, np.random.Generator], np.ndarray]] = {
    "incomplete-line": _cut_by_line,
    "incomplete-limbs": _lose_limbs,
    "incomplete-blobs": _lose_blobs,
    "incomplete-colour": _lose_colour,
    "background-colour": _add_colour,
    "background-blob": _add_blob,
    "background-grown": _grow,
    "background-hull": _hull,
    "background-ground": _add_ground,
    "small-core": _shrink,
    "small-speck": _speck,
    "elsewhere": _elsewhere,
}
