"""Images generated for captions, kept in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_layers import disc

from l2i_builder.errors import ConfigError, OutputError
from model.evaluation.generation import generate, read_png
from model.evaluation.reference import caption_seed
from model.export import LayeredImage

CAPTIONS = [(f"key{number}", f"caption {number}") for number in range(5)]


class Discs:
    """A generator that remembers what it was asked, and can give out."""

    segmenter = ""

    def __init__(self, layered: bool = True, limit: int = 100) -> None:
        self.layered, self.limit = layered, limit
        self.asked: list[tuple[str, int]] = []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]:
        if len(self.asked) + len(prompts) > self.limit:
            raise KeyboardInterrupt
        self.asked += zip(prompts, seeds, strict=True)
        made = [disc(colour=(seed % 256, 90, 30), prompt=prompt) for prompt, seed in zip(prompts, seeds, strict=True)]
        return made if self.layered else [LayeredImage(image.composite, prompt=image.prompt) for image in made]


def test_each_caption_gets_an_image_from_noise_of_its_key(tmp_path: Path) -> None:
    discs = Discs()
    made = generate(discs, CAPTIONS, str(tmp_path), {"steps": 2}, seed=3, batch=2)
    assert discs.asked == [(caption, caption_seed(key, 3)) for key, caption in CAPTIONS]
    first = disc(colour=(caption_seed("key0", 3) % 256, 90, 30))
    assert np.array_equal(next(made.composites()), first.composite)
    assert np.array_equal(next(made.masks()), first.mask)
    assert len(list(made.composites())) == len(list(made.masks())) == 5
    assert (tmp_path / "sheet.png").is_file()


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = generate(Discs(), CAPTIONS, f"{tmp_path}/whole", {}, batch=2)
    with pytest.raises(KeyboardInterrupt):
        generate(Discs(limit=4), CAPTIONS, f"{tmp_path}/cut", {}, batch=2)
    rest, done = Discs(), []
    resumed = generate(rest, CAPTIONS, f"{tmp_path}/cut", {}, batch=2, progress=done.append)
    assert [prompt for prompt, _ in rest.asked] == ["caption 4"]
    assert done == [4, 1]
    for a, b in zip(resumed.composites(), whole.composites(), strict=True):
        assert np.array_equal(a, b)


def test_images_made_in_another_way_are_never_mixed(tmp_path: Path) -> None:
    generate(Discs(), CAPTIONS[:1], str(tmp_path), {"guidance": 7.5})
    with pytest.raises(ConfigError, match="generated in another way"):
        generate(Discs(), CAPTIONS, str(tmp_path), {"guidance": 3.0})


def test_pictures_without_layers_have_no_masks(tmp_path: Path) -> None:
    made = generate(Discs(layered=False), CAPTIONS, str(tmp_path), {})
    assert not made.layered
    assert not (tmp_path / "masks").exists()
    assert generate(Discs(layered=False, limit=0), CAPTIONS, str(tmp_path), {}).keys == made.keys


def test_it_writes_to_any_storage() -> None:
    made = generate(Discs(), CAPTIONS[:2], "memory://generated", {})
    assert next(made.masks()).shape == (64, 64)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(OutputError, match=r"a\.png is no PNG"):
        read_png(f"{tmp_path}/a.png", "RGB")


def test_a_seed_follows_from_key_and_seed_alone() -> None:
    assert caption_seed("a", 0) == caption_seed("a", 0)
    assert len({caption_seed(key, seed) for key in "abc" for seed in range(3)}) == 9
