"""What the card shows of ``l2i stats``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def statistics_section(statistics: Mapping[str, Any]) -> str:
    """Return the tables of a dataset's statistics as Markdown, "" where there are none."""
    return ""
