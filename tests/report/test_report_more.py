"""More samples than the page has room for: pages of their own beside it."""

import json
import re
from pathlib import Path

import pytest
from synthetic_run import write_run

from l2i_builder import storage
from l2i_builder.report import page as p
from l2i_builder.report import write_report
from l2i_builder.report.options import ON_PAGE, Options

LIMIT = 8_000_000


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    """A run whose report was asked for 400 samples."""
    out = str(tmp_path_factory.mktemp("more") / "out")
    write_run(out, shards=6, rows=300)
    write_report(out, Options(samples=400))
    return out


def strips(html: str) -> int:
    return html.count('class="strip"')


def pages(out: str) -> list[Path]:
    return sorted(Path(out, p.SIDECAR).glob("*.html"))


def test_without_need_there_is_no_folder(reported):
    assert not Path(reported.out, p.SIDECAR).exists()


def test_the_page_links_to_the_others_and_none_is_lost(large):
    html = Path(large, "report.html").read_text("utf-8")
    numbers = json.loads(Path(large, "report.json").read_bytes())
    chosen = sum(len(gallery["samples"]) for gallery in numbers["galleries"])
    assert 300 < chosen <= 400
    assert strips(html) == ON_PAGE
    assert strips(html) + sum(strips(path.read_text("utf-8")) for path in pages(large)) == chosen
    links = re.findall(r'href="(report-files/\d{3}\.html)"', html)
    assert sorted(links) == [f"{p.SIDECAR}/{path.name}" for path in pages(large)]
    for path in [Path(large, "report.html"), *pages(large)]:
        assert path.stat().st_size < LIMIT


def test_each_is_as_closed_as_the_report(large):
    for path in pages(large):
        html = path.read_text("utf-8")
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert not re.search(r"""(src|href)=["'](?!data:image/webp;base64,|\.\./report\.html#galleries)""", html)
        assert "<script>window" not in html


def test_parts_stay_below_the_limits(monkeypatch, tmp_path):
    monkeypatch.setattr(p, "MORE", 7)
    out = str(tmp_path / "out")
    write_run(out, shards=2, rows=200)
    write_report(out, Options(samples=300))
    counts = [strips(path.read_text("utf-8")) for path in pages(out)]
    assert max(counts) == 7
    assert len(counts) > 3


def test_a_smaller_report_later_takes_the_pages_away_and_nothing_else(tmp_path):
    out = str(tmp_path / "out")
    write_run(out, shards=3, rows=200)
    write_report(out, Options(samples=400))
    assert pages(out)
    mine = Path(out, p.SIDECAR, "notes.html")
    mine.write_text("mine")
    write_report(out)
    assert pages(out) == [mine]


def test_none_at_all_can_be_asked_for(tmp_path):
    out = str(tmp_path / "out")
    write_run(out, shards=1, rows=60)
    write_report(out, Options(samples=0))
    assert strips(Path(out, "report.html").read_text("utf-8")) == 0


@pytest.mark.slow
def test_in_an_object_store(s3_folder):
    out = f"{s3_folder}/more"
    write_run(out, shards=2, rows=200)
    write_report(out, Options(samples=300))
    assert storage.list_names(f"{out}/{p.SIDECAR}", ".html")
