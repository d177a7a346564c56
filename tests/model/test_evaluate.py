"""The whole evaluation, with tiny models and judges that a test can foresee."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from layered_shards import COLOURS, write_discs
from PIL import Image
from tiny_layers import disc, tiny_pipeline

from l2i_builder.errors import ConfigError
from model.baselines import GenerateThenSegment, Generator, PipelineGenerator
from model.evaluate import SELF_JUDGED, Judges, Plan, evaluate, slug
from model.evaluation.reference import Reference
from model.export import LayeredImage

N = 6


class Colours:
    """A substitute extractor: the mean colour."""

    name, metric, digest = "mean colour", "FD (mean colour)", "0" * 64

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2)).astype(np.float32)


class Named:
    """A substitute scorer: whether the colour that the caption names is there."""

    name, metric, how = "colour words", "cosine (colour words)", "raw cosine"

    def __call__(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        return np.array(
            [
                any(word in text and (np.abs(image.astype(int) - COLOURS[word]).sum(-1) < 20).any() for word in COLOURS)
                for image, text in zip(images, texts, strict=True)
            ],
            np.float32,
        )


class Bright:
    """A segmenter: what differs from the background of the discs."""

    digest = "b" * 64

    def __call__(self, images: np.ndarray) -> np.ndarray:
        background = disc().background.astype(int)
        return np.where(np.abs(images.astype(int) - background).sum(-1) > 40, 255, 0).astype(np.uint8)


class Discs:
    """A perfect generator, or one whose discs are all red."""

    layered = True
    segmenter = ""

    def __init__(self, only: str = "") -> None:
        self.only = self.digest = only

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]:
        return [disc(colour=COLOURS[self.only or prompt.split()[1]], prompt=prompt) for prompt in prompts]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_discs(tmp_path_factory.mktemp("ll2i") / "00000.tar", N))


def load(source: str, plan: Plan) -> Generator:
    if source == "segmented":
        return GenerateThenSegment(Discs(), Bright(), Bright.digest)
    if source == "random":
        return PipelineGenerator(tiny_pipeline(), plan.steps, plan.guidance)
    return Discs("" if source == "perfect" else source)


def planned(shards: str, out: Path, **changes: object) -> Plan:
    models = {"CaT2I-AE-SD": "perfect", "all red": "red", "generate, then segment": "segmented"}
    references = [Reference("LL2I-E", shards, N), Reference("LA", shards, N)]
    settings = {"models": models, "references": references, "out": str(out), "steps": 2, "repeats": 5, **changes}
    return Plan(**settings)  # type: ignore[arg-type]


JUDGES = Judges(Colours(), Named(), Bright(), "bright")


@pytest.fixture(scope="module")
def results(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """Folder, JSON and page of an evaluation with everything in it."""
    out = tmp_path_factory.mktemp("evaluation")
    plan = planned(shards, out)
    drawn = tmp_path_factory.mktemp("drawn")
    for number in range(3):  # people drew three of the six
        mask = disc().mask
        assert mask is not None
        Image.fromarray(np.where(mask > 127, 255, 0).astype(np.uint8)).save(drawn / f"k{number:03d}.png")
    evaluate(planned(shards, out, drawn={"CaT2I-AE-SD": str(drawn)}, filtering=list(plan.models)[:2]), JUDGES, load)
    return out, json.loads((out / "results.json").read_text()), (out / "results.html").read_text()


def cells(results: tuple[Path, dict, str], table: str, model: str) -> dict:
    found = next(t for t in results[1]["tables"] if t["title"].startswith(table))
    return next(row for row in found["rows"] if row["model"] == model)["cells"]


def test_there_are_the_papers_tables(results: tuple[Path, dict, str]) -> None:
    titles = [table["title"] for table in results[1]["tables"]]
    assert [title.split(".")[0] for title in titles] == ["Table I", "Table II", "Table III"]
    columns = [table["columns"] for table in results[1]["tables"]]
    assert columns[0] == ["FD (mean colour), LL2I-E", "FD (mean colour), LA", "cosine (colour words)"]
    assert columns[1] == ["IoU, bright", "soft IoU, bright", "IoU, people"]
    for title in titles:
        assert title in results[2]


def test_numbers_say_which_model_is_better(results: tuple[Path, dict, str]) -> None:
    perfect, red = (cells(results, "Table I", model) for model in ("CaT2I-AE-SD", "all red"))
    distance = "FD (mean colour), LL2I-E"
    assert perfect[distance]["value"] < 2 < 50 < red[distance]["value"]
    assert perfect["cosine (colour words)"]["value"] == 1
    assert red["cosine (colour words)"]["value"] == pytest.approx(1 / 3)


def test_every_number_has_an_interval_and_a_count(results: tuple[Path, dict, str]) -> None:
    for table in results[1]["tables"]:
        for row in table["rows"]:
            for cell in row["cells"].values():
                if cell["value"] is not None:
                    assert cell["low"] <= cell["value"] <= cell["high"]
                    assert cell["samples"] in (3, N)


def test_a_segmenter_never_judges_its_own_masks(results: tuple[Path, dict, str]) -> None:
    cell = cells(results, "Table II", "generate, then segment")["IoU, bright"]
    assert cell == {"value": None, "why": SELF_JUDGED}
    assert cells(results, "Table II", "CaT2I-AE-SD")["IoU, bright"]["value"] > 0.8
    assert "undefined" in results[2]


def test_drawn_masks_count_where_there_are_some(results: tuple[Path, dict, str]) -> None:
    cell = cells(results, "Table II", "CaT2I-AE-SD")["IoU, people"]
    assert cell["value"] == 1
    assert cell["samples"] == 3
    assert "IoU, people" not in cells(results, "Table II", "all red")


def test_substitutes_never_print_the_papers_names(results: tuple[Path, dict, str]) -> None:
    text = json.dumps(results[1]) + results[2]
    assert "FD (mean colour)" in text
    assert "FID" not in text
    assert "CLIP score" not in text


def test_the_facts_name_who_judged(results: tuple[Path, dict, str]) -> None:
    facts = results[1]["facts"]
    assert facts["features"] == "mean colour, SHA-256 " + "0" * 64
    assert facts["agreement"] == "raw cosine, colour words"
    assert facts["segmenter"] == "bright, " + "b" * 64
    assert facts["captions"] == N
    assert facts["references"][1]["images"] == N


def test_images_are_kept_and_used_again(
    results: tuple[Path, dict, str], shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refuses(Discs):
        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[LayeredImage]:
            raise AssertionError("generated again")

    again = evaluate(
        planned(shards, results[0], models={"all red": "red"}), JUDGES, lambda source, plan: Refuses("red")
    )
    assert again[0].rows[0].cells["cosine (colour words)"].value == pytest.approx(1 / 3)


def test_images_of_a_model_that_was_trained_on_are_not_used_again(results: tuple[Path, dict, str], shards: str) -> None:
    with pytest.raises(ConfigError, match="generated in another way"):
        evaluate(planned(shards, results[0], models={"all red": "red"}), JUDGES, lambda source, plan: Discs("green"))


def test_an_autoencoder_is_judged_by_what_it_gives_back(shards: str, tmp_path: Path) -> None:
    plan = planned(shards, tmp_path, models={"random": "random"}, references=[Reference("LL2I-E", shards, 2)])
    judges = Judges(perceptual=lambda a, b: (a - b).square().mean((1, 2, 3)), perceptual_name="squares")
    (table,) = evaluate(plan, judges, load)
    assert table.title.startswith("Autoencoders")
    names = [column.name for column in table.columns]
    assert "PSNR F inside m, dB" in names
    assert "squares composite" in names
    assert all(table.rows[0].cells[name].samples == 2 for name in names)
    assert table.rows[0].resolution == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "at least one model"),
        ({"drawn": {"other": "x"}}, "no row is called 'other'"),
        ({"models": {"A b": "red", "a-b": "red"}}, "share a folder"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(
    shards: str, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(planned(shards, tmp_path, **changes), JUDGES, load)


def test_masks_drawn_at_another_size_are_refused(shards: str, tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "drawn" / "k000.png")
    plan = planned(shards, tmp_path / "out", models={"red": "red"}, drawn={"red": str(tmp_path / "drawn")})
    with pytest.raises(ConfigError, match="8x8 pixels, the composite 64x64"):
        evaluate(plan, Judges(), load)


def test_a_rows_folder_is_a_plain_name() -> None:
    assert slug("SD-AE-UNet (ft)") == "sd-ae-unet-ft"
    assert slug("../..") == "model"
