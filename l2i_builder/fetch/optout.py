"""Reading, from an answer's headers, whether its owner forbids use for machine learning."""

from __future__ import annotations

import re
from collections.abc import Mapping

_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})  # none = noindex, nofollow
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_PREFERENCES = {"content-usage": ("train-ai=n", "train-genai=n"), "content-signal": ("ai-train=no",)}
_AGENT = re.compile(r"[\w*.\-]+")


def agent_token(user_agent: str) -> str:
    """Return the product token that rules name us by: ``l2i-builder`` of ``l2i-builder/1 (+mailto:…)``."""
    return re.split(r"[/\s(]", user_agent.strip(), maxsplit=1)[0].lower()


def opt_out(headers: Mapping[str, str], agent: str) -> str:
    """Return the opt-out signals of an answer, e.g. ``"x-robots-tag: noai, noimageai"``; "" when there are none.

    headers: names in lower case, the values of repeated ones on lines of their own; or a multidict. Read are
    X-Robots-Tag (noai, noimageai, noindex, noimageindex, none; unscoped, or scoped to ``agent`` or ``*``),
    Content-Usage (IETF AIPREF draft: train-ai=n, train-genai=n), Content-Signal (ai-train=no) and TDM-Reservation
    (1; W3C TDM reservation protocol). The order is fixed.
    """
    signals = []
    if "x-robots-tag" in headers:
        found = {d for value in _values(headers, "x-robots-tag") for d in _robots_directives(value, agent)}
        signals += [f"x-robots-tag: {', '.join(sorted(found))}"] if found else []
    for name, forbids in _PREFERENCES.items():
        if name in headers:
            members = _members(_values(headers, name))
            signals += [f"{name}: {member}" for member in forbids if member in members]
    if "tdm-reservation" in headers and "1" in _members(_values(headers, "tdm-reservation")):
        signals.append("tdm-reservation: 1")
    return "; ".join(signals)


def _values(headers: Mapping[str, str], name: str) -> list[str]:
    getall = getattr(headers, "getall", None)
    return list(getall(name)) if getall else headers[name].split("\n")


def _robots_directives(value: str, agent: str) -> set[str]:
    """Return the forbidding directives of one X-Robots-Tag value that apply to ``agent``.

    A user agent scopes what follows it, up to the next one: ``otherbot: noindex, noai, l2i-builder: noimageai``.
    """
    found: set[str] = set()
    scope = ""
    for item in value.lower().split(","):
        name, colon, rest = (part.strip() for part in item.partition(":"))
        if colon and name in _VALUED:
            continue
        if colon and _AGENT.fullmatch(name):
            scope, name = name, rest
        if scope in ("", "*", agent):
            found |= _DIRECTIVES.intersection(re.split(r"[\s;]+", name))  # some separate them by blanks
    return found


def _members(values: list[str]) -> set[str]:
    """Return the members, ``key=value`` or bare, of a structured field, without parameters and blanks."""
    return {re.sub(r"\s", "", member.partition(";")[0]).lower() for member in ",".join(values).split(",")}
