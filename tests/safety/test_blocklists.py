"""Blocklists: text or parquet, one digest for what they hold, and errors that name the line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from l2i_builder.config import Config, Safety
from l2i_builder.errors import ConfigError
from l2i_builder.output.manifest import RunManifest, claim, identity
from l2i_builder.safety.blocklists import Blocklists, read_hashes

BODY = b"a picture that must not come in"
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


def text(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_listed_file_is_found_by_either_digest_and_others_are_not(tmp_path: Path) -> None:
    shas, md5s = text(tmp_path / "sha.txt", OTHER, SHA256.upper()), text(tmp_path / "md5.txt", MD5)
    assert Blocklists(Safety(sha256_lists=[shas])).body(BODY, SHA256) == "sha256"
    assert Blocklists(Safety(md5_lists=[md5s])).body(BODY, SHA256) == "md5"
    fine = hashlib.sha256(b"fine").hexdigest()
    assert Blocklists(Safety(sha256_lists=[shas], md5_lists=[md5s])).body(b"fine", fine) == ""
    assert Blocklists(Safety()).body(BODY, SHA256) == ""


def test_every_hash_of_a_long_list_is_found(tmp_path: Path) -> None:
    """Also those that end in zero bytes."""
    digests = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(2000)]
    digests += ["ab" * 31 + "00", "ab" * 30 + "0000", "00" * 32]
    lists = Blocklists(Safety(sha256_lists=[text(tmp_path / "l.txt", *digests)]))
    assert all(lists.body(b"", digest) == "sha256" for digest in digests)
    assert lists.body(b"", "ab" * 32) == ""


def test_comments_blanks_and_further_columns_are_passed_over(tmp_path: Path) -> None:
    url = text(tmp_path / "l.csv", "# from the exchange", "", f"{SHA256},100,2024", f"  {OTHER}  since May")
    assert len(read_hashes([url], "sha256")) == 2


@pytest.mark.parametrize("column", ["sha256", "hash"])
def test_parquet_is_read_by_column(tmp_path: Path, column: str) -> None:
    pq.write_table(pa.table({"x": [1], column: [SHA256]}), tmp_path / "l.parquet")
    assert Blocklists(Safety(sha256_lists=[str(tmp_path / "l.parquet")])).body(BODY, SHA256) == "sha256"


def test_a_list_in_an_object_store_is_read(s3_folder: str) -> None:
    from l2i_builder import storage

    storage.write_bytes(f"{s3_folder}/list.txt", SHA256.encode())
    assert len(read_hashes([f"{s3_folder}/list.txt"], "sha256")) == 1


@pytest.mark.parametrize("line", [SHA256[:-1], MD5, "sha256:" + SHA256, "g" * 64])
def test_a_line_that_is_no_hash_of_the_kind_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="no sha256 hash in line 2"):
        read_hashes([text(tmp_path / "l.txt", SHA256, line)], "sha256")


def test_a_list_that_cannot_be_read_is_an_error_never_an_empty_list(tmp_path: Path) -> None:
    for name, content in (
        ("absent.txt", None),
        ("b.txt", b"\xff\xfe\x00"),
        ("c.parquet", b"x"),
        ("d.parquet", "table"),
    ):
        if content == "table":
            pq.write_table(pa.table({"x": [1]}), tmp_path / name)
        elif content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            read_hashes([str(tmp_path / name)], "sha256")


def flipped(pdq: str, bits: int) -> str:
    value = int(pdq, 16)
    for bit in np.random.default_rng(0).permutation(256)[:bits]:
        value ^= 1 << int(bit)
    return f"{value:064x}"


@pytest.mark.parametrize(("bits", "radius", "found"), [(0, 31, True), (31, 31, True), (32, 31, False), (9, 8, False)])
def test_a_picture_is_found_within_the_radius(tmp_path: Path, bits: int, radius: int, found: bool) -> None:
    listed = [hashlib.sha256(bytes([i])).hexdigest() for i in range(50)]
    lists = Blocklists(Safety(pdq_lists=[text(tmp_path / "p.txt", *listed)], pdq_radius=radius))
    assert lists.picture(flipped(listed[20], bits)) == (f"pdq, {bits} bits off" if found else "")
    assert lists.picture("") == ""


# identity


def test_what_the_lists_hold_is_part_of_the_run_s_identity_and_where_they_lie_is_not(tmp_path: Path) -> None:
    one = Safety(sha256_lists=[text(tmp_path / "a.txt", SHA256, OTHER)])
    same = Safety(
        sha256_lists=[text(tmp_path / "b.txt", OTHER.upper()), text(tmp_path / "c.txt", SHA256, "# x", OTHER)]
    )
    less = Safety(sha256_lists=[text(tmp_path / "d.txt", OTHER)])
    digests = [Blocklists(config).digests() for config in (one, same, less)]
    assert digests[0] == digests[1] != digests[2]
    assert identity(Config(safety=one)) == identity(Config(safety=same))
    claim(str(tmp_path / "out"), RunManifest.of(Config(safety=one), "i", digests[0]))
    with pytest.raises(ConfigError, match="blocklist sha256"):
        claim(str(tmp_path / "out"), RunManifest.of(Config(safety=less), "i", digests[2]))
