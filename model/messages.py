"""What other libraries' errors say, fit for a sentence."""

from __future__ import annotations


def said(error: Exception) -> str:
    """Return the first line of an error's message without its last period; the error's class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
