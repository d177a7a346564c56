"""The command and its page: numbers against the ledger and the shards, and what a reader is told of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from finished_toy import toy_run
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import read_members
from l2i_builder.report.run import ledger_of
from l2i_builder.statistics import collect, write_statistics
from l2i_builder.statistics.images import mask_areas
from l2i_builder.statistics.options import Options
from l2i_builder.statistics.page import render
from l2i_builder.statistics.tables import make_tables, markdown

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
NAME = "CLIP score"  # belongs to one extractor alone


class Brightness:
    """Stands in for a CLIP: the mean of the image."""

    metric, name = "cosine (brightness)", "brightness"

    def __call__(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        assert all(text.startswith("toy") for text in texts)
        return np.array([image.mean() / 255 for image in images])


class Halves:
    """Stands in for a detector: a cat in every dark image, a cat and two dogs in the others."""

    name, digest, threshold, categories = "halves", "ab" * 32, 0.5, ("cat", "dog")

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[str]]:
        return [["cat"] if image.mean() < 128 else ["cat", "dog", "dog"] for image in images]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counted")
    toy_run(folder, folder / "out", "ingest.audit_rate=0.4", "judge.mask.threshold=0.3", rows=60)
    return folder / "out"


@pytest.fixture(scope="module")
def numbers(out: Path) -> dict:
    return collect(str(out), Options(scorer=Brightness(), finder=Halves()))


def members(out: Path, folder: str) -> dict[str, dict[str, bytes]]:
    return {key: sample for tar in sorted((out / folder).iterdir()) for key, sample in read_members(str(tar))}


def test_masks_are_those_of_the_kept_samples_and_of_the_audit_slice(out: Path, numbers: dict) -> None:
    kept, audit = members(out, "shards"), members(out, "audit")
    lines = [line for n in range(3) for line in ledger_of(str(out), n, ("key", "audit", "reason")).to_pylist()]
    audited = {line["key"] for line in lines if line["audit"]}
    groups = {"kept": kept, "all": {key: {**kept, **audit}[key] for key in audited & ({*kept} | {*audit})}}
    assert numbers["drawn"]["images"] == {name: len(group) for name, group in groups.items()}
    assert len(groups["all"]) > len(audit) > 0
    for name, group in groups.items():
        masks = [cv2.imdecode(np.frombuffer(one["mask.png"], np.uint8), 0) for one in group.values()]
        areas = np.array([mask_areas(mask) for mask in masks])
        for i, area in enumerate(numbers["areas"]):
            assert area[name]["mean"] == pytest.approx(areas[:, i].mean())
            assert sum(area[name]["counts"]) == len(group)
        assert numbers["objects"][name]["samples"] == numbers["likeness"][name]["samples"] == len(group)


def test_captions_are_those_of_the_ledger_without_what_must_not_be_shown(out: Path, numbers: dict) -> None:
    lines = [line for n in range(3) for line in ledger_of(str(out), n, ("caption", "reason")).to_pylist()]
    assert numbers["drawn"]["captions"]["all"] == {"drawn": 60, "of": 60}
    kept = numbers["drawn"]["captions"]["kept"]["of"]
    assert kept == sum(not line["reason"] for line in lines)
    twice = any(line["caption"] == "toy 0-0" and not line["reason"] for line in lines)
    assert numbers["words"]["list"][:2] == [["0", 61, kept + twice], ["toy", 60, kept]]
    assert numbers["captions"]["all"]["percentiles"] == [3] * 7  # "toy 0-17"


def test_the_same_folder_and_seed_give_the_same_numbers(out: Path, numbers: dict) -> None:
    assert collect(str(out), Options(scorer=Brightness(), finder=Halves(), workers=1)) == numbers
    few = [collect(str(out), Options(sample=8, seed=seed)) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert few[0]["drawn"]["images"]["kept"] == few[0]["captions"]["all"]["captions"] == 8


def test_only_one_extractor_has_the_name_of_the_papers_score(numbers: dict) -> None:
    """Without it neither page nor tables nor JSON say that name, also not for the paper's numbers."""
    for some in (numbers, {**numbers, "likeness": None}):
        assert NAME.encode() not in render(some)
        assert NAME not in markdown(some) + json.dumps(some)
    assert "cosine (brightness)" in markdown(numbers)
    real = {**numbers, "likeness": {**numbers["likeness"], "metric": NAME, "extractor": "CLIP ViT-L/14"}}
    assert "0.278 ± 0.037" in markdown(real)


