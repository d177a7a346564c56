"""The tables in the documentation come out of one command, and out of the same data always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classifiers import learning, variants
from classifiers.evaluate import TrueMask
from classifiers.features import Labelled
from classifiers.train import Recipe
from classifiers.variants import Variant, held_out_table, true_mask_table, write_between
from l2i_builder.errors import MetadataError

QUICK = Recipe(hidden=0, members=1, epochs=120, rate=5e-2, decay=1e-3, dropout=0.0)
FACTS = {"backbone": "toy", "backbone sha256": "0" * 64}


def toy(kinds: tuple[str, ...], families: tuple[str, ...], count: int = 240) -> Labelled:
    """Good is a large first number; the features of a "plain" family are noise."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, 4)).astype(np.float32)
    quality = (vectors[:, 0] > 0).astype(np.float32)
    scene = np.array([f"scene-{i // 4}" for i in range(count)])
    noise = rng.normal(size=(count, 3)).astype(np.float32)
    return Labelled(
        vectors={family: noise if family.endswith("plain") else vectors for family in families},
        quality=quality,
        weight=np.ones(count, np.float32),
        test=np.arange(count) // 4 % 3 == 0,
        kind=np.array([kinds[i % len(kinds)] for i in range(count)]),
        scene=scene,
        source=scene,
        truth=quality,
        facts=FACTS,
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {"mask": ("mask-plain", "mask-rich"), "inpainting": ("inpainting-plain", "inpainting-rich")}
    monkeypatch.setattr(
        variants, "VARIANTS", {task: [Variant(name, name, QUICK) for name in names] for task, names in forms.items()}
    )
    monkeypatch.setattr(learning, "FAMILY", {"mask": "mask-rich", "inpainting": "inpainting-rich"})
    monkeypatch.setattr(learning, "RECIPE", dict.fromkeys(forms, QUICK))
    monkeypatch.setattr(learning, "COUNTS", (0, 5, 50))


def value(cell: str) -> float:
    return float(cell.split("[")[0])


@pytest.mark.usefixtures("quick")
class TestTables:
    def test_a_variant_that_sees_more_ranks_better_and_all_figures_have_intervals(self) -> None:
        lines, heads = held_out_table("mask", toy(("u2net",), ("mask-plain", "mask-rich")), repeats=50)
        plain, rich = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
        assert plain[0] == "mask-plain"
        assert rich[1] == "4"
        assert value(rich[2]) > 0.95 > 0.7 > value(plain[2])
        assert all("[" in cell for cell in (*plain[2:], *rich[2:]))
        assert len(heads) == 2

    def test_true_masks_part_the_undisturbed(self) -> None:
        masks = [
            TrueMask(f"photo-{i}", kind, iou, {})
            for i in range(10)
            for kind, iou in (("u2net", 0.95 if i % 2 else 0.5), ("u2net-disturbed", 0.3))
        ]
        quality = np.array([m.iou for m in masks])
        line = true_mask_table(masks, {"oracle": quality, "contrary": -quality}, repeats=50)[2:]
        oracle, contrary = ([value(c) for c in text.strip("| ").split("|")[1:]] for text in line)
        assert oracle == pytest.approx([1, 1, 1, 1])
        assert contrary == pytest.approx([0, -1, 0, -1])

    def test_pages_are_written_between_their_comments_and_repeat(self, tmp_path: Path) -> None:
        toy(("u2net", "true"), ("mask-plain", "mask-rich")).save(tmp_path / "mask.npz")
        toy(("patchmatch", "true"), ("inpainting-plain", "inpainting-rich")).save(tmp_path / "inpainting.npz")
        page = tmp_path / "page.md"
        marks = "<!-- variants -->\n<!-- /variants -->\nbetween\n<!-- labels -->\nold\n<!-- /labels -->\n"
        page.write_text(f"before\n{marks}after\n")
        written = []
        for _ in range(2):
            variants.main(["--data", str(tmp_path), "--out", str(page)])
            learning.main(["--data", str(tmp_path), "--out", str(page)])
            written.append(page.read_text())
        assert written[0] == written[1]
        assert written[0].startswith("before\n<!-- variants -->\n")
        assert written[0].endswith("<!-- /labels -->\nafter\n")
        assert "old" not in written[0]
        assert "| inpainting-rich |" in written[0]
        assert "toy" in written[0]

    def test_more_labels_rank_better_and_none_need_the_bootstrap(self) -> None:
        data = toy(("u2net", "true"), ("mask-rich",), count=480)
        alone, both = (learning.curve(data, "mask", alone) for alone in (True, False))
        assert [n for n, *_ in both] == [0, 5, 50, 160]
        assert [n for n, *_ in alone] == [50, 160]
        assert both[-1][1] > 0.95
        assert all(low <= mean <= high for _, mean, low, high in (*alone, *both))


def test_a_page_without_the_comments_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="<!-- variants -->"):
        write_between(tmp_path / "none.md", "variants", [])
