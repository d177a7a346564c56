"""Verify finds every damage of this list, also where manifest and index were made to agree with it afterwards.

The folder has all that a run can leave: kept, audited and previewed samples, features, undecided rows, tombstones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from damage import about, change_ledger, change_manifest, change_tar, findings, reseal
from finished_toy import toy_run
from samples import finished_run
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.errors import VerifyError
from l2i_builder.output.features import Features, read_features, write_features
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import pretty
from l2i_builder.output.refilter import refilter
from l2i_builder.output.takedown import take_down
from l2i_builder.output.tombstones import Identifier
from l2i_builder.output.verify import output_digest
from l2i_builder.sample import sample_key

THRESHOLDS = {"judge": {"mask": {"threshold": 0.5}, "inpainting": {"threshold": 0.5}}}
Samples = list[tuple[str, dict[str, bytes]]]
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 rows in three shards. Of ten, 3 is a bad mask, 5 a 404, 7 an audited bad inpainting; 8 was taken down."""
    folder = tmp_path_factory.mktemp("template")
    finished_run(folder / "metadata", folder / "out", **THRESHOLDS)
    key = read_ledger(str(folder / "out/ledger/00001.parquet"))["key"][8].as_py()
    take_down(str(folder / "out"), [Identifier("key", key)])
    assert findings(folder / "out") == []
    return folder / "out"


@pytest.fixture
def out(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "out"))


