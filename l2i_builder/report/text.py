"""Text for people from values nobody can trust: hostile characters made visible, numbers in readable form."""

from __future__ import annotations

import math
import re
from typing import Any

from markupsafe import Markup

FILTERS = (
    "count",
    "percent",
    "points",
    "span",
    "interval",
    "duration",
    "size",
    "dollars",
    "visible",
)  # for the templates
LIMIT = 2000  # characters of any one text on the page
# Controls, direction overrides and isolates, invisible format characters, lone surrogates, tags. Zero-width joiners
# stay: emoji and several scripts need them.
_INERT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SPACES = re.compile(r"[\t\r\n]+")


def visible(value: Any, limit: int = LIMIT) -> Any:
    """Return text with characters that could mislead a reader written out ("\\u202e"), cut at ``limit``.

    Jinja's ``finalize``: anything but text, and markup of our own, passes through.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > limit:
        value = value[:limit] + f"… ({len(value):,} characters)"
    return _INERT.sub(lambda match: _written(ord(match[0])), _SPACES.sub(" ", value))


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def count(value: float) -> str:
    """1234567 -> "1,234,567"."""
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """0.0954 -> "9.5 %"; small shares keep two digits: 0.00012 -> "0.012 %"."""
    value = 100 * share + 1e-9  # halves go up, as in the page's script
    if share == 0 or abs(value) >= 0.95:
        return f"{value:.1f} %"
    return f"{value:.2g} %" if abs(value) >= 0.001 else "< 0.001 %"


def points(change: float) -> str:
    """A change of a share, in percentage points: 0.0123 -> "+1.2", -0.0001 -> "−0.01", 0 -> "0"."""
    value = 100 * change
    if not value:
        return "0"
    shown = f"{abs(value):.1f}" if abs(value) >= 0.95 else f"{abs(value):.2g}" if abs(value) >= 0.001 else "< 0.001"
    return f"{'+' if value > 0 else '−'}{shown}"


def span(value: list[float] | None) -> str:
    """A share with its interval: [0.92, 0.88, 0.95] -> "92.0 % (88.0–95.0)", "–" of nothing."""
    return f"{100 * value[0]:.1f} % ({100 * value[1]:.1f}–{100 * value[2]:.1f})" if value else "–"


def interval(value: list[float | None]) -> str:
    """A figure with its interval: [0.921, 0.88, 0.95] -> "0.921 (0.880–0.950)"."""
    if None in value:
        return f"{value[0]:.3f}, too few labels for an interval"
    return f"{value[0]:.3f} ({value[1]:.3f}–{value[2]:.3f})"


def dollars(value: float) -> str:
    """Dollars: 1234.5 -> "$1,234", 0.04 -> "$0.04", 1.2e-06 -> "$0.0000012"."""
    if not value or value >= 100:
        return f"${value:,.0f}"
    if value >= 1:
        return f"${value:.2f}"
    digits = f"{value:.{2 - math.floor(math.log10(value))}f}".rstrip("0")
    return f"${digits}" if len(digits) >= 4 else f"${value:.2f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: "0.38 ms", "76 ms", "4.1 s", "12 min", "3.4 h", "12 d"."""
    for unit, size in (("d", 86_400 * 2), ("h", 7200), ("min", 120), ("s", 1)):
        if seconds >= size:
            value = seconds / {"d": 86_400, "h": 3600, "min": 60, "s": 1}[unit]
            return f"{_three(value)} {unit}"
    return f"{_three(seconds * 1000)} ms" if seconds else "0 s"


def _three(value: float) -> str:
    """Return three significant digits, never with an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(value: float) -> str:
    """Bytes in decimal units: "812 B", "1.4 MB", "3.2 TB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{_three(value)} {unit}"
        value /= 1000
    raise AssertionError
