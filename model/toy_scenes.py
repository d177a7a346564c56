"""Toy layered images whose every layer is known: one coloured shape on a coloured ground, and a caption that says so.

Written as a finished run by the same code that writes real shards, so that demonstration and tests read what the
pipeline writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.output.shards import encode_members, wids_index
from l2i_builder.sample import Batch, Row, sample_key

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (214, 48, 44),
    "green": (52, 168, 66),
    "blue": (44, 84, 214),
    "yellow": (238, 206, 52),
    "purple": (146, 62, 182),
    "white": (236, 236, 236),
}
TEXTURES = ("plain", "striped")
_FINE = 8  # shapes are drawn so many times larger, for soft edges


@dataclass(frozen=True)
class Scene:
    """image, background: uint8 [S, S, 3]; mask: uint8 [S, S], soft at the edge; image = mF + (1 - m)B, rounded."""

    caption: str
    image: np.ndarray
    background: np.ndarray
    mask: np.ndarray


def caption_of(shape: str, colour: str, texture: str, ground: str, ground_texture: str) -> str:
    """Return the caption of a scene."""
    return f"a {texture} {colour} {shape} on a {ground_texture} {ground} ground"


def draw_scene(random: np.random.Generator, size: int = 32) -> Scene:
    """Draw a scene: shape, colours, textures, place, size and turn at random."""
    shape, texture, ground_texture = (names[random.integers(len(names))] for names in (SHAPES, TEXTURES, TEXTURES))
    colour, ground = (list(COLOURS)[i] for i in random.permutation(len(COLOURS))[:2])
    mask = _shape(shape, random, size)
    m = mask.astype(np.float32)[..., None] / 255
    foreground, background = (_surface(*each, random, size) for each in ((colour, texture), (ground, ground_texture)))
    image = np.rint(m * foreground + (1 - m) * background).astype(np.uint8)
    return Scene(caption_of(shape, colour, texture, ground, ground_texture), image, background, mask)


def draw_scenes(seed: int, samples: int, size: int = 32) -> list[Scene]:
    """Draw ``samples`` scenes; a scene depends on seed and its place alone."""
    return [draw_scene(np.random.default_rng([seed, sample]), size) for sample in range(samples)]


def write_run(out: str, samples: int, size: int = 32, seed: int = 0, per_shard: int = 600) -> Config:
    """Write a finished run of ``samples`` scenes into a folder or URL; return its configuration.

    Shards are uneven: each other one holds a third more. The same arguments give the same bytes. ``size`` is a
    multiple of 8.
    """
    return write_scenes(out, draw_scenes(seed, samples, size), seed, per_shard)


def write_scenes(out: str, scenes: Sequence[Scene], seed: int = 0, per_shard: int = 600) -> Config:
    """Write scenes as they are as a finished run, see ``write_run``; ``seed`` and place make a scene's key."""
    size = len(scenes[0].mask)
    config = Config(out=out, seed=seed, image={"size": size, "min_size": size}, previews={"kept_per_shard": 0})
    stretches = _uneven(len(scenes), per_shard)
    files = [
        {"name": f"scenes-{first}", "path": "", "rows": end - first, "size": 0, "footer": f"seed {seed}"}
        for first, end in stretches
    ]
    plan = InputPlan({}, files, len(scenes), 0)  # a shard for each "file"
    run = RunManifest.of(config, plan.digest, {})
    claim(out, run)
    storage.write_bytes(storage.join(out, "input.json"), plan.to_json())
    for shard, (first, end) in zip(plan.shards, stretches, strict=True):
        rows, batch = [], Batch([], np.empty(0, np.int64), end - first)
        for index, sample in enumerate(range(first, end)):
            scene = scenes[sample]
            url = f"toy:{seed}/{sample}"
            row = Row(sample_key(url, scene.caption), url, scene.caption, shard.number, index)
            rows.append(row)
            batch.triplets[row.key] = encode_members(row, scene.image, scene.mask, scene.background, config)
        batch.rows = rows
        stats = {"start_time": 0.0, "end_time": 0.0}
        commit_shard(out, shard, config, [batch], stats, run.digest)
    storage.write_bytes(storage.join(out, "index.json"), wids_index(out))
    return config


def _uneven(samples: int, per_shard: int) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    first = 0
    while first < samples:
        end = min(first + per_shard + (len(result) % 2) * (per_shard // 3), samples)
        result.append((first, end))
        first = end
    return result


def _shape(name: str, random: np.random.Generator, size: int) -> np.ndarray:
    """Return a soft mask, uint8 [S, S], of a shape that lies within the picture."""
    radius = size * random.uniform(0.22, 0.34)
    centre = random.uniform(radius, size - radius, 2)
    canvas = np.zeros((size * _FINE, size * _FINE), np.uint8)
    if name == "circle":
        cv2.circle(canvas, _point(centre), round(radius * _FINE), 255, -1)
    else:
        corners = 4 if name == "square" else 3
        angles = random.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
        points = [_point(centre + radius * np.array([np.cos(angle), np.sin(angle)])) for angle in angles]
        cv2.fillPoly(canvas, [np.array(points, np.int32)], 255)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def _point(place: Sequence[float] | np.ndarray) -> tuple[int, int]:
    return round(float(place[0]) * _FINE), round(float(place[1]) * _FINE)


def _surface(colour: str, texture: str, random: np.random.Generator, size: int) -> np.ndarray:
    """Return uint8 [S, S, 3] of one colour, with darker stripes every eighth of the side where it is striped."""
    plain = np.array(COLOURS[colour], np.float32) * random.uniform(0.9, 1.05)
    surface = np.tile(plain, (size, size, 1))
    if texture == "striped":
        period = max(size // 8, 2)
        stripe = (np.arange(size) + random.integers(period)) % period < period // 2
        surface[:, stripe] *= 0.55
    return np.clip(surface, 0, 255).astype(np.uint8)
