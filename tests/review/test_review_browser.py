"""The review app in a real browser, by keyboard, as reviewers use it."""

import io
import logging
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from review_desk import ARGUMENTS, CHROMIUM, Desk
from review_run import write_run
from review_server import serving

from l2i_builder.labels import read_labels
from l2i_builder.output.shards import read_members, write_tar

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}; runs where Debian's chromium is installed"
    ),
]


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture
def desk(chromium, served):
    result = Desk(chromium, served)
    yield result
    result.close()


def test_ten_samples_by_keyboard_then_reload_undo_and_export(desk, served, tmp_path):
    keys = [
        desk.judge("g"),
        desk.judge("m", "1", "Enter"),
        desk.judge("i", "4", "5", "Enter"),
        desk.judge("m", "i", "2", "6", "Enter"),
        desk.judge("m", "m"),
        desk.judge("i", "i"),
        desk.judge("m", "Shift+I", "Enter"),
        desk.judge("3", "Enter"),
        desk.judge("g"),
        desk.judge("s"),
    ]
    assert len(set(keys)) == 10
    expected = [
        (keys[0], "good", "good", []),
        (keys[1], "bad", "", ["incomplete"]),
        (keys[2], "good", "bad", ["object_left", "artefact"]),
        (keys[3], "bad", "bad", ["background_included", "incoherent"]),
        (keys[4], "bad", "", []),
        (keys[5], "good", "bad", []),
        (keys[6], "bad", "good", []),
        (keys[7], "bad", "", ["too_small"]),
        (keys[8], "good", "good", []),
    ]
    assert desk.said(9) == expected
    assert desk.text("#progress").startswith("9 of ")
    assert "1 skipped by you" in desk.text("#progress")

    tenth = desk.shown
    desk.page.reload()
    desk.settle()
    assert desk.shown == tenth
    assert desk.text("#who") == "Ada"

    desk.judge("u")  # the skip
    assert desk.shown == keys[9]
    desk.judge("u")
    assert desk.shown == keys[8]
    assert desk.said(8) == expected[:8]
    desk.judge("m", "1", "Enter")  # what was said is still chosen until it is said anew
    assert desk.said(9)[-1] == (keys[8], "bad", "good", ["incomplete"])

    desk.press("?")
    with desk.page.expect_download() as download:
        desk.page.click("#help a")
    table = pq.read_table(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert table == served.store.table() == read_labels(str(served.store.path))
    assert len(table) == 13


def test_of_two_answers_that_cross_on_their_way_the_newer_count_stays(desk):
    held = []
    desk.page.route("**/api/next", lambda route: held.append((route, route.fetch())))
    for _ in range(20):
        desk.judge("g")
        desk.sent()
        if held:
            break
    desk.judge("s")
    desk.sent()
    newer = desk.text("#progress")
    assert "1 skipped by you" in newer
    (route, answer), *_ = held
    with desk.page.expect_event("requestfinished", lambda request: request.url.endswith("/api/next")):
        route.fulfill(response=answer)
    desk.page.wait_for_timeout(50)
    assert desk.text("#progress") == newer


@pytest.mark.parametrize(
    ("key", "code", "shift", "mask"),
    [
        ("G", "KeyG", False, "good"),
        ("п", "KeyG", False, "good"),
        ("ь", "KeyM", False, "bad"),
        ("M", "KeyM", True, "good"),
    ],
)
def test_keys_work_under_caps_lock_and_on_keyboards_of_other_scripts(desk, key, code, shift, mask):
    event = (
        f"new KeyboardEvent('keydown', {{key: '{key}', code: '{code}', shiftKey: {str(shift).lower()}, bubbles: true}})"
    )
    desk.page.evaluate(f"document.body.dispatchEvent({event})")
    desk.press("Enter")
    assert [row[1] for row in desk.said(1)] == [mask]


def test_two_reviewers_share_the_work_and_second_opinions_give_agreement(chromium, served):
    ada, bob = Desk(chromium, served), Desk(chromium, served, "Bob <b>")
    first = [ada.judge(key) for key in ("g", "g", "g")] + [ada.judge("m", "m")]
    other = [bob.judge(key) for key in ("g", "g")]
    assert not set(first) & set(other)
    ada.said(4)
    bob.open("second")
    shown = [bob.judge("m", "m") if bob.shown == first[3] else bob.judge("g") for _ in first]
    assert set(shown) == set(first)
    assert len(bob.said(6)) == 6
    bob.page.wait_for_selector("#empty:not([hidden])")
    assert "colleague" in bob.text("#empty p")
    assert "κ mask 1.00" in bob.text("#kappa")
    ada.page.reload()
    ada.settle()
    assert "κ mask 1.00" in ada.text("#kappa")
    ada.page.click("#kappa")
    assert "Ada · Bob <b>" in ada.text("#agreement tbody")
    for one in (ada, bob):
        one.close()


def test_the_four_layers_and_the_onion_skin_show_the_sample(desk, served):
    sample = served.samples.by_key[desk.shown]
    assert sample.full
    image, mask, cutout, background = (desk.pixel(name) for name in ("image", "mask", "cutout", "background"))
    assert desk.pixel("compare") == image
    for at in range(3):  # C = mI + (1 - m)checkerboard
        ground = {round(mask[0] / 255 * image[at] + (1 - mask[0] / 255) * grey) for grey in (204, 238)}
        assert min(abs(cutout[at] - value) for value in ground) <= 1
    desk.press(" ")
    assert desk.pixel("compare") == background
    assert desk.text("#pair") == "background"
    desk.press("o")
    assert desk.pixel("compare") == cutout
    desk.press("o", *["ArrowLeft"] * 5)
    half = desk.pixel("compare")
    assert all(abs(half[at] - (image[at] + background[at]) / 2) <= 2 for at in range(3))
    desk.complaints.clear()  # the browser's advice on reading pixels, which only this test does


def test_zoom_is_shared_by_all_frames_and_ends_with_the_sample(desk):
    transforms = "all => all.map(canvas => getComputedStyle(canvas).transform)"
    desk.press("z", "z")
    zoomed = desk.page.eval_on_selector_all("canvas", transforms)
    assert len({value.split(",")[0] for value in zoomed}) == 1
    assert "matrix(4" in zoomed[0]
    assert desk.text("#zoom").endswith("4×")
    desk.judge("g")
    assert set(desk.page.eval_on_selector_all("canvas", transforms)) == {"none"}


def test_rejected_samples_with_a_preview_only_are_shown_from_their_strip(desk, served):
    desk.open("reason:mask_rejected")
    while served.samples.by_key[desk.shown].full:
        desk.judge("s")
    assert desk.page.eval_on_selector("[data-layer=image] canvas", "canvas => canvas.width") == 48
    assert desk.page.locator("[data-layer=background].never").count() == 1
    assert desk.page.is_disabled("[data-key=i]")
    desk.press("i")
    assert "never inpainted" in desk.text("#toast")
    key = desk.judge("g")
    assert (key, "good", "", []) in desk.said(1)


def test_nothing_moves_from_one_sample_to_the_next(desk):
    boxes = "all => all.map(one => { const b = one.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] })"
    selector = "figure, header, footer, #answers button, #slider"
    before = desk.page.eval_on_selector_all(selector, boxes)
    for keys in (["g"], ["m", "1", "Enter"], ["i", "5", "Enter"], ["g"], ["s"]):
        desk.press(*keys[:-1])
        assert desk.page.eval_on_selector_all(selector, boxes) == before
        desk.judge(keys[-1])
        assert desk.page.eval_on_selector_all(selector, boxes) == before
    assert desk.page.evaluate("document.documentElement.scrollHeight <= innerHeight")


@pytest.mark.parametrize(
    ("scheme", "width", "height"), [("dark", 1920, 1000), ("light", 1024, 700), ("dark", 420, 800)]
)
def test_pictures_fill_the_window_and_nothing_is_cut_off(chromium, served, scheme, width, height):
    desk = Desk(chromium, served, scheme=scheme, width=width, height=height)
    assert desk.page.get_attribute("html", "data-theme") == scheme
    frame = desk.page.locator(".compare").bounding_box()
    assert frame["width"] == pytest.approx(frame["height"], abs=1)
    assert frame["width"] > 0.4 * min(width, height)
    assert desk.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    save = desk.page.locator("#save").bounding_box()
    assert save["y"] + save["height"] <= height
    desk.close()


def test_hostile_texts_are_inert_and_nothing_leaves_the_page(desk, served):
    desk.press("d")
    captions = ""
    for queue in ("uncertain", "reason:mask_empty"):
        desk.open(queue)
        for _ in range(25):
            if desk.page.is_visible("#empty"):
                break
            captions += desk.text("#caption") + desk.text("#facts")
            desk.judge("s")
    for part in (
        "<script>window.hacked",
        'onload="window.hacked',
        "javascript:window.hacked",
        "<b>host",
        "\\u202e",
        "\\x00",
    ):
        assert part in captions
    assert desk.page.evaluate("window.hacked === undefined")
    elements = "document.querySelectorAll('b:not(#help b), main img, svg, iframe, [onload], [onerror]').length"
    assert desk.page.evaluate(elements) == 0
    assert desk.outside() == []


def test_a_foreign_page_cannot_write_labels(desk, served, tmp_path):
    target = f"{served.url}api/judge"
    evil = desk.context.new_page()
    evil.route("http://evil.test/**", lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html"))
    evil.goto("http://evil.test/")
    for init in (
        "{method: 'POST', mode: 'no-cors', body: '{}'}",
        "{method: 'POST', credentials: 'include', body: '{}'}",
    ):
        evil.evaluate(f"() => fetch('{target}', {init}).then(() => 1, () => 0)")
    evil.close()
    desk.requests = [url for url in desk.requests if "evil.test" not in url]
    assert len(served.store.table()) == 0


def test_the_token_is_asked_for_once_and_leaves_the_address_bar(chromium, run, tmp_path):
    with serving(run, tmp_path, token="t" * 24) as served:
        refused = Desk(chromium, served, name="", url=served.url)
        refused.page.fill("#token", "wrong" * 5)
        refused.page.keyboard.press("Enter")
        refused.page.wait_for_selector("#error:not(:empty)")
        assert refused.page.locator("#stage").count() == 0
        refused.complaints.clear()  # the browser reports the 401
        refused.close()
        desk = Desk(chromium, served, url=f"{served.url}#token={'t' * 24}")
        assert desk.page.url == served.url
        assert desk.page.evaluate("document.cookie") == ""
        assert not [url for url in desk.requests if "ttt" in url]
        desk.judge("g")
        assert len(desk.said(1)) == 1
        desk.page.reload()
        desk.settle()
        assert desk.text("#who") == "Ada"
        desk.close()


def test_what_was_said_while_the_server_was_away_is_saved_when_it_is_back(desk):
    desk.page.route("**/api/judge", lambda route: route.abort())
    keys = [desk.judge("g"), desk.judge("m", "1", "Enter")]
    desk.page.wait_for_selector("#notice:not([hidden])")
    assert "not saved yet" in desk.text("#notice")
    assert len(desk.served.store.table()) == 0
    desk.page.unroute("**/api/judge")
    assert [row[0] for row in desk.said(2)] == keys
    desk.page.wait_for_selector("#notice", state="hidden")
    desk.complaints.clear()  # the browser reports the failed requests


def test_what_was_not_sent_survives_a_reload(desk):
    desk.page.route("**/api/judge", lambda route: route.abort())
    key = desk.judge("g")
    desk.page.wait_for_selector("#notice:not([hidden])")
    desk.page.reload()
    assert [text for text in desk.complaints if "dialog: beforeunload" in text]  # it asks before it loses sight of it
    desk.page.wait_for_selector("#notice:not([hidden])")
    assert len(desk.served.store.table()) == 0
    desk.page.unroute("**/api/judge")
    assert [row[0] for row in desk.said(1)] == [key]
    desk.settle()
    assert desk.shown != key
    desk.complaints.clear()


def test_an_empty_queue_says_what_to_do_next(chromium, tmp_path):
    out = str(tmp_path / "out")
    write_run(out, shards=1, audit_rate=0.0)
    with serving(out, tmp_path) as served:
        desk = Desk(chromium, served)
        assert "ingest.audit_rate=0.01" in desk.text("#empty p")
        desk.page.click("#empty .elsewhere button >> nth=0")
        desk.page.wait_for_selector("#empty", state="hidden")
        desk.settle()
        assert desk.shown
        desk.close()


@pytest.fixture
def copied(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "out"))


def test_a_sample_that_cannot_be_read_can_be_skipped(chromium, copied, tmp_path):
    with serving(str(copied), tmp_path) as served:
        for folder in ("audit", "shards"):
            shutil.rmtree(copied / folder)
        desk = Desk(chromium, served, name="")
        desk.page.wait_for_selector("#name[open]")
        desk.page.fill("#reviewer", "Ada")
        desk.page.keyboard.press("Enter")
        desk.page.wait_for_selector("html[data-failed]", state="attached")
        assert "Skip it" in desk.text("#toast")
        failed = desk.page.get_attribute("html", "data-failed")
        desk.press("s")
        desk.page.wait_for_selector(f"html:not([data-failed='{failed}'])", state="attached")
        desk.sent()
        assert served.store.table()["skipped"].to_pylist() == [True]
        desk.complaints.clear()  # the browser reports each failed request
        desk.close()


def test_a_sample_that_was_taken_down_makes_room_for_the_next(chromium, copied, tmp_path):
    with serving(str(copied), tmp_path) as served:
        first = served.json("POST", "/api/next", {"reviewer": "Ada", "queue": "audit"})["items"][0]["key"]
        sample = served.samples.by_key[first]
        url = str(copied / sample.folder / f"{sample.shard:05d}.tar")
        left = [(key, members) for key, members in read_members(url) if key != first]
        write_tar(left, url)
        desk = Desk(chromium, served)
        assert desk.shown not in ("", first)
        assert first not in served.samples.by_key
        desk.complaints.clear()  # the browser reports the missing picture
        desk.close()


def test_the_next_image_is_measured(desk):
    for number in range(12):
        desk.judge("g" if number % 2 else "s")
    times = desk.page.evaluate("performance.getEntriesByName('next image').map(entry => entry.duration)")
    log.info("next image: median %.0f ms of %d", sorted(times)[len(times) // 2], len(times))
    assert len(times) >= 10
    desk.press("?")
    assert "median of" in desk.text("#measured")
