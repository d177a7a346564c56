"""What a robots.txt says to one crawler, by RFC 9309: groups, wildcards, and the longest matching rule decides."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"\s*([A-Za-z-]+)\s*:\s*([^#]*)")
_DELAY = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_OUTSIDE = re.compile(r"[^!-~]+")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_RULES = frozenset({"allow", "disallow"})


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern without its wildcards: the pieces between them, in order. whole: nothing may follow the last one."""

    pieces: tuple[str, ...]
    whole: bool
    allow: bool

    def matches(self, path: str) -> bool:
        first, *others = self.pieces
        if not path.startswith(first):
            return False
        place, last = len(first), others.pop() if others and self.whole else None
        for piece in others:
            place = path.find(piece, place) + len(piece)
            if place < len(piece):
                return False
        if last is not None:
            return path.endswith(last) and len(path) - len(last) >= place
        return not self.whole or place == len(path)


class Rules:
    """The rules of a robots.txt for ``agent``, our product token in lower case; whatever is no rule is passed over.

    delay: seconds between requests that it asks for (Crawl-delay, which is no part of the RFC), 0 = none.
    """

    def __init__(self, text: str, agent: str) -> None:
        groups = _groups(text)
        found = groups.get(agent, groups.get("*", []))  # groups of the same name count as one
        delays = [float(value) for name, value in found if name == "crawl-delay" and _DELAY.fullmatch(value)]
        self.delay = max(delays, default=0.0)
        patterns = {(_normal(value), name == "allow") for name, value in found if name in _RULES and value}
        # The longest first; of equally long ones what allows.
        self._rules = [
            _rule(pattern, allow) for pattern, allow in sorted(patterns, key=lambda p: (-len(p[0]), not p[1]))
        ]

    def allow(self, path: str) -> bool:
        """Whether a path, with its query, may be fetched."""
        path = _normal(path).replace("*", "%2A").replace("$", "%24")  # as a pattern writes the characters themselves
        return next((rule.allow for rule in self._rules if rule.matches(path)), True)


def _groups(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return user agent -> its lines (name, value), names in lower case."""
    groups: dict[str, list[tuple[str, str]]] = {}
    named: list[list[tuple[str, str]]] = []
    begun = False  # whether the user agents of this group are complete
    for line in re.split(r"\r\n|\r|\n", text):
        match = _LINE.match(line)
        if not match:
            continue
        name, value = match[1].lower(), match[2].strip()
        if name == "user-agent":
            if begun:
                named, begun = [], False
            named.append(groups.setdefault(value.partition("/")[0].strip().lower(), []))
        elif name in _RULES or name == "crawl-delay":
            begun = True
            for group in named:
                group.append((name, value))
    return groups


def _rule(pattern: str, allow: bool) -> Rule:
    whole = pattern.endswith("$")
    pattern = pattern.removesuffix("$").replace("$", "%24")
    if not pattern.startswith(("/", "*")):
        pattern = f"/{pattern}"
    return Rule(tuple(re.split(r"\*+", pattern)), whole, allow)


def _normal(path: str) -> str:
    """Return a path or pattern in one spelling: escapes in upper case, and only where they are needed."""
    path = _OUTSIDE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), path)
    return _ESCAPE.sub(_plain, path)


def _plain(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()
