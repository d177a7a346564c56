"""Shards of layered discs, written by the project's own writer."""

from __future__ import annotations

from pathlib import Path

from tiny_layers import disc

from l2i_builder.config import Config
from l2i_builder.output.shards import encode_members, write_tar
from l2i_builder.sample import Row

COLOURS = {"red": (220, 40, 30), "green": (30, 200, 60), "blue": (30, 60, 220)}


def write_discs(path: Path, n: int, side: int = 64) -> Path:
    """Write ``n`` samples into a tar, colours in turn."""
    samples = []
    for number in range(n):
        name, colour = list(COLOURS.items())[number % 3]
        image = disc(side, colour)
        assert image.mask is not None
        row = Row(f"k{number:03d}", f"http://example.org/{number}", f"a {name} disc", 0, number)
        samples.append((row.key, encode_members(row, image.composite, image.mask, image.background, Config())))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tar(samples, str(path))
    return path
