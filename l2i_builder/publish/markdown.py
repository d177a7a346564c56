"""Text of strangers in Markdown."""

from __future__ import annotations

import re
from typing import Any

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|~#])")


def escaped(value: Any) -> str:
    """Return text that Markdown and HTML take for text alone, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(str(value).split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
