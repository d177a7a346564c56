"""The documentation site: builds without a warning, works from a folder without a network, and names every page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page_of(path: Path) -> str:
    """The site's address of a Markdown file or notebook under docs/."""
    return path.relative_to(DOCS).with_suffix(".html").as_posix()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    """Addresses that a page fetches by itself: scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        name = {"script": "src", "img": "src", "iframe": "src", "source": "src"}.get(tag)
        if tag == "link" and of.get("rel") in ("stylesheet", "preconnect", "icon", "preload"):
            name = "href"
        if name and of.get(name):
            self.addresses.append(str(of[name]))


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestSite:
    def test_every_page_of_the_docs_and_the_readme_are_there(self, site: Path) -> None:
        wanted = {page_of(path) for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]}
        wanted |= {"index.html", "security.html", "contributing.html", "changelog.html", "docker.html"}
        assert wanted <= {path.relative_to(site).as_posix() for path in site.rglob("*.html")}

    def test_pages_fetch_nothing_from_elsewhere(self, site: Path) -> None:
        for path in site.rglob("*.html"):
            parser = Fetched()
            parser.feed(path.read_text(encoding="utf-8"))
            foreign = [a for a in parser.addresses if re.match(r"(https?:)?//", a)]
            assert not foreign, (path.name, foreign)
            missing = [a for a in parser.addresses if not a.startswith("data:") and not (path.parent / a).is_file()]
            assert not missing or path.name == "404.html", (path.name, missing)

    def test_links_into_the_repository_lead_to_pages(self, site: Path) -> None:
        start = (site / "index.html").read_text(encoding="utf-8")
        for page in ("reasons.html", "security.html", "docker.html", "architecture.html", "contributing.html"):
            assert f'href="{page}"' in start
        assert "NOTICE" in (site / "source" / "NOTICE.html").read_text(encoding="utf-8")

    def test_every_key_and_reason_is_in_the_site(self, site: Path) -> None:
        from l2i_builder.configfile import known_keys
        from l2i_builder.sample import Reason

        keys = (site / "configuration.html").read_text(encoding="utf-8")
        assert all(key.rpartition(".")[2] in keys for key in known_keys())
        reasons = (site / "reasons.html").read_text(encoding="utf-8")
        assert all(f"<code>{reason.value}</code>" in reasons for reason in Reason)

    def test_the_reference_documents_the_python_api(self, site: Path) -> None:
        text = (site / "api.html").read_text(encoding="utf-8")
        for name in (
            "api.build",
            "dataset.open_dataset",
            "dataset.LayeredDataset",
            "sample.Triplet",
            "layers.composite",
        ):
            assert f'id="l2i_builder.{name}"' in text, name

    def test_search_works_from_a_folder_without_a_network(self, site: Path) -> None:
        sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; runs in CI")
        with sync_api.sync_playwright() as play:
            browser = play.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
            )
            page = browser.new_context(offline=True).new_page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto((site / "faq.html").as_uri())
            page.wait_for_function("typeof __index == 'object'", timeout=60_000)
            page.get_by_role("textbox", name="Search").click()
            page.keyboard.type("takedown", delay=50)
            page.locator(".md-search-result__item a").first.wait_for(timeout=60_000)
            found = page.locator(".md-search-result__list a").evaluate_all("links => links.map(link => link.href)")
            assert any("safety.html" in link for link in found)
            assert not [url for url in asked if url.startswith("http")]
            browser.close()


def test_the_picture_of_the_architecture_has_every_part_of_the_diagram() -> None:
    diagram = re.search(r"```mermaid\n(.*?)```", (DOCS / "architecture.md").read_text(encoding="utf-8"), re.DOTALL)
    if diagram is None:
        pytest.skip("architecture.md has the picture itself; runs while it has a mermaid diagram beside it")
    drawn = (DOCS / "images" / "architecture.svg").read_text(encoding="utf-8")
    labels = re.findall(r"[\[(]+\"?([^\"\[\]()]+)\"?[\])]+", diagram[1])
    parts = {re.sub(r"<.*", "", label).strip() for label in labels} | {"segment", "judge mask", "inpaint"}
    assert len(parts) > 9
    assert not {part for part in parts if part and part not in drawn}


def test_the_nav_names_every_page_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(text)["nav"]
    named = [page for part in nav for page in _pages(part)]
    assert len(named) == len(set(named))
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} <= set(named)


def _pages(part: str | dict | list) -> list[str]:
    if isinstance(part, str):
        return [part]
    items = part.values() if isinstance(part, dict) else part
    return [page for item in items for page in _pages(item)]
