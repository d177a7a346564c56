"""What can be wrong with the further objects of a sample, where ``layers.count`` is above 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2i_builder import layers
from l2i_builder.errors import OutputError
from l2i_builder.output.layered import decode_further, decode_layers
from l2i_builder.output.rules import REASONS, Rule
from l2i_builder.sample import UNKNOWN, Peel, PeelEnd, Triplet

_FIELDS = tuple(Peel.__dataclass_fields__)
_CLOSE = 0.05  # of 255: decoders of JPEG differ by a level here and there


def wrong_peels(line: Mapping[str, Any], count: int, rules: Sequence[Rule], derived: bool) -> str:
    """Return what is wrong with a ledger line's account of its further objects, "" if nothing.

    count: ``layers.count``; rules: of both judges; derived: the run was made by ``l2i refilter``, which leaves further
    objects as they were judged, and keeps samples that nothing was peeled off.
    """
    number, end = line["layers"], line["peel_end"]
    if number == UNKNOWN and not line["reason"]:
        return "it is kept without layers"
    if number != UNKNOWN and not 2 <= number <= count:
        return f"it has {number} layers, of at most {count}"
    if end not in {"", *PeelEnd} or not (end or line["reason"] or derived):
        return f"its peeling ended for no known cause: {str(end)[:100]!r}"
    if (end == PeelEnd.ENOUGH) != (number == count):
        return f"its peeling ended as {end or 'nothing'!r} with {number} of {count} layers"
    judged_by = () if derived else rules
    return next(filter(None, (_wrong_peel(line, k, number, end, judged_by) for k in range(2, count))), "")


def _wrong_peel(line: Mapping[str, Any], k: int, number: int, end: str, rules: Sequence[Rule]) -> str:
    if k > number or not end:
        known = [name for name in _FIELDS if line[f"{name}_{k}"] != UNKNOWN]
        return f"it has {', '.join(known)} of object {k}, which was never looked for" if known else ""
    taken = k < number
    if taken and line[f"mask_area_{k}"] == UNKNOWN:
        return f"object {k} was taken but never measured"
    for rule in rules:
        score = line[f"{rule.task}_score_{k}"]
        if not rule.enabled or rule.threshold is None:
            continue
        if taken and score < rule.threshold:
            return (
                f"object {k} was taken with a {rule.task} score of {score:.3f}, the threshold is {rule.threshold:.3f}"
            )
        if not taken and end == REASONS[rule.task] and not UNKNOWN != score < rule.threshold:
            return f"object {k} ended the peeling as {end} with a score of {score:.3f}"
    return ""


def wrong_further(triplet: Triplet, members: Mapping[str, bytes], row: Mapping[str, Any], rule: Any) -> str:
    """Return what is wrong with the further layers of a decoded sample, "" if nothing.

    Each F is cut from the background before it, each background equals the one before it outside the hole, masks are
    those that were measured, layers that were not found are empty, and the composite is as far from the image as the
    sample says. rule: the section ``layers`` of the run's configuration.
    """
    threshold, fill = rule["foreground_threshold"], tuple(rule["foreground_fill"])
    before = triplet.background
    try:
        further = decode_further(triplet.key, members, "it")
        sample = decode_layers(triplet.key, members, "it")
    except OutputError as error:
        return str(error)
    for k, (foreground, mask, behind) in enumerate(further, start=2):
        if mask.shape != triplet.mask.shape:
            return f"the layers of object {k} have another size"
        if not np.array_equal(layers.foreground(before, mask, threshold, fill), foreground):
            return f"foreground {k} is not the background before it where mask {k} selects, and the fill elsewhere"
        hole = layers.hole(mask, threshold, rule["dilate"])
        if not np.array_equal(before[~hole], behind[~hole]):
            return f"background {k} is not the background before it outside the hole"
        if k >= row["layers"] and mask.any():
            return f"there is an object {k}, but the sample has {row['layers']} layers"
        if k < row["layers"] and (odd := _unlike(mask, hole, row, k)):
            return f"mask {k} is not the one that was measured: {odd}"
        before = behind
    away = layers.difference(layers.flatten(sample.layers, sample.background), sample.image)
    told = float(triplet.info["composite_error"])  # type: ignore[arg-type]
    if not abs(away - told) <= _CLOSE:
        return f"its composite is {away:.2f} of 255 away from the image, not {told:.2f}"
    return ""


def _unlike(mask: np.ndarray, hole: np.ndarray, row: Mapping[str, Any], k: int) -> str:
    measured = {
        "mask_area": float((mask > 127).mean()),
        "hole_area": float(hole.mean()),
        "mask_components": layers.components(mask),
    }
    return ", ".join(f"{name}_{k}" for name, value in measured.items() if row[f"{name}_{k}"] != value)
