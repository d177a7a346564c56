"""A labelled run in a real browser: live precision and recall, curves, and the pages beside the report."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from opened_page import NEEDS_BROWSER, Opened
from synthetic_labels import label, label_run, write
from synthetic_run import HOSTILE, write_run

from l2i_builder.report import write_report
from l2i_builder.report.options import Options

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """The page of a labelled run, and the audited rows with the truth."""
    out = str(tmp_path_factory.mktemp("labelled") / "out")
    write_run(out, shards=3, rows=400, audit_rate=0.3)
    truth = label_run(out)
    return write_report(out, Options(samples=300)), truth


@pytest.fixture
def opened(browser, labelled) -> Iterator[Opened]:
    result = Opened(browser, labelled[0])
    yield result
    result.page.close()


def percentages(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[0-9]+\.[0-9]", text)]


@pytest.mark.parametrize(("mask", "inpainting"), [(0.437, 0.55), (0.7, 0.3), (0.1, 0.1), (0.9, 0.6)])
def test_precision_and_recall_follow_the_sliders(opened, labelled, mask, inpainting):
    opened.slide("mask", mask)
    opened.slide("inpainting", inpainting)
    truth = labelled[1]
    good = truth["mask_good"].to_numpy(zero_copy_only=False) & truth["inpainting_good"].to_numpy(zero_copy_only=False)
    kept = (truth["mask_score"].to_numpy() >= mask) & (truth["inpainting_score"].to_numpy() >= inpainting)
    precision, low, high = percentages(opened.text("#would-precision"))
    assert precision == pytest.approx(100 * good[kept].mean(), abs=0.06)
    assert low <= precision <= high
    assert f"by {kept.sum()} label" in opened.text("#would-precision")
    recall, low, high = percentages(opened.text("#would-recall"))
    assert recall == pytest.approx(100 * kept[good].mean(), abs=0.06)
    assert low <= recall <= high
    assert f"of {good.sum()} good labels" in opened.text("#would-recall")


def test_more_labels_make_narrower_intervals(opened):
    width = []
    for threshold in (0.9, 0.0):
        opened.slide("mask", threshold)
        opened.slide("inpainting", threshold if threshold else 0.0)
        text = opened.text("#would-precision")
        _, low, high = percentages(text) if "label among" not in text else (0, 0, 100)
        width.append(high - low)
    assert width[1] < width[0] / 2


def test_where_no_label_is_it_says_so(opened):
    opened.slide("mask", 1.0)
    opened.slide("inpainting", 1.0)
    assert opened.text("#would-precision") == "no label among them"


def test_all_six_curves_are_drawn_and_described(opened):
    names = [f"{kind}_{judge}" for judge in ("mask", "inpainting") for kind in ("pr", "roc", "reliability")]
    opened.draw(*names)
    for name in names:
        chart = opened.page.locator(f"[data-chart={name}]")
        assert chart.locator("svg.marks path").count() > 2
        assert "labels" in chart.get_attribute("aria-label")
    assert (opened.complaints, opened.loaded()) == ([], [])


def test_pages_with_more_samples_open_as_closed_as_the_report(browser, opened, labelled):
    links = opened.page.locator(".gallery a[href^=report-files]")
    assert links.count() > 3
    assert opened.loaded() == []
    page = Opened(browser, str(Path(labelled[0]).parent / links.first.get_attribute("href")), ready=False)
    page.page.locator("button.open").first.click()
    assert page.page.locator("#viewer").is_visible()
    first = page.page.locator("#viewer-image").get_attribute("src")
    page.page.keyboard.press("ArrowRight")
    assert page.page.locator("#viewer-image").get_attribute("src") != first
    page.page.keyboard.press("Escape")
    assert (page.complaints, page.loaded()) == ([], [])
    assert page.page.evaluate("window.hacked === undefined")
    page.page.locator("header a").click()
    assert page.page.url.endswith("report.html#galleries")
    page.page.close()


def test_hostile_labels_and_comparisons_are_inert(browser, reported, tmp_path):
    out = str(tmp_path / "out")
    shutil.copytree(reported.out, out)
    kept = reported.rows.filter(reported.rows["reason"].to_numpy() == "").to_pylist()
    evil = [text.replace("\x00", "") for text in HOSTILE]
    judgements = [
        label(row["key"], number=i, shard=row["shard"], reviewer=text, queue=text, mask="bad", mask_head=text, run=text)
        for i, (row, text) in enumerate(zip(kept, evil, strict=False))
    ]
    write(out, judgements)
    before = json.loads(Path(out, "report.json").read_bytes())
    before["run"] |= {"digest": evil[0], "version": evil[1], "config": {text: text for text in evil}}
    before["reasons"] = [{"reason": text, "rows": 5} for text in evil]
    Path(tmp_path, "before.json").write_text(json.dumps(before))
    opened = Opened(browser, write_report(out, Options(compare=str(tmp_path / "before.json"))))
    opened.draw()
    assert opened.page.evaluate("window.hacked === undefined")
    assert opened.page.evaluate("document.scripts.length") == 4
    assert "<script>window.hacked = 1</script>" in opened.page.text_content("#labels")
    assert "\\u202egnp.exe" in opened.page.text_content("#labels")
    assert (opened.complaints, opened.loaded()) == ([], [])
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.page.close()


def test_its_own_numbers_agree_with_the_report_json(opened, labelled):
    numbers = json.loads((Path(labelled[0]).parent / "report.json").read_bytes())
    at = numbers["labels"]["curves"]["mask"]["at"]
    shown = opened.page.locator("#labels .judge").first.text_content()
    assert f"{100 * at['precision'][0]:.1f} %" in shown
    assert np.isfinite(numbers["labels"]["curves"]["mask"]["auc"]).all()
