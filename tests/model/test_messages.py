"""What other libraries' errors say."""

from __future__ import annotations

from model.messages import said


def test_the_first_line_without_its_period() -> None:
    assert said(OSError("\nno such file.\nTraceback ...")) == "no such file"
    assert said(ValueError("half..")) == "half"
    assert said(RuntimeError()) == "RuntimeError"
