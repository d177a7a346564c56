"""Hosts of URLs, and counts of them in bounded memory."""

import numpy as np
import pyarrow as pa
import pytest

from l2i_builder.report.domains import Domains, hosts


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.ORG/a.jpg", "example.org"),
        ("http://user:secret@shop.test:8080/x?y=http://other.test/", "shop.test"),
        ("https://[2001:db8::7]:443/a", "[2001:db8::7]"),
        ("https://host.test?query", "host.test"),
        ("https://host.test#fragment", "host.test"),
        ("https://münchen.test/", "münchen.test"),
        ("javascript:alert(1)", "(no host)"),
        ("data:image/png;base64,a/b/c/d", "(no host)"),
        ("a/b/c/d", "(no host)"),
        ("//no-scheme.test/a", "(no host)"),
        ("http://", "(no host)"),
        ("no url at all", "(no host)"),
        ("", "(no host)"),
        ("https://" + "a" * 500 + ".test/", "a" * 100),
    ],
)
def test_hosts(url, host):
    assert hosts(pa.chunked_array([[url, "https://next.test/x"]])).to_pylist() == [host, "next.test"]


def test_no_urls_have_no_hosts():
    assert hosts(pa.chunked_array([], pa.string())).to_pylist() == []


def flags(*values: bool) -> np.ndarray:
    return np.array(values, bool)


def test_rows_failures_and_kept_are_counted_by_host():
    domains = Domains()
    urls = ["http://a.test/1", "http://A.test:80/2", "http://b.test/3"]
    domains.add(pa.chunked_array([urls]), flags(True, False, False), flags(False, True, False))
    domains.add(pa.chunked_array([["http://a.test/4"]]), flags(True), flags(False))
    assert domains.top("rows", 9) == [
        {"host": "a.test", "rows": 3, "failed": 2, "kept": 1},
        {"host": "b.test", "rows": 1, "failed": 0, "kept": 0},
    ]
    assert [line["host"] for line in domains.top("failed", 9)] == ["a.test"]
    assert [line["host"] for line in domains.top("rows", 1)] == ["a.test"]
    assert Domains().top("rows", 3) == []


def test_they_stay_bounded_and_say_what_they_forgot():
    domains = Domains(limit=10)
    for start in range(0, 800, 20):
        names = [f"http://rare{start + i}.test/" for i in range(20)] + ["http://common.test/"] * 5
        every = flags(*[True] * len(names))
        domains.add(pa.chunked_array([names]), every, every)
    assert len(domains.table) <= 40
    assert domains.top("rows", 1) == [{"host": "common.test", "rows": 200, "failed": 200, "kept": 200}]
    assert 0 < domains.forgotten <= 40
