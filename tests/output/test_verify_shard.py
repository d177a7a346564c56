"""Checks of one shard: ledger against manifest, tar against ledger, every sample's layers and facts."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import about, change_ledger, change_tar, findings, reseal
from samples import finished_run, members_of, preview, row_of

from l2i_builder.config import Config
from l2i_builder.output.shards import MEMBERS, read_members
from l2i_builder.sample import Reason


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 25 rows in three shards."""
    folder = tmp_path_factory.mktemp("template")
    finished_run(folder / "metadata", folder / "out")
    return folder / "out"


@pytest.fixture
def out(template: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(template, tmp_path / "out"))


def test_rows_missing_from_a_ledger_are_found(out: Path) -> None:
    change_ledger(out, lambda lines: lines.pop(5))
    found = about(findings(out))
    assert "its 9 lines are not the 10 input rows" in found["ledger/00001.parquet"]
    assert "account for 24 rows, the input has 25" in found["input.json"]


def test_rows_out_of_order_are_found(out: Path) -> None:
    change_ledger(out, lambda lines: lines.reverse())
    found = about(findings(out))
    assert "in order" in found["ledger/00001.parquet"]
    assert "another order" in found["shards/00001.tar"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": "bored"}, "reasons that do not exist: bored"),
        ({"reason": "timeout"}, "contradict"),
        ({"verdict": "rejected"}, "contradict"),
        ({"reason": "timeout", "verdict": "failed"}, "not those of the manifest"),
    ],
)
def test_verdicts_and_reasons_that_cannot_be_are_found(out: Path, change: dict[str, Any], words: str) -> None:
    change_ledger(out, lambda lines: lines[0].update(change))
    assert words in about(findings(out))["ledger/00001.parquet"]


def test_a_ledger_of_other_columns_is_found(out: Path) -> None:
    pq.write_table(pa.table({"key": ["a"]}), out / "ledger/00001.parquet")
    reseal(out)
    assert "columns" in about(findings(out))["ledger/00001.parquet"]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda samples: samples.pop(2), "samples in only one of them"),
        (lambda samples: samples.append(("f" * 32, samples[0][1])), "no such row"),
        (lambda samples: samples.reverse(), "another order"),
        (lambda samples: samples[1][1].pop("mask.png"), "has the members jpg, fg.png, bg.jpg, txt, json"),
        (lambda samples: samples.clear(), "samples in only one of them"),
    ],
)
def test_a_tar_that_is_not_what_the_ledger_says_is_found(
    out: Path, change: Callable[[list[Any]], Any], words: str, deep: bool
) -> None:
    change_tar(out, change)
    assert words in about(findings(out, deep))["shards/00001.tar"]


def test_pixels_that_must_not_be_there_are_found(out: Path) -> None:
    unsafe = {"reason": Reason.UNSAFE.value, "verdict": "rejected"}
    change_ledger(out, lambda lines: lines[7].update(unsafe))
    found = about(findings(out, deep=False))
    assert "must not be here" in found["audit/00001.tar"]
    assert "must not be here" in found["previews/00001.tar"]


def test_an_audit_tar_holds_refused_rows_of_the_audit_slice_only(out: Path) -> None:
    kept = next(iter(read_members(str(out / "shards/00001.tar"))))
    change_tar(out, lambda samples: samples.append(kept), folder="audit")
    assert "no refused row of the audit slice" in about(findings(out, deep=False))["audit/00001.tar"]


def test_tars_with_other_things_than_samples_are_found(out: Path) -> None:
    with tarfile.open(out / "shards/00001.tar", "w") as tar:
        entry = tarfile.TarInfo("../../x")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    reseal(out)
    assert "no sample's" in about(findings(out))["shards/00001.tar"]


# samples


def other(config: Config, suffix: str) -> bytes:
    return members_of(row_of(5, 5), config, seed=99)[suffix]


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        ("jpg", "foreground is not the image"),
        ("fg.png", "foreground is not the image"),
        ("bg.jpg", "background is not the image"),
        ("mask.png", "foreground is not the image"),
        ("txt", "caption is not the ledger's"),
        ("json", "differ in caption"),
    ],
)
def test_a_member_of_another_sample_is_found_when_looking_deep(out: Path, suffix: str, words: str) -> None:
    config = Config(image={"size": 64})
    change_tar(out, lambda samples: samples[2][1].update({suffix: other(config, suffix)}))
    assert words in about(findings(out))["shards/00001.tar"]
    assert findings(out, deep=False) == []


@pytest.mark.parametrize("suffix", MEMBERS)
def test_a_member_that_does_not_decode_is_found_when_looking_deep(out: Path, suffix: str) -> None:
    change_tar(out, lambda samples: samples[2][1].update({suffix: b"\xff\xfe"}))
    assert f".{suffix} does not decode" in about(findings(out))["shards/00001.tar"]


def test_a_preview_that_does_not_decode_is_found_when_looking_deep(out: Path) -> None:
    change_tar(out, lambda samples: samples[2][1].update({"webp": preview(1)[:40]}), folder="previews")
    assert "preview does not decode" in about(findings(out))["previews/00001.tar"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"aesthetic": None}, "other keys or types"),
        ({"aesthetic": 5}, "other keys or types"),
        ({"extra": 1}, "other keys or types than every sample has: extra"),
        ({"aesthetic": 5.5, "sha256": "x"}, "differ in aesthetic, sha256"),
        ({"width": 512}, "not 64x64"),
    ],
)
def test_facts_of_other_shape_or_value_are_found_when_looking_deep(
    out: Path, change: dict[str, Any], words: str
) -> None:
    def edit(samples: list[tuple[str, dict[str, bytes]]]) -> None:
        members = samples[2][1]
        members["json"] = json.dumps(json.loads(members["json"]) | change).encode()

    change_tar(out, edit)
    assert words in about(findings(out))["shards/00001.tar"]


def test_samples_of_another_size_are_found_when_looking_deep(out: Path) -> None:
    config = Config(image={"size": 128})
    change_tar(
        out, lambda samples: samples[2][1].update({s: other(config, s) for s in MEMBERS if "." in s or s == "jpg"})
    )
    assert "128x128, not 64x64" in about(findings(out))["shards/00001.tar"]


def test_many_wrong_samples_are_summed_up(out: Path) -> None:
    def spoil(samples: list[tuple[str, dict[str, bytes]]]) -> None:
        for _, members in samples:
            members["fg.png"] = other(Config(image={"size": 64}), "fg.png")

    change_tar(out, spoil)
    found = [finding.what for finding in findings(out)]
    assert len(found) == 6
    assert found[-1] == "and 2 more samples are wrong"