def image_of(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def swap(samples: Samples, *suffixes: str) -> None:
    one, other = samples[1][1], samples[2][1]
    for suffix in suffixes:
        one[suffix], other[suffix] = other[suffix], one[suffix]


def touch_foreground(samples: Samples) -> None:
    members = samples[1][1]
    image, mask = image_of(members["fg.png"]), image_of(members["mask.png"])
    y, x = np.argwhere(mask > 26)[0]
    image[y, x, 1] ^= 1
    members["fg.png"] = bytes(cv2.imencode(".png", image)[1])


def touch_background(samples: Samples) -> None:
    members = samples[1][1]
    image, mask = image_of(members["bg.jpg"]), image_of(members["mask.png"])
    y, x = np.argwhere(cv2.dilate(mask, np.ones((40, 40), np.uint8)) <= 26)[0] if (mask.max() < 26) else (0, 0)
    image[y : y + 8, x : x + 8] = 255 - image[y : y + 8, x : x + 8]
    members["bg.jpg"] = bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def grow_mask(samples: Samples) -> None:
    members = samples[1][1]
    mask = cv2.dilate(image_of(members["mask.png"]), np.ones((5, 5), np.uint8))
    members["mask.png"] = bytes(cv2.imencode(".png", mask)[1])


def facts(**changes: Any) -> Callable[[Samples], None]:
    def edit(samples: Samples) -> None:
        members = samples[1][1]
        members["json"] = json.dumps(json.loads(members["json"]) | changes).encode()

    return edit


TARS: list[tuple[str, str, Callable[[Samples], Any], str]] = [
    ("an image of another sample", "shards", lambda s: swap(s, "jpg"), "foreground is not the image"),
    ("a foreground of another sample", "shards", lambda s: swap(s, "fg.png"), "foreground is not the image"),
    ("a background of another sample", "shards", lambda s: swap(s, "bg.jpg"), "background is not the image"),
    ("a mask of another sample", "shards", lambda s: swap(s, "mask.png"), "foreground is not the image"),
    ("a caption of another sample", "shards", lambda s: swap(s, "txt"), "caption is not the ledger's"),
    ("facts of another sample", "shards", lambda s: swap(s, "json"), "JSON and the ledger differ"),
    ("all pictures of two samples swapped", "shards", lambda s: swap(s, "jpg", "fg.png", "bg.jpg", "mask.png"), "mask"),
    ("image and background swapped with another", "shards", lambda s: swap(s, "jpg", "bg.jpg", "fg.png"), "foreground"),
    ("F is not I at one pixel where m > 0.1", "shards", touch_foreground, "foreground is not the image"),
    ("B is not I in one block outside the hole", "shards", touch_background, "background is not the image"),
    ("a mask that grew", "shards", grow_mask, "foreground is not the image"),
    ("a score edited in the JSON", "shards", facts(mask_score=0.99), "JSON and the ledger differ in mask_score"),
    ("a key more in the JSON", "shards", facts(note="x"), "other keys or types"),
    ("a sample removed", "shards", lambda s: s.pop(1), "samples in only one of them"),
    ("a sample added", "shards", lambda s: s.append(("f" * 32, s[0][1])), "no such row"),
    ("samples in another order", "shards", lambda s: s.reverse(), "another order"),
    ("a member removed", "shards", lambda s: s[1][1].pop("fg.png"), "has the members"),
    ("an audited sample removed", "audit", lambda s: s.pop(0), "samples of the audit slice are missing"),
    ("an audited sample's image replaced", "audit", lambda s: s[0][1].update(jpg=s[0][1]["bg.jpg"]), "foreground"),
    ("previews of two samples swapped", "previews", lambda s: swap(s, "webp"), ""),
    ("a preview of a row that has none", "previews", lambda s: s.append(("f" * 32, s[0][1])), "no such row"),
    ("a preview cut off", "previews", lambda s: s[0][1].update(webp=s[0][1]["webp"][:50]), "does not decode"),
]


@pytest.mark.parametrize(("folder", "change", "words"), [d[1:] for d in TARS], ids=[d[0] for d in TARS])
def test_tars(out: Path, folder: str, change: Callable[[Samples], Any], words: str) -> None:
    change_tar(out, change, folder)
    found = about(findings(out))
    file = f"{folder}/00001.tar" if words else "shards/00001.tar"
    assert (words or "does not look like its preview") in found[file]


def edit(index: int, **changes: Any) -> Callable[[Lines], None]:
    return lambda lines: lines[index].update(changes)


def other_caption(lines: Lines) -> None:
    line = lines[3]
    line["caption"] = "another"
    line["key"] = sample_key(line["url"], "another")


GONE = {"reason": "taken_down", "verdict": "rejected", "stage": "takedown"}
LEDGERS: list[tuple[str, Callable[[Lines], Any], str]] = [
    ("a kept row with a score under the threshold", edit(0, mask_score=0.4), "kept with a mask score of 0.400 under"),
    ("a kept row without a score", edit(0, inpainting_score=-1.0), "kept without a inpainting score"),
    ("a refused row with a good score", edit(7, inpainting_score=0.9), "inpainting_rejected with a score of 0.900"),
    (
        "a kept row made a refused one",
        edit(0, reason="mask_rejected", verdict="rejected"),
        "mask_rejected with a score",
    ),
    ("another reason", edit(5, reason="http_5xx"), "counts of reasons"),
    ("a verdict that is not its reason's", edit(5, verdict="rejected"), "contradict"),
    ("another URL", edit(5, url="http://elsewhere.test/"), "its key is not that of URL and caption"),
    ("another caption", edit(5, caption="x"), "its key is not that of URL and caption"),
    ("another key", edit(5, key="a" * 32), "its key is not that of URL and caption"),
    ("a row removed", lambda lines: lines.pop(4), "are not the 10 input rows"),
    ("a row twice", lambda lines: lines.insert(4, lines[4]), "are not the 10 input rows"),
    ("two rows swapped", lambda lines: lines.insert(0, lines.pop(1)), "in order"),
    ("a row of another shard", edit(5, shard=2), "in order"),
    ("a tombstone that nobody asked for", edit(5, **GONE), "no takedown names it"),
    ("a tombstone with a URL", edit(8, url="http://a.test/x.jpg"), "says more than place and key"),
    ("a tombstone that came back", edit(8, reason="http_4xx", verdict="failed"), "taken down, but is still here"),
    ("another size of the mask", edit(0, mask_area=0.125), ""),
    ("another head", edit(0, mask_head="mask-v9"), ""),
]


@pytest.mark.parametrize(("change", "words"), [d[1:] for d in LEDGERS], ids=[d[0] for d in LEDGERS])
def test_ledgers(out: Path, change: Callable[[Lines], Any], words: str) -> None:
    change_ledger(out, change)
    found = about(findings(out))
    assert found, "not found"
    if words:
        assert words in found["ledger/00001.parquet"]


def first(features: Features) -> tuple[str, np.ndarray]:
    return next(iter(features.vectors["mask"].items()))


FEATURES: list[tuple[str, Callable[[Features], Any], str]] = [
    ("a row without its features", lambda f: f.vectors["mask"].pop(first(f)[0]), "only one of score and features"),
    ("features of no row", lambda f: f.vectors["mask"].update({"f" * 32: first(f)[1]}), "only one of score"),
    ("a number that is none", lambda f: f.vectors["mask"].update({first(f)[0]: first(f)[1] * np.nan}), "finite"),
    ("another length", lambda f: f.kinds["mask"].update(dim=3), "are not 3 finite numbers"),
    ("another head", lambda f: f.kinds["mask"].update(head="mask-v9"), "says that toy-1 scored, not mask-v9"),
]


@pytest.mark.parametrize(("change", "words"), [d[1:] for d in FEATURES], ids=[d[0] for d in FEATURES])
def test_features(out: Path, change: Callable[[Features], Any], words: str) -> None:
    path = out / "features/00001.parquet"
    features = read_features(str(path))
    features.kinds = {task: dict(kind) for task, kind in features.kinds.items()}
    change(features)
    keys = [*read_ledger(str(out / "ledger/00001.parquet"))["key"].to_pylist(), "f" * 32]
    path.write_bytes(write_features(features, keys, {}))
    reseal(out)
    assert words in about(findings(out))["features/00001.parquet"]


def drop_features(out: Path) -> None:
    (out / "features/00001.parquet").unlink()
    change_manifest(out, lambda data: data["files"].pop("features/00001.parquet"))


def drop_audit(out: Path) -> None:
    (out / "audit/00001.tar").unlink()
    change_manifest(out, lambda data: data["files"].pop("audit/00001.tar"))


def other_md5(out: Path) -> None:
    change_manifest(out, lambda data: data["files"]["shards/00001.tar"].update(md5="0" * 32))
    from l2i_builder.output.shards import wids_index

    (out / "index.json").write_bytes(wids_index(str(out)))


def change_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        data = json.loads((out / name).read_bytes())
        change(data)
        (out / name).write_bytes(pretty(data))

    return edit


def swap_shards(out: Path) -> None:
    for folder, suffix in {"shards": "tar", "audit": "tar", "previews": "tar", "ledger": "parquet"}.items():
        one, two = (out / folder / f"0000{n}.{suffix}" for n in (0, 1))
        spare = one.rename(out / "spare")
        two.rename(one)
        spare.rename(two)
    reseal(out, 0)
    reseal(out, 1)


FILES: list[tuple[str, Callable[[Path], Any], str, str]] = [
    ("features removed", drop_features, "features/00001.parquet", "their features are missing"),
    ("an audit tar removed", drop_audit, "audit/00001.tar", "audit slice are missing"),
    ("two shards swapped", swap_shards, "ledger/00001.parquet", "in order"),
    ("a wrong MD5", other_md5, "manifests/00001.json", "MD5 of shards/00001.tar is wrong"),
    ("an index with a wrong count", change_json("index.json", lambda d: d["shardlist"][0].update(nsamples=1)),
     "index.json", "does not list the shards"),
    ("an index without a shard", change_json("index.json", lambda d: d["shardlist"].pop()), "index.json", "not list"),
    ("stats with a wrong count", change_json("stats/00001.json", lambda d: d.update(successes=1)),
     "stats/00001.json", "not those of the manifest"),
    ("a threshold edited in run.json", change_json("run.json", lambda d: d["config"]["judge"]["mask"].update(
        threshold=0.1)), "run.json", "digest does not match"),
    ("an origin added to run.json", change_json("run.json", lambda d: d.update(derived_from="0" * 64)),
     "run.json", "digest does not match"),
    ("the log of takedowns removed", lambda out: (out / "takedowns.jsonl").unlink(),
     "ledger/00001.parquet", "no takedown names it"),
    ("a list of undecided rows that are none", lambda out: (out / "undecided.parquet").write_bytes(b"x"),
     "undecided.parquet", "cannot be read"),
    ("a folder more", lambda out: (out / "extra").mkdir(), "extra/", "no run writes such a file"),
    ("a file more", lambda out: (out / "x.bin").write_bytes(b"x"), "x.bin", "no run writes such a file"),
    ("a file more in a folder", lambda out: (out / "features/x.parquet").write_bytes(b"x"),
     "features/x.parquet", "no run writes such a file"),
    ("a shard more", lambda out: shutil.copy(out / "shards/00001.tar", out / "shards/00009.tar"),
     "shards/00009.tar", "no run writes such a file"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "file", "words"), [d[1:] for d in FILES], ids=[d[0] for d in FILES])
def test_files(out: Path, change: Callable[[Path], Any], file: str, words: str) -> None:
    change(out)
    assert words in about(findings(out))[file]


@pytest.mark.parametrize("damage", ["removed", "a row less"])
def test_undecided_rows_that_are_not_listed(tmp_path: Path, damage: str) -> None:
    import pyarrow.parquet as pq

    config = toy_run(tmp_path, tmp_path / "out", rows=20)
    refilter(config.out, str(tmp_path / "new"), ["judge.mask.threshold=0.05", "judge.inpainting.threshold=0.1"])
    path = tmp_path / "new/undecided.parquet"
    table = pq.read_table(path)
    path.unlink()
    if damage != "removed":
        pq.write_table(table.slice(1), path)
    assert f"the ledgers have {len(table)}" in about(findings(tmp_path / "new"))["undecided.parquet"]


def test_a_score_that_is_not_that_of_the_features_is_found_where_the_head_is_at_hand(tmp_path: Path) -> None:
    from finished_toy import judged_run, tiny_heads

    config = judged_run(tmp_path, tmp_path / "out", tiny_heads(tmp_path))
    assert findings(config.out) == []
    lines = read_ledger(f"{config.out}/ledger/00000.parquet").to_pylist()
    index = next(i for i, line in enumerate(lines) if line["reason"] == "mask_rejected" and not line["audit"])
    change_ledger(tmp_path / "out", edit(index, mask_score=lines[index]["mask_score"] - 0.01), 0)
    assert "not those of the features" in about(findings(config.out))["features/00000.parquet"]


def test_what_is_changed_consistently_has_another_digest(out: Path, template: Path) -> None:
    """Somebody who rewrites everything that depends on a change is found by the digest alone."""
    assert output_digest(str(out)) == output_digest(str(template))
    change_ledger(out, edit(0, pwatermark=0.5))
    change_tar(out, lambda samples: samples[0][1].update(
        json=json.dumps(json.loads(samples[0][1]["json"]) | {"pwatermark": 0.5}).encode()))  # fmt: skip
    assert findings(out) == []
    assert output_digest(str(out)) != output_digest(str(template))


def test_the_command_compares_the_digest_it_prints(template: Path) -> None:
    said = CliRunner().invoke(app, ["verify", str(template)])
    assert said.exit_code == 0, said.output
    digest = said.output.split()[-1]
    assert digest == output_digest(str(template))
    assert CliRunner().invoke(app, ["verify", str(template), "--digest", digest]).exit_code == 0
    other = CliRunner().invoke(app, ["verify", str(template), "--digest", "0" * 64])
    assert isinstance(other.exception, VerifyError)
