"""What the judges measure beside the backbone: plain numbers of masks, boundaries, colours and filled holes.

Every function takes one sample and returns named floats in a fixed order, finite for any input. All measures are
taken at ``WORK`` x ``WORK`` pixels, so that they do not depend on the size of the image; a new measure, or a
changed one, is a new version of a judge's features (``judge.FEATURES``) and wants new heads.
"""

from __future__ import annotations

import cv2
import numpy as np

WORK = 256  # side at which everything here is measured
BAND = 6  # width of the inner and outer bands beside a boundary, in pixels at WORK
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of m, as in the paper's mask statistics
_EPS = 1e-6

Measures = dict[str, float]


def log_of(value: float) -> float:
    """Return the logarithm of a share or ratio >= 0 that is mostly small: its size then matters, not its tail."""
    return float(np.log(max(value, 0.0) + 0.01))


def resized(array: np.ndarray, side: int) -> np.ndarray:
    """Return an image or mask at side x side: area averages when shrinking, bicubic when growing."""
    shrink = min(array.shape[:2]) >= side
    return cv2.resize(array, (side, side), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)


def disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def bands(selected: np.ndarray, width: int = BAND) -> tuple[np.ndarray, np.ndarray]:
    """Return the inner and the outer band (bool [H, W]) of a selection (bool [H, W]), ``width`` pixels each.

    The frame is no boundary: what lies beyond it counts as more of the same.
    """
    return several_bands(selected, width)[0]


def several_bands(selected: np.ndarray, *widths: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ``bands`` of several widths, for the distances of one."""
    other = ~selected
    inside, outside = (cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3) for region in (selected, other))
    return [(selected & (inside <= width + 0.5), other & (outside <= width + 0.5)) for width in widths]


def mean_where(values: np.ndarray, where: np.ndarray, empty: float = 0.0) -> float:
    return float(values[where].mean()) if where.any() else empty


def mask_shape(mask: np.ndarray) -> Measures:
    """Size, pieces, outline, place and softness of a mask. mask float32 [WORK, WORK], 0..1."""
    areas = [float((mask > level).mean()) for level in LEVELS]
    selected = mask > 0.5
    out = {f"log_area_{level}": float(np.log(area + 1e-4)) for level, area in zip(LEVELS, areas, strict=True)}
    total = float(mask.mean()) + _EPS
    doubt = float((4 * mask * (1 - mask)).mean())
    outline = float((selected ^ cv2.erode(selected.astype(np.uint8), disc(1)).astype(bool)).sum())
    out |= {
        "fringe": log_of(1 - (areas[4] + _EPS) / (areas[0] + _EPS)),
        "fringe_half": log_of(1 - (areas[3] + _EPS) / (areas[1] + _EPS)),
        "doubt": log_of(doubt / total),
        "doubt_per_outline": log_of(doubt * WORK * WORK / (outline + 8)),
        "doubt_inside": log_of(mean_where(1 - mask, selected, 1.0)),
        "doubt_outside": log_of(float(mask[~selected].sum() / (selected.sum() + 64))),
        "doubt_deep": log_of(_deep_doubt(mask, selected)),
    }
    return out | _pieces(selected) | _outline(selected, outline) | _place(selected)


def _deep_doubt(mask: np.ndarray, selected: np.ndarray) -> float:
    """Doubt away from the outline, where a good mask has none, relative to the selection's size."""
    inner, outer = bands(selected, 4)
    deep = ~(inner | outer)
    return float((4 * mask * (1 - mask))[deep].sum() / (selected.sum() + 64))


def _pieces(selected: np.ndarray) -> Measures:
    count, _, stats, _ = cv2.connectedComponentsWithStats(selected.astype(np.uint8), connectivity=8)
    sizes = np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1].astype(np.float64)
    gaps, _, gap_stats, _ = cv2.connectedComponentsWithStats((~selected).astype(np.uint8), connectivity=4)
    rest = np.sort(gap_stats[1:, cv2.CC_STAT_AREA])[::-1].astype(np.float64)
    area = float(selected.sum()) + 1
    return {
        "pieces": float(np.log1p((sizes >= 16).sum())),
        "specks": float(np.log1p(count - 1)),
        "largest_piece": float(sizes[0] / area) if len(sizes) else 0.0,
        "second_piece": log_of(float(sizes[1] / area) if len(sizes) > 1 else 0.0),
        "gaps": float(np.log1p(gaps - 1)),
        "gap_area": log_of(float(rest[1:].sum() / area)),
    }


