"""Opt-out signals in an answer's headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from l2i_builder.fetch.optout import agent_token, opt_out


def signals(*headers: tuple[str, str]) -> str:
    together: dict[str, list[str]] = {}
    for name, value in headers:
        together.setdefault(name.lower(), []).append(value)
    return opt_out({name: "\n".join(values) for name, values in together.items()}, "l2i-builder")


class TestXRobotsTag:
    @pytest.mark.parametrize(
        ("value", "found"),
        [
            ("noai", "noai"),
            ("NoAI, NoImageAI", "noai, noimageai"),
            ("noimageindex", "noimageindex"),
            ("noindex,nofollow", "noindex"),
            ("none", "none"),
            ("  noai  ", "noai"),
            ("noai noimageai", "noai, noimageai"),
            ("noai; noimageai;", "noai, noimageai"),
            ("l2i-builder: noai nofollow", "noai"),
            ("l2i-builder: noai", "noai"),
            ("L2I-Builder: noimageai, nofollow", "noimageai"),
            ("*: noai", "noai"),
            ("otherbot: noarchive, l2i-builder: noai", "noai"),
            ("noai, otherbot: noindex", "noai"),
            ("unavailable_after: 25 Jun 2031 15:00:00 PST, noai", "noai"),
            ("unavailable_after: Friday, 25-Jun-31 15:00:00 UTC, noai", "noai"),
            ("max-image-preview: large, noimageai", "noimageai"),
            ("max-snippet:-1, noai", "noai"),
        ],
    )
    def test_forbids(self, value, found):
        assert signals(("X-Robots-Tag", value)) == f"x-robots-tag: {found}"

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "all",
            "index, follow",
            "nofollow, noarchive, nosnippet",
            "otherbot: noai",
            "otherbot: noindex, noai",  # the scope goes on until the next one
            "l2i-builder: all, otherbot: noai",
            "max-image-preview: none",
            "noaiplease",
            ": noai",
            ",,,",
        ],
    )
    def test_does_not_forbid(self, value):
        assert signals(("X-Robots-Tag", value)) == ""

    def test_headers_add_up_and_each_starts_unscoped(self):
        found = signals(("X-Robots-Tag", "otherbot: nofollow"), ("x-robots-tag", "noimageai"), ("X-ROBOTS-TAG", "noai"))
        assert found == "x-robots-tag: noai, noimageai"

    def test_a_multidict_adds_up_too(self):
        headers = CIMultiDict([("X-Robots-Tag", "otherbot: nofollow"), ("X-Robots-Tag", "noai")])
        assert opt_out(headers, "l2i-builder") == "x-robots-tag: noai"


class TestPreferences:
    @pytest.mark.parametrize("value", ["train-ai=n", "search=y, train-ai=n", "TRAIN-AI = n", "train-ai=n;exp=1,bots=y"])
    def test_content_usage_forbids_training(self, value):
        assert signals(("Content-Usage", value)) == "content-usage: train-ai=n"

    def test_generative_training_is_what_the_shards_are_for(self):
        assert signals(("Content-Usage", "train-ai=y, train-genai=n")) == "content-usage: train-genai=n"

    @pytest.mark.parametrize("value", ["train-ai=y", "train-ai", "search=n", "not-train-ai=n", "train-ai=no", ""])
    def test_content_usage_does_not_forbid(self, value):
        assert signals(("Content-Usage", value)) == ""

    def test_content_signal(self):
        assert signals(("Content-Signal", "search=yes, ai-train=no")) == "content-signal: ai-train=no"
        assert signals(("Content-Signal", "search=yes, ai-train=yes")) == ""

    def test_tdm_reservation(self):
        assert signals(("TDM-Reservation", "1")) == "tdm-reservation: 1"
        assert signals(("TDM-Reservation", "1"), ("TDM-Reservation", "1")) == "tdm-reservation: 1"
        assert signals(("TDM-Reservation", "0")) == ""

    def test_order_does_not_depend_on_the_server(self):
        headers = [("TDM-Reservation", "1"), ("Content-Usage", "train-ai=n"), ("X-Robots-Tag", "noindex, noai")]
        expected = "x-robots-tag: noai, noindex; content-usage: train-ai=n; tdm-reservation: 1"
        assert signals(*headers) == signals(*reversed(headers)) == expected


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("l2i-builder (+mailto:me@example.org)", "l2i-builder"),
        ("MyBot/1.0", "mybot"),
        ("MyBot(+https://example.org)", "mybot"),
        (" mybot ", "mybot"),
        ("", ""),
    ],
)
def test_agent_token(user_agent, token):
    assert agent_token(user_agent) == token


@given(st.text(max_size=60))
def test_takes_any_value(value):
    assert isinstance(signals(("X-Robots-Tag", value), ("Content-Usage", value), ("TDM-Reservation", value)), str)
