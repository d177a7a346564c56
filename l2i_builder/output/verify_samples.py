"""What can be wrong with one sample of a shard's tars, against its ledger line and the run's configuration."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from PIL import Image

from l2i_builder import layers
from l2i_builder.errors import OutputError
from l2i_builder.output.manifest import RunManifest, layer_count
from l2i_builder.output.shards import decode_triplet, info_types, member_names
from l2i_builder.output.verify_further import wrong_further
from l2i_builder.report.strip import PANELS
from l2i_builder.sample import NEVER_SHOWN, UNKNOWN, Triplet

_UNLIKE = 20.0  # mean difference of thumbnails, 0..255; WebP and scaling cost under 5, other pictures are 40 off


@dataclass
class SampleCheck:
    """Checks samples of one shard; its previews first. deep: decode them too."""

    run: RunManifest
    deep: bool
    thumbnails: dict[str, np.ndarray] = field(default_factory=dict)  # key -> picture and mask as previewed

    @cached_property
    def count(self) -> int:
        return layer_count(self.run.config)

    @cached_property
    def types(self) -> dict[str, type]:
        return info_types(self.count)

    def wrong(self, folder: str, key: str, members: dict[str, bytes], row: dict[str, Any] | None, file: str) -> str:
        """Return what is wrong with a sample of a tar, "" if nothing. row: its ledger line."""
        if tuple(members) != (("webp",) if folder == "previews" else member_names(self.count)):
            return f"it has the members {', '.join(members)[:200]}"
        if row is None:
            return "the ledger has no such row"
        if row["reason"] in NEVER_SHOWN:
            return f"its pixels must not be here: it was refused as {row['reason']}"
        if folder == "audit" and (row["reason"] == "" or not row["audit"]):
            return "it is no refused row of the audit slice"
        if not self.deep:
            return ""
        if folder == "previews":
            return self._wrong_preview(key, members["webp"])
        try:
            triplet = decode_triplet(key, members, file)
        except OutputError as error:
            return str(error)
        return (
            self._wrong_facts(triplet, row)
            or self._wrong_layers(triplet)
            or self._wrong_measures(triplet, row)
            or (wrong_further(triplet, members, row, self.run.config["layers"]) if self.count > 2 else "")
            or self._unlike_preview(triplet)
        )

    def _wrong_facts(self, triplet: Triplet, row: dict[str, Any]) -> str:
        types = {name: type(value) for name, value in triplet.info.items()}
        if types != self.types:
            odd = sorted(name for name in types.keys() | self.types.keys() if types.get(name) != self.types.get(name))
            return f"its JSON has other keys or types than every sample has: {', '.join(odd)[:200]}"
        odd = sorted(
            name for name in types.keys() & row.keys() - {"width", "height"} if triplet.info[name] != row[name]
        )
        if odd:
            return f"its JSON and the ledger differ in {', '.join(odd)}"
        size = self.run.config.get("image", {}).get("size")
        if triplet.mask.shape != (size, size) or (triplet.info["width"], triplet.info["height"]) != (size, size):
            return f"it is {triplet.mask.shape[1]}x{triplet.mask.shape[0]}, not {size}x{size}"
        return "" if triplet.caption == row["caption"] else "its caption is not the ledger's"

    def _wrong_layers(self, triplet: Triplet) -> str:
        rule = self.run.config.get("layers", {})
        threshold, fill = rule.get("foreground_threshold", 0.1), tuple(rule.get("foreground_fill", (0, 0, 0)))
        expected = layers.foreground(triplet.image, triplet.mask, threshold, fill)
        if not np.array_equal(expected, triplet.foreground):
            return "its foreground is not the image where the mask selects, and the fill elsewhere"
        outside = ~self._hole(triplet)
        if not np.array_equal(triplet.image[outside], triplet.background[outside]):
            return "its background is not the image outside the hole"
        return ""

    def _wrong_measures(self, triplet: Triplet, row: dict[str, Any]) -> str:
        """The mask is stored without loss, so what was measured of it can be measured again."""
        measured = {
            "mask_area": float((triplet.mask > 127).mean()),
            "hole_area": float(self._hole(triplet).mean()),
            "mask_components": layers.components(triplet.mask),
        }
        odd = [name for name, value in measured.items() if row[name] not in (UNKNOWN, value)]
        return f"its mask is not the one that was measured: {', '.join(odd)}" if odd else ""

    def _hole(self, triplet: Triplet) -> np.ndarray:
        rule = self.run.config.get("layers", {})
        return layers.hole(triplet.mask, rule.get("foreground_threshold", 0.1), rule.get("dilate", 0))

    def _wrong_preview(self, key: str, data: bytes) -> str:
        try:
            with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
                strip = np.asarray(image.convert("RGB"))
        except Exception as problem:  # decoders raise nearly anything on damaged files
            return f"its preview does not decode: {problem}"
        side = strip.shape[1] // len(PANELS)
        self.thumbnails[key] = np.stack([_thumbnail(strip[:side, i * side : (i + 1) * side]) for i in range(2)])
        return ""

    def _unlike_preview(self, triplet: Triplet) -> str:
        """The preview was drawn from the pixels before they were stored: samples that changed places differ."""
        seen = self.thumbnails.get(triplet.key)
        if seen is None:
            return ""
        own = np.stack([_thumbnail(triplet.image), _thumbnail(cv2.merge([triplet.mask] * 3))])
        off = np.abs(own - seen).mean(axis=(1, 2, 3)).max()
        return f"it does not look like its preview ({off:.0f} of 255 off)" if off > _UNLIKE else ""


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [16, 16, 3]."""
    return cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