def _outline(selected: np.ndarray, outline: float) -> Measures:
    area = float(selected.sum())
    points = cv2.findNonZero(selected.astype(np.uint8))
    if points is None:
        return {"compactness": 0.0, "solidity": 0.0, "extent": 0.0, "roughness": 0.0}
    _, _, width, height = cv2.boundingRect(points)
    hull = cv2.contourArea(cv2.convexHull(points)) + 1
    smooth = cv2.morphologyEx(
        cv2.morphologyEx(selected.astype(np.uint8), cv2.MORPH_OPEN, disc(4)), cv2.MORPH_CLOSE, disc(4)
    )
    return {
        "compactness": 4 * np.pi * area / (outline + 1) ** 2,
        "solidity": area / hull,
        "extent": area / (width * height),
        "roughness": log_of(float((smooth.astype(bool) ^ selected).sum() / (outline + 8))),
    }


def _place(selected: np.ndarray) -> Measures:
    """How much of the frame's sides is selected. Where the object stands is the photographer's choice, no quality."""
    sides = [float(side.mean()) for side in (selected[0], selected[-1], selected[:, 0], selected[:, -1])]
    return {
        "border_top": sides[0],
        "border_bottom": sides[1],
        "border_sides": (sides[2] + sides[3]) / 2,
        "borders": float(sum(side > 0.02 for side in sides)),
    }


def lab_of(image: np.ndarray) -> np.ndarray:
    """Return CIELAB float32 [H, W, 3] of an sRGB uint8 image: L 0..100, a and b about -127..127."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def slopes(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the strongest channel's horizontal and vertical slope, and its size (float32 [H, W] each)."""
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    dx, dy = (cv2.Scharr(smooth, cv2.CV_32F, *axis) / 32 for axis in ((1, 0), (0, 1)))
    size = np.hypot(dx, dy)
    best = size.argmax(axis=2)[..., None]
    return tuple(np.take_along_axis(a, best, 2)[..., 0] for a in (dx, dy, size))  # type: ignore[return-value]


def mask_edges(lab: np.ndarray, mask: np.ndarray) -> Measures:
    """How well the outline of m > 0.5 lies on edges of the image, and how the sides of it differ in colour.

    lab float32 [WORK, WORK, 3] (CIELAB); mask float32 [WORK, WORK], 0..1.
    """
    selected = mask > 0.5
    dx, dy, size = slopes(lab)
    rank = _ranks(size)
    near = cv2.dilate(rank, disc(2))
    (inner, outer), (line_in, line_out), (_, ring) = several_bands(selected, BAND, 1, 24)
    line = line_in | line_out
    smooth = cv2.GaussianBlur(mask, (0, 0), 1.5)
    mx, my = (cv2.Scharr(smooth, cv2.CV_32F, *axis) / 32 for axis in ((1, 0), (0, 1)))
    along = np.abs(mx * dx + my * dy) / (np.hypot(mx, my) * size + _EPS)
    log_size = np.log(size + 0.1)
    on_line, beside = mean_where(log_size, line), mean_where(log_size, inner | outer)
    return {
        "edge_on": mean_where(rank, line),
        "edge_far": log_of(1 - mean_where(near, line)),
        "edge_missed": log_of(mean_where((near < 0.7).astype(np.float32), line, 1.0)),
        "edge_missed_far": log_of(mean_where((cv2.dilate(rank, disc(5)) < 0.75).astype(np.float32), line, 1.0)),
        "edge_over_band": on_line - beside,
        "edge_inside": mean_where(rank, selected),
        "edge_outer": mean_where(rank, outer),
        "edge_outside": mean_where(rank, ~selected),
        "edge_astray": log_of(1 - mean_where(along, line)),
        "edge_astray_strong": log_of(1 - float((along * size)[line].sum() / (size[line].sum() + _EPS))),
    } | _colours(lab, selected, inner, outer, ring)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return every pixel's share of pixels with a smaller value, from a histogram of 1,024 bins of the log."""
    scaled = np.log(values + 0.02)
    low, high = float(scaled.min()), float(scaled.max())
    bins = ((scaled - low) * (1023 / (high - low + _EPS))).astype(np.int32)
    below = np.cumsum(np.bincount(bins.ravel(), minlength=1024)) / bins.size
    return below[bins].astype(np.float32)


