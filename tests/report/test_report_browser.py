"""The page in a real browser: nothing loaded, nothing run that is not ours, and sliders that count right."""

import json
import logging
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from opened_page import NEEDS_BROWSER, Opened
from synthetic_run import MASK_THRESHOLD, write_run

from l2i_builder.report import write_report

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]

SETTLED = """async () => {
  const list = document.querySelector("nav ol");
  const state = () => [scrollY, document.documentElement.scrollHeight, list.scrollLeft].join();
  const before = state();
  await new Promise(resolve => setTimeout(resolve, 300));
  return state() === before;
}"""


@pytest.fixture
def opened(browser, reported) -> Iterator[Opened]:
    result = Opened(browser, reported.page)
    yield result
    result.page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)])
def test_it_opens_without_network_errors_or_requests(browser, reported, scheme, width):
    opened = Opened(browser, reported.page, scheme, width)
    page = opened.page
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    log.info("%s, %d px wide: loaded after %.0f ms", scheme, width, timing["loadEventEnd"])
    opened.draw()
    page.locator("#cost").scroll_into_view_if_needed()
    assert opened.loaded() == []
    assert opened.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_charts_far_from_the_screen_wait(opened):
    assert opened.page.locator(".chart").count() == 9
    assert opened.page.locator(".chart svg").count() < 9


def test_all_charts_are_drawn_and_described(opened):
    opened.draw()
    charts = opened.page.locator(".chart")
    assert charts.count() == 9
    for chart in charts.all():
        drawing = chart.locator("svg.marks")
        assert drawing.count() == 1
        assert drawing.bounding_box()["width"] > 200
        assert chart.get_attribute("role") == "graphics-document"
        assert re.search(r"[0-9]", chart.get_attribute("aria-label"))


def test_hostile_strings_are_inert(opened):
    page = opened.page
    for strip in page.locator("button.open").all()[:40]:
        strip.scroll_into_view_if_needed()
    assert page.evaluate("window.hacked === undefined")
    assert page.evaluate("document.scripts.length") == 4
    assert (
        page.evaluate("document.querySelectorAll('main svg[onload], [onerror], [onmouseover], iframe, object').length")
        == 0
    )
    assert "<script>window.hacked = 1</script>" in page.text_content("main")
    assert opened.complaints == []


def test_images_decode(opened):
    page = opened.page
    image = page.locator(".strip img").first
    image.scroll_into_view_if_needed()
    shape = "image => image.decode().then(() => image.naturalWidth / image.naturalHeight)"
    assert page.evaluate(shape, image.element_handle()) == 4


def expected(reported, mask: float, inpainting: float) -> int:
    rows = reported.rows
    decided = np.isin(rows["reason"].to_numpy(), ["", "mask_rejected", "inpainting_rejected"])
    scores = rows["mask_score"].to_numpy(), rows["inpainting_score"].to_numpy()
    return int((decided & (scores[0] >= mask) & (scores[1] >= inpainting)).sum())


def test_sliders_count_what_would_be_kept(opened, reported):
    kept = reported.numbers["funnel"]["kept"]
    assert opened.text("#would-keep") == str(kept)
    assert "as in this run" in opened.text("#would-share")
    for mask, inpainting in [(0.5, 0.55), (MASK_THRESHOLD, 0.3), (0.8, 0.9), (0.62, 0.0), (1.0, 1.0)]:
        opened.slide("mask", mask)
        opened.slide("inpainting", inpainting)
        assert opened.text("#would-keep") == str(expected(reported, mask, inpainting)), (mask, inpainting)
        assert opened.text("#overrides") == f"judge.mask.threshold={mask:g} judge.inpainting.threshold={inpainting:g}"
        assert opened.text("#value-mask") == f"{mask:g}"
    opened.page.click("#reset")
    assert opened.text("#would-keep") == str(kept)


