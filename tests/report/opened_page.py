"""A report open in a real browser, with what it asked for and complained about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

NEEDS_BROWSER = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}; runs where Debian's chromium is installed"
)


class Opened:
    """A page, with what it asked for and complained about."""

    def __init__(self, browser, url: str, scheme: str = "light", width: int = 1280, ready: bool = True) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page()
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.goto(f"file://{url}")
        if ready:
            self.page.wait_for_selector("html[data-ready=yes]", state="attached")

    def loaded(self) -> list[str]:
        """Addresses asked for, but the page itself and its data."""
        return [url for url in self.requests if not url.startswith(("data:", "file://"))] + [
            url for url in self.requests[1:] if url.startswith("file://")
        ]

    def draw(self, *names: str) -> None:
        """Bring charts near the screen, which draws them; all where none is named."""
        for name in names or self.page.eval_on_selector_all(".chart", "all => all.map(one => one.dataset.chart)"):
            self.page.locator(f"[data-chart={name}]").scroll_into_view_if_needed()
            self.page.wait_for_selector(f"[data-chart={name}][data-drawn=yes]")

    def slide(self, judge: str, value: float) -> None:
        """Move a slider to the edge nearest to ``value``, as a person would: an input event."""
        self.page.evaluate(
            """([judge, value]) => {
              const edges = JSON.parse(document.getElementById("data").textContent).thresholds[`${judge}_edges`];
              const slider = document.getElementById(`slide-${judge}`);
              slider.value = edges.reduce((best, edge, i) =>
                Math.abs(edge - value) < Math.abs(edges[best] - value) ? i : best, 0);
              slider.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            [judge, value],
        )

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)
