"""The report of a run with further layers: how many samples have them, why not more, and what they look like."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from finished_toy import toy_run
from layered_toy import layered_run
from opened_page import NEEDS_BROWSER, Opened
from PIL import Image

from l2i_builder.output.ledger import read_ledger
from l2i_builder.report import write_report

STRIP = re.compile(
    r'<img src="data:image/webp;base64,([^"]+)" width="768" height="(\d+)"(?: style="aspect-ratio:4/(\d)")?'
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layered")
    layered_run(folder, folder / "out", strict=True)
    return Path(write_report(str(folder / "out")))


def numbers(page: Path) -> dict:
    return json.loads((page.parent / "report.json").read_bytes())


def test_samples_are_counted_by_their_layers_and_by_why_there_are_no_more(page: Path) -> None:
    kept = [
        line
        for path in sorted((page.parent / "ledger").iterdir())
        for line in read_ledger(str(path)).to_pylist()
        if not line["reason"]
    ]
    found, layers = numbers(page), Counter(line["layers"] for line in kept)
    assert {line["layers"]: line["rows"] for line in found["layers"]["samples"]} == layers
    assert sum(layers.values()) == found["funnel"]["kept"]
    assert min(layers[n] for n in (2, 3, 4)) > 0
    ends = {line["why"]: line["rows"] for line in found["layers"]["ended"]}
    assert ends == Counter(line["peel_end"] for line in kept)
    assert all(line["meaning"].endswith(".") for line in found["layers"]["ended"])


def test_the_page_says_so(page: Path) -> None:
    html = page.read_text()
    assert "of at most 4" in html
    assert "<code>mask_rejected</code>" in html


def test_galleries_show_every_object_on_a_line_of_its_own(page: Path) -> None:
    found = numbers(page)
    names = [gallery["name"] for gallery in found["galleries"]]
    assert names.index("kept") < names.index("layers_4") < names.index("layers_3")
    strips = STRIP.findall(page.read_text())
    lines = Counter(int(height) // 192 for _, height, _ in strips)
    assert set(lines) == {1, 2, 3}
    for data, height, ratio in strips:
        with Image.open(io.BytesIO(base64.b64decode(data))) as strip:
            assert strip.width * int(height) == 768 * strip.height
        assert int(ratio or 1) == int(height) // 192


def test_reports_of_two_layers_say_nothing_of_it(tmp_path: Path) -> None:
    config = toy_run(tmp_path, tmp_path / "out", rows=20)
    html = Path(write_report(config.out)).read_text()
    assert "layers" not in json.loads(Path(config.out, "report.json").read_bytes())
    assert "aspect-ratio:4/" not in html


@pytest.mark.slow
@NEEDS_BROWSER
def test_a_strip_of_several_lines_is_shown_whole(browser, page: Path) -> None:
    opened = Opened(browser, str(page))
    strip = opened.page.locator('.strip:has-text("4 layers") img').first
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.02)
    strip.click()
    large = opened.page.locator("#viewer-image").bounding_box()
    assert large["width"] / large["height"] == pytest.approx(4 / 3, rel=0.02)
    assert opened.complaints == []
    opened.page.close()
