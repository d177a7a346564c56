"""A run and its report, made once for all tests that only look at them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from opened_page import ARGUMENTS, CHROMIUM
from synthetic_run import write_run

from l2i_builder.config import Config
from l2i_builder.report import write_report


@dataclass
class Reported:
    """An output folder with its report. rows: all ledgers as one table."""

    out: str
    config: Config
    page: str
    numbers: dict[str, Any]
    rows: pa.Table

    @property
    def html(self) -> str:
        return Path(self.page).read_text("utf-8")


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    out = str(tmp_path_factory.mktemp("report") / "out")
    config = write_run(out)
    page = write_report(out)
    rows = pa.concat_tables(pq.read_table(path) for path in sorted(Path(out, "ledger").iterdir()))
    return Reported(out, config, page, json.loads(Path(out, "report.json").read_bytes()), rows)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser with a fresh profile and no network."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    profile = tmp_path_factory.mktemp("profile")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=ARGUMENTS.split(),
            offline=True,
            viewport={"width": 1280, "height": 900},
        )
        yield context
        context.close()
