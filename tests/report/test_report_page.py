"""The page and its JSON: self-contained, complete, honest about what it lacks, deaf to hostile text."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import synthetic_run
from synthetic_run import HOSTILE, write_run

from l2i_builder import storage
from l2i_builder.report import funnel, write_report
from l2i_builder.report.page import script_json

SECTIONS = [
    "run",
    "funnel",
    "reasons",
    "scores",
    "thresholds",
    "labels",
    "galleries",
    "domains",
    "distributions",
    "shards",
    "cost",
]
LIMIT = 8_000_000  # bytes


class Page(HTMLParser):
    """Elements, attributes and scripts of a page, as a browser's parser would meet them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self.inside_script = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside_script = tag == "script"
        if self.inside_script:
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside_script = False

    def handle_data(self, data):
        if self.inside_script:
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(reported) -> Page:
    return Page(reported.html)


def test_the_sections_come_in_order_and_the_navigation_names_them(page):
    assert [section["id"] for section in page.all("section")] == SECTIONS
    links = [link["href"] for link in page.all("a") if link["href"].startswith("#")]
    assert links[1 : len(SECTIONS) + 1] == [f"#{name}" for name in SECTIONS]


def test_it_is_one_file_below_the_limit_that_names_nothing_to_load(reported, page):
    assert Path(reported.page).stat().st_size < LIMIT
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "svg"), tag
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attributes and tag != "script":
                assert attributes[name].startswith(("data:image/webp;base64,", "#")), (tag, name)
    assert "url(" not in reported.html.partition("<style>")[2].partition("</style>")[0]


def test_its_policy_allows_its_own_scripts_and_nothing_else(page):
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    running = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert len(running) == 3
    assert re.findall(r"'sha256-([^']+)'", policy) == digests


def test_no_element_has_an_event_handler_or_an_address_of_the_input(page):
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert not any("photos.test" in attributes.get(name, "") for name in ("href", "src"))


def test_hostile_text_stays_text(reported, page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"svg", "iframe", "object", "embed", "link", "base", "form", "video", "math", "template"}
    assert len(page.scripts) == 4
    assert "<script>window" not in reported.html
    assert "onerror='" not in reported.html
    assert "<script>window.hacked = 1</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069]", reported.html)
    assert "\\u202egnp.exe" in page.text
    assert "\\x1b[31m" in page.text
    longest = max(HOSTILE, key=len)
    assert longest not in page.text
    assert longest[:500] in page.text


def test_credentials_of_urls_are_nowhere(reported):
    assert "secret" not in reported.html
    assert "secret" not in Path(reported.out, "report.json").read_text()


def test_every_image_has_words_and_is_lazy(page):
    strips = [image for image in page.all("img") if "src" in image]
    assert 120 < len(strips) <= 160
    for image in strips:
        assert image["loading"] == "lazy"
        assert image["alt"].startswith("Original, mask, cut-out and")


def test_the_json_holds_the_numbers_of_the_page(reported, page):
    numbers = reported.numbers
    for step in numbers["funnel"]["steps"]:
        assert f"{step['rows']:,}" in page.text
    for line in numbers["reasons"]:
        assert line["reason"] in page.text
        assert line["meaning"] in page.text
    assert numbers["run"]["digest"] in page.text
    assert numbers["run"]["input"]["digest"] in page.text
    assert numbers["run"]["weights"]["u2net"] in page.text
    assert numbers["funnel"]["kept"] + sum(line["rows"] for line in numbers["reasons"]) == numbers["funnel"]["planned"]
    assert "1,200 input rows of the finished shards" in " ".join(page.text.split())


def test_the_same_folder_gives_the_same_page(reported):
    before = reported.html
    assert Path(write_report(reported.out)).read_text("utf-8") == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"finished": 1}, "1 of 2 planned shards are finished"),
        ({"finished": 0}, "No shard is finished yet, so there is nothing to count"),
        ({"keep": False, "audit_rate": 0}, "nothing got past the mask judge"),
        ({"keep": False, "audit_rate": 0}, "This run has no audit slice"),
        ({"judges": False}, "The mask judge was switched off in this run"),
        ({"judges": False}, "Neither judge has a threshold"),
        ({"previews": False}, "There are no previews"),
    ],
)
def test_sections_that_lack_data_say_so(tmp_path, options, words):
    write_run(str(tmp_path / "out"), shards=2, rows=60, **options)
    html = Path(write_report(str(tmp_path / "out"))).read_text("utf-8")
    assert words in " ".join(Page(html).text.split())
    assert [section["id"] for section in Page(html).all("section")] == SECTIONS
    assert funnel(str(tmp_path / "out")).reconciles


def test_a_run_that_does_not_add_up_is_an_alarm(tmp_path):
    write_run(str(tmp_path / "out"), shards=2, rows=40, previews=False)
    ledger = Path(tmp_path, "out", "ledger")
    ledger.joinpath("00001.parquet").write_bytes(_without_last_row(ledger / "00001.parquet"))
    html = Path(write_report(str(tmp_path / "out"))).read_text("utf-8")
    assert "The sum does not check" in html
    assert "79 rows in ledgers ≠ 80 input rows" in " ".join(Page(html).text.split())
    assert not funnel(str(tmp_path / "out")).reconciles


def _without_last_row(path: Path) -> bytes:
    table, sink = pq.read_table(path), io.BytesIO()
    pq.write_table(table.slice(0, len(table) - 1), sink)
    return sink.getvalue()


def test_a_shard_far_from_the_run_is_an_outlier(tmp_path, monkeypatch):
    honest = synthetic_run._live

    def odd(row, config, rng):
        if row.shard == 2 and row.kept:
            row.refuse(synthetic_run.Reason.TIMEOUT, "fetch", "host down")
        honest(row, config, rng)

    monkeypatch.setattr(synthetic_run, "_live", odd)
    write_run(str(tmp_path / "out"), shards=6, rows=150, previews=False)
    write_report(str(tmp_path / "out"))
    shards = json.loads((tmp_path / "out" / "report.json").read_bytes())["shards"]
    assert [line["shard"] for line in shards["list"] if line["outlier"]] == [2]
    assert shards["list"][0]["shard"] == 2
    assert shards["list"][0]["z"]["kept share"] < -3


def test_in_memory():
    out = "memory://report-page/out"
    write_run(out, shards=1, rows=60)
    url = write_report(out)
    assert url == f"{out}/report.html"
    assert b"<h1>" in storage.read_bytes(url)
    assert funnel(out).total == json.loads(storage.read_bytes(f"{out}/report.json"))["funnel"]["total"] == 60


@pytest.mark.slow
def test_in_an_object_store(s3_folder):
    out = f"{s3_folder}/out"
    write_run(out, shards=2, rows=60)
    url = write_report(out)
    assert url == f"{out}/report.html"
    assert storage.read_bytes(url).count(b'class="strip"') > 10
    assert funnel(out).reconciles


def test_json_in_a_script_cannot_leave_it():
    text = script_json({"a": "</script><!--&\u2028\u202e", "b": 1.5})
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == {"a": "</script><!--&\u2028\u202e", "b": 1.5}