def test_tables_have_the_papers_shape(numbers: dict) -> None:
    tables = {table.id: table for table in make_tables(numbers)}
    assert list(tables) == ["captions", "words", "likeness", "areas", "components", "objects"]
    assert tables["captions"].head[1:8] == ["1 %", "10 %", "25 %", "50 %", "75 %", "90 %", "99 %"]
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.head)}
    assert tables["objects"].rows[1][0] == "cat"
    assert tables["objects"].rows[1][1:] == ["100.0%", "100.0%"]
    assert "r is not comparable" in tables["words"].notes[1]


def test_the_command_writes_page_and_json_and_compares_with_another_run(out: Path, tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "other", rows=20)
    write_statistics(str(tmp_path / "other"))
    result = CliRunner().invoke(app, ["stats", str(out), "--compare", str(tmp_path / "other"), "--seed", "7"])
    assert result.exit_code == 0, result.output
    written = json.loads((out / "statistics.json").read_bytes())
    lines = {(line["name"], line["group"]): line for line in written["compared"]["lines"]}
    other = json.loads((tmp_path / "other/statistics.json").read_bytes())
    assert lines["mask area at 0.5, mean", "kept"]["before"] == other["areas"][1]["kept"]["mean"]
    assert lines["mask area at 0.5, mean", "kept"]["now"] == written["areas"][1]["kept"]["mean"]
    assert written["compared"]["notes"] == ["seed: 0 before, 7 now"]
    assert "Changes against another run" in (out / "statistics.html").read_text("utf-8")


def test_what_cannot_be_compared_is_said_before_anything_is_counted(out: Path, tmp_path: Path) -> None:
    (tmp_path / "statistics.json").write_text("[]")
    for where in (str(tmp_path), str(tmp_path / "absent.json")):
        with pytest.raises(ConfigError):
            write_statistics(str(out), Options(compare=where, told=lambda *_: pytest.fail("counted")))
    with pytest.raises(OutputError, match=r"holds no run\.json"):
        collect(str(tmp_path))


def test_a_run_that_keeps_nothing_has_a_page_too(tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "out", "judge.mask.threshold=1", "ingest.audit_rate=0", rows=20)
    page = Path(write_statistics(str(tmp_path / "out"))).read_text("utf-8")
    assert "0 of 0 kept samples" in page


def test_hostile_captions_are_shown_as_text(numbers: dict) -> None:
    words = {**numbers["words"], "list": [["<script>alert(1)</script>", 60, 30], ["a\u202eb", 9, 9], ["x", 1, 1]]}
    page = render({**numbers, "words": words}).decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


@pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}; runs where Debian's chromium is installed"
)
@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_page_opens_without_network_script_or_overflow(
    numbers: dict, tmp_path: Path, scheme: str, width: int
) -> None:
    from playwright.sync_api import sync_playwright

    (tmp_path / "statistics.html").write_bytes(render(numbers))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(f"file://{tmp_path}/statistics.html")
        assert asked == [f"file://{tmp_path}/statistics.html"]
        assert complaints == []
        assert page.locator(".figure svg").count() == 10
        assert page.evaluate("document.documentElement.scrollWidth") == width
        shown = page.evaluate("getComputedStyle(document.querySelector('.figure svg [stroke=\"#0072b2\"]')).stroke")
        assert shown == ("rgb(0, 114, 178)" if scheme == "light" else "rgb(86, 180, 233)")
        browser.close()


def test_markdown_has_every_table_and_escapes_its_cells(numbers: dict) -> None:
    written = markdown({**numbers, "likeness": {**numbers["likeness"], "metric": "a|b"}})
    assert [line for line in written.splitlines() if line.startswith("### ")] == [
        f"### {table.title}" for table in make_tables(numbers)
    ]
    assert "| a\\|b |" in written
