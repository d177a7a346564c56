"""A run for tests that only look at it, and the review app over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from review_run import write_run
from review_server import Served, serving


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run of 80 rows in two shards, a quarter of them audited; tests only read it."""
    out = str(tmp_path_factory.mktemp("review") / "out")
    write_run(out)
    return out


@pytest.fixture
def served(run: str, tmp_path: Path) -> Iterator[Served]:
    with serving(run, tmp_path) as result:
        yield result
