"""The rules of a robots.txt, by the examples of RFC 9309 and what files of the web hold."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2i_builder.fetch.robots_rules import Rules


def rules(*lines: str) -> Rules:
    return Rules("\n".join(lines), "l2i-builder")


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("/", "/a.jpg", True),
        ("/private", "/private/a.jpg", True),
        ("/private/", "/private", False),
        ("/*.jpg", "/a/b.jpg?w=1", True),
        ("/*.jpg$", "/a/b.jpg", True),
        ("/*.jpg$", "/a/b.jpg?w=1", False),
        ("*.jpg", "/a.jpg", True),
        ("/*?size=", "/a?x=1&size=2", False),
        ("/*?*size=", "/a?x=1&size=2", True),
        ("/a$", "/a", True),
        ("/a$", "/ab", False),
        ("/a*b*c$", "/abc-abc", True),
        ("/ab*bc$", "/abc", False),  # the pieces may not share a character
        ("/*", "/", True),
        ("/A", "/a", False),
        ("images/", "/images/a.jpg", True),
        ("/caf\u00e9", "/caf%c3%a9/a.jpg", True),
        ("/caf%C3%A9", "/caf%c3%a9", True),
        ("/%7Ejoe", "/~joe/a.jpg", True),
        ("/a%2Fb", "/a/b", False),
        ("/a%2Ab", "/a*b", True),
        ("/a%2Ab", "/acb", False),
        ("/a$b", "/a$b", True),
        ("http://[", "/a", False),
    ],
)
def test_a_pattern_matches(pattern: str, path: str, found: bool) -> None:
    assert rules("User-agent: *", f"Disallow: {pattern}").allow(path) == (not found)


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        (["Disallow: /a", "Allow: /a/b"], True),  # the longest decides, in any order
        (["Allow: /a/b", "Disallow: /a"], True),
        (["Allow: /a", "Disallow: /a/b"], False),
        (["Disallow: /a/b.jpg", "Allow: /a/b.jpg"], True),  # of two alike the one that allows
        (["Disallow: /", "Allow: /*.jpg$"], True),
        (["Disallow:"], True),
        (["Disallow: # all of it"], True),
        (["disALLOW : /a # why"], False),
        (["Disallow /a"], True),
        (["Noindex: /a"], True),
    ],
)
def test_of_several_rules_one_decides(lines: list[str], allowed: bool) -> None:
    assert rules("User-agent: *", *lines).allow("/a/b.jpg") == allowed


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        (["User-agent: *", "Disallow: /", "User-agent: l2i-builder", "Allow: /"], True),
        (["User-agent: L2I-Builder/2.0", "Disallow: /", "User-agent: *", "Disallow:"], False),
        (["User-agent: one", "User-agent: l2i-builder", "Disallow: /"], False),
        (["User-agent: l2i-builder", "User-agent: two", "", "Sitemap: /x", "Disallow: /"], False),
        (["User-agent: l2i-builder", "Disallow: /b", "User-agent: x", "Disallow:", "User-agent: l2i-builder",
          "Disallow: /a"], False),
        (["User-agent: l2i", "Disallow: /"], True),
        (["Disallow: /"], True),  # of nobody
        (["User-agent:", "Disallow: /"], True),
    ],
)  # fmt: skip
def test_the_group_of_our_name_or_that_of_all_is_ours(lines: list[str], allowed: bool) -> None:
    assert rules(*lines).allow("/a") == allowed


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_like(end: str) -> None:
    assert not Rules(end.join(["User-agent: *", "Disallow: /a", ""]), "x").allow("/a")


@pytest.mark.parametrize(
    ("value", "delay"),
    [
        ("2", 2),
        ("0.5", 0.5),
        ("", 0),
        ("\u00b2", 0),
        ("-1", 0),
        ("1e9", 0),
        ("9" * 5000, 0),
        ("nan", 0),
        ("1 # slow", 1),
    ],
)
def test_a_crawl_delay_is_a_number_or_nothing(value: str, delay: float) -> None:
    found = rules("User-agent: *", f"Crawl-delay: {value}", "Disallow: /a")
    assert found.delay == delay
    assert not found.allow("/a")


@given(st.text("/ab*$", max_size=8), st.text("/ab", max_size=10))
def test_patterns_match_as_regular_expressions_do(pattern: str, path: str) -> None:
    path = f"/{path}"
    whole = pattern.endswith("$")
    body = pattern.removesuffix("$")
    body = body if body.startswith(("/", "*")) else f"/{body}"
    wanted = re.match(re.escape(body).replace(r"\*", ".*") + (r"\Z" if whole else ""), path) is not None
    assert rules("User-agent: *", f"Disallow: {pattern}").allow(path) == (not wanted or not pattern)


@given(st.text(max_size=300) | st.lists(st.sampled_from(
    ["User-agent: *", "Disallow: ", "Allow: ", "/", "*", "$", "%", "%2", "\n", "\r", "#", ":", "Crawl-delay: 1", "\0"]
)).map("".join), st.text("/a%*$?", max_size=20))  # fmt: skip
def test_nothing_raises(text: str, path: str) -> None:
    assert isinstance(Rules(text, "x").allow(path), bool)