def colour_bins(lab: np.ndarray) -> np.ndarray:
    """Return the colour's bin, int32 [H, W] in 0..1023: 16 of lightness, 8 of a, 8 of b."""
    light = np.clip(lab[..., 0] / 100 * 16, 0, 15).astype(np.int32)
    a, b = (np.clip((lab[..., i] + 64) / 16, 0, 7).astype(np.int32) for i in (1, 2))
    return (light * 8 + a) * 8 + b


def histogram(bins: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the share of every colour bin among the pixels of ``where``, float64 [1024], slightly smoothed."""
    counts = np.bincount(bins[where], minlength=1024).astype(np.float64)
    cube = counts.reshape(16, 8, 8)
    for axis in range(3):
        cube = cube + 0.25 * (np.roll(cube, 1, axis) + np.roll(cube, -1, axis))
    return cube.ravel() / (cube.sum() + _EPS)


def overlap(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Bhattacharyya coefficient of two histograms, 0 (apart) to 1 (equal)."""
    return float(np.sqrt(p * q).sum())


def _colours(lab: np.ndarray, selected: np.ndarray, inner: np.ndarray, outer: np.ndarray, ring: np.ndarray) -> Measures:
    """Likeness of the colours on the two sides; ``outer`` that looks like the inside hints at a lost part."""
    bins = colour_bins(lab)
    inside, around, outside = (histogram(bins, where) for where in (selected, ring, ~selected))
    belongs = np.log((inside + 1e-5) / (outside + 1e-5))[bins]  # > 0: a colour of the inside
    spread = float(lab[ring].std(axis=0).mean()) if ring.any() else 0.0
    apart = (
        float(np.linalg.norm(lab[inner].mean(axis=0) - lab[outer].mean(axis=0))) if inner.any() and outer.any() else 0.0
    )
    return {
        "colour_in_ring": overlap(inside, around),
        "colour_in_out": overlap(inside, outside),
        "colour_ring_out": overlap(around, outside),
        "colour_ring_belongs": mean_where((belongs > 0).astype(np.float32), ring),
        "colour_out_belongs": mean_where((belongs > 0).astype(np.float32), ~selected),
        "colour_in_belongs": mean_where((belongs > 0).astype(np.float32), selected),
        "colour_step": apart / 25,
        "colour_step_relative": apart / (spread + 3),
    }


def hole_shape(hole: np.ndarray, mask: np.ndarray) -> Measures:
    """Size, depth and place of a hole (bool [WORK, WORK]), and how much of it was selected (mask, 0..1)."""
    whole = hole.astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(whole, 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    outline = float((hole ^ cv2.erode(whole, disc(1)).astype(bool)).sum())
    return {
        "hole_area": float(np.log(hole.mean() + 1e-4)),
        "hole_depth": min(float(depth.max()), WORK) / WORK,
        "hole_compactness": float(4 * np.pi * hole.sum() / (outline + 1) ** 2),
        "hole_selected": float((mask > 0.5).sum() / (hole.sum() + 1)),
    } | {f"hole_{name}": value for name, value in _place(hole).items()}


def fill_colours(lab: np.ndarray, before: np.ndarray, hole: np.ndarray, mask: np.ndarray) -> Measures:
    """Colours of the filled hole against its surroundings and against what was there before.

    lab, before float32 [WORK, WORK, 3]: B and I in CIELAB; hole bool, mask float32 0..1 [WORK, WORK].
    """
    _, ring = bands(hole, 24)
    bins, old_bins = colour_bins(lab), colour_bins(before)
    inside, around, rest = (histogram(bins, where) for where in (hole, ring, ~hole))
    removed = histogram(old_bins, mask > 0.5)
    change = np.linalg.norm(lab - before, axis=2)
    chosen = mask > 0.5
    shift = lab[hole].mean(axis=0) - lab[ring].mean(axis=0) if hole.any() and ring.any() else np.zeros(3)
    spreads = [np.log(lab[where].std(axis=0) + 1) if where.any() else np.zeros(3) for where in (hole, ring)]
    return {
        "fill_like_ring": overlap(inside, around),
        "fill_like_rest": overlap(inside, rest),
        "fill_like_removed": overlap(inside, removed),
        "ring_like_removed": overlap(around, removed),
        "fill_lighter": float(shift[0]) / 25,
        "fill_shift": float(np.linalg.norm(shift)) / 25,
        "fill_shift_relative": float(np.linalg.norm(shift) / (np.exp(spreads[1]).mean() + 2)),
        "fill_spread": float((spreads[0] - spreads[1]).mean()),
        "fill_unchanged": mean_where((change < 3).astype(np.float32), chosen),
        "fill_change": float(np.log(mean_where(change, chosen) + 0.5)),
    }


def fill_texture(lab: np.ndarray, before: np.ndarray, hole: np.ndarray, mask: np.ndarray) -> Measures:
    """Sharpness, seam, left-over outlines and repetition of a filled hole. Arrays as in ``fill_colours``."""
    dx, dy, size = slopes(lab)
    old_dx, old_dy, old = slopes(before)
    (inner, outer), (_, ring), (seam_in, seam_out) = several_bands(hole, BAND, 24, 1)
    seam, beside = seam_in | seam_out, (inner | outer) & ~(seam_in | seam_out)
    old_line = np.logical_or(*bands(mask > 0.5, 1)) & hole
    fine = np.abs(lab[..., 0] - cv2.GaussianBlur(lab[..., 0], (0, 0), 1.0))
    broad = np.abs(cv2.GaussianBlur(lab[..., 0], (0, 0), 2.0) - cv2.GaussianBlur(lab[..., 0], (0, 0), 6.0))
    log_size, log_fine, log_broad = np.log(size + 0.1), np.log(fine + 0.1), np.log(broad + 0.1)
    deep = hole & ~inner
    same = (dx * old_dx + dy * old_dy)[hole].sum() / (np.sqrt((size[hole] ** 2).sum() * (old[hole] ** 2).sum()) + _EPS)
    return {
        "slope_in": mean_where(log_size, hole),
        "slope_ring": mean_where(log_size, ring),
        "slope_step": mean_where(log_size, deep) - mean_where(log_size, ring),
        "fine_step": mean_where(log_fine, deep) - mean_where(log_fine, ring),
        "broad_step": mean_where(log_broad, deep) - mean_where(log_broad, ring),
        "flat_in": mean_where((fine < 0.3).astype(np.float32), deep),
        "flat_ring": mean_where((fine < 0.3).astype(np.float32), ring),
        "seam": mean_where(log_size, seam) - mean_where(log_size, beside),
        "seam_in": mean_where(log_size, seam) - mean_where(log_size, inner),
        "seam_out": mean_where(log_size, seam) - mean_where(log_size, outer),
        "old_outline": mean_where(log_size, old_line) - mean_where(log_size, hole),
        "old_slopes": float(same),
        "repeats": _repetition(lab[..., 0], deep),
        "repeats_outside": _repetition(lab[..., 0], ~hole),
    }


def _repetition(light: np.ndarray, where: np.ndarray) -> float:
    """Return the highest masked autocorrelation of the fine structure at a shift of 12 pixels or more, 0..1."""
    fine = np.where(where, light - cv2.GaussianBlur(light, (0, 0), 4.0), 0).astype(np.float32)
    energy = float((fine**2).sum())
    if where.sum() < 400 or energy < 1:
        return 0.0
    both, shared = (
        np.fft.irfft2(np.abs(np.fft.rfft2(values.astype(np.float32))) ** 2, values.shape) for values in (fine, where)
    )
    shift = np.minimum(np.arange(WORK), WORK - np.arange(WORK))
    usable = (shared > 0.3 * where.sum()) & (np.hypot(*np.meshgrid(shift, shift)) >= 12)
    if not usable.any():
        return 0.0
    correlation = (both / energy) * (where.sum() / np.maximum(shared, 1))
    return float(np.clip(correlation[usable].max(), 0, 1))
