"""One reviewer at work in a real browser."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from l2i_builder.labels import current

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


class Desk:
    """One reviewer's browser: a context of its own, with all it asked for and complained about."""

    def __init__(self, chromium, served, name="Ada", scheme="light", url="", **viewport: int) -> None:
        self.served, self.name = served, name
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = chromium.new_context(
            viewport={"width": 1280, "height": 800} | viewport, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.goto(url or served.url)
        if name:
            self.page.wait_for_selector("#name[open]")
            self.page.fill("#reviewer", name)
            self.page.keyboard.press("Enter")
            self.settle()

    def _dialog(self, dialog) -> None:
        self.complaints.append(f"dialog: {dialog.type} {dialog.message}")
        dialog.accept()

    def settle(self) -> None:
        """Wait until the page has started and shows a sample, or says that there is none."""
        self.page.wait_for_selector("html[data-ready=yes]", state="attached")
        self.page.wait_for_selector("html[data-shown]:not([data-shown='']), #empty:not([hidden])", state="attached")

    @property
    def shown(self) -> str:
        """The key of the sample whose pictures are drawn."""
        return self.page.get_attribute("html", "data-shown") or ""

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def judge(self, *keys: str) -> str:
        """Press keys that save a judgement, wait for the next sample; return the key of the judged one."""
        before = self.shown
        self.press(*keys)
        self.page.wait_for_selector(f"html:not([data-shown='{before}'])", state="attached")
        self.settle()
        return before

    def open(self, queue: str) -> None:
        if queue.startswith("reason:"):
            self.page.select_option("#reasons", queue)
        else:
            self.page.click(f"[data-queue='{queue}']")
        self.page.wait_for_selector(f"[data-queue='{queue}'][aria-pressed=true], #reasons.chosen", state="attached")
        self.settle()

    def sent(self) -> None:
        """Wait until all that was said is stored and the page has heard so."""
        waiting = "Object.keys(localStorage).filter(key => key.startsWith('l2i-review-op:')).length"
        for _ in range(200):
            if not self.page.evaluate(waiting):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{self.page.evaluate(waiting)} judgements were not stored within 10 s")

    def said(self, wanted: int) -> list[tuple[str, str, str, list[str]]]:
        """Wait until the reviewer has so many standing judgements; return them in order."""
        for _ in range(200):
            self.sent()
            rows = [row for row in current(self.served.store.table()).to_pylist() if row["reviewer"] == self.name]
            if len(rows) == wanted:
                break
            self.page.wait_for_timeout(50)
        return [(row["key"], row["mask"], row["inpainting"], row["criteria"]) for row in rows]

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def pixel(self, layer: str) -> list[int]:
        """The colour in the middle of a frame."""
        return self.page.eval_on_selector(
            f"[data-layer={layer}] canvas",
            "canvas => [...canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data]",
        )

    def outside(self) -> list[str]:
        """Requests that went anywhere but to the app."""
        return [
            url for url in self.requests if not url.startswith("blob:") and urlsplit(url).netloc != self.served.host
        ]

    def close(self) -> None:
        assert self.outside() == []
        assert self.complaints == []
        self.context.close()