def test_below_the_runs_mask_threshold_the_count_is_an_estimate_with_its_range(opened, reported):
    opened.slide("mask", 0.2)
    note = opened.text("#would-note")
    assert opened.text("#would-keep").startswith("about ")
    assert "95 % confidence" in note
    low, high = (int(word.replace(",", "")) for word in note.partition("between ")[2].split(",")[0].split(" and "))
    about = int(opened.text("#would-keep").removeprefix("about ").replace(",", ""))
    rows = reported.rows
    between = (rows["mask_score"].to_numpy() >= 0.2) & (rows["reason"].to_numpy() == "mask_rejected")
    inpainted = rows["inpainting_score"].to_numpy()
    audited = between & (inpainted != -1)
    unseen = (between & (inpainted == -1)).sum()
    sure = reported.numbers["funnel"]["kept"] + (audited & (inpainted >= 0.55)).sum()
    assert about == pytest.approx(sure + unseen * (inpainted[audited] >= 0.55).mean(), abs=1)
    assert sure <= low < about < high <= sure + unseen
    assert f"{unseen} samples below this run's mask threshold were never inpainted" in note


def test_without_audit_rows_only_a_range_is_claimed(browser, tmp_path):
    write_run(str(tmp_path / "out"), shards=1, rows=200, audit_rate=0, previews=False)
    opened = Opened(browser, write_report(str(tmp_path / "out")))
    kept = json.loads((tmp_path / "out" / "report.json").read_bytes())["funnel"]["kept"]
    opened.slide("mask", 0.0)
    assert opened.text("#would-keep").startswith(f"between {kept} and ")
    assert "no audit row is among them" in opened.text("#would-note")
    assert opened.complaints == []
    opened.page.close()


def test_the_dashed_line_follows_the_slider(opened):
    opened.draw("score_mask", "density")
    where = "() => document.querySelector('[data-chart=score_mask] svg').outerHTML"
    before = opened.page.evaluate(where)
    opened.slide("mask", 0.9)
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate(where) != before
    opened.page.click("#reset")
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate(where) == before


def test_everything_is_reachable_by_keyboard(opened):
    page = opened.page
    page.focus("#slide-mask")
    before = opened.text("#would-keep")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert int(opened.text("#would-keep")) < int(before)
    page.locator("button.open").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    first = page.locator("#viewer-image").get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-image").get_attribute("src") != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#viewer-image").get_attribute("src") == first
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.className") == "open"


@pytest.mark.parametrize("width", [400, 900, 1280])
def test_the_navigation_leads_to_a_section_and_marks_it(opened, width):
    page = opened.page
    page.set_viewport_size({"width": width, "height": 900})
    for name in ("domains", "funnel", "distributions", "galleries"):
        # Playwright's own click centres a link that its list hides, and scrolls the page for it: people do not.
        page.wait_for_function(SETTLED)
        page.eval_on_selector(f"nav a[href='#{name}']", "link => { link.closest('ol').scrollLeft = link.offsetLeft; }")
        box = page.locator(f"nav a[href='#{name}']").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector(f"nav a[href='#{name}'][aria-current]")
        assert page.locator("nav a[aria-current]").count() == 1
        assert 0 <= page.locator(f"#{name} h2").bounding_box()["y"] < 200


def test_charts_follow_a_change_of_theme(opened):
    page = opened.page
    opened.draw("score_mask")
    colour = "() => getComputedStyle(document.querySelector('[data-chart=score_mask] .mark-text text')).fill"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(1500)
    assert page.evaluate(colour) != light
    assert opened.complaints == []


def test_states_without_data_open_without_errors(browser, tmp_path):
    for number, options in enumerate([{"finished": 0}, {"keep": False}, {"judges": False}, {"previews": False}]):
        out = str(tmp_path / str(number))
        write_run(out, shards=2, rows=40, **options)
        opened = Opened(browser, write_report(out))
        opened.draw()
        assert (opened.complaints, opened.loaded()) == ([], []), options
        opened.page.close()


def test_a_moved_page_still_opens(browser, reported, tmp_path):
    moved = shutil.copy(reported.page, tmp_path / "elsewhere.html")
    opened = Opened(browser, moved)
    opened.draw()
    assert opened.page.locator(".chart svg.marks").count() == 9
    opened.page.close()
