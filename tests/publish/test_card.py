"""The dataset card and the Croissant metadata, as people and programs read them."""

from __future__ import annotations

import fnmatch
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from finished_toy import toy_run
from layered_toy import layered_run
from PIL import Image

from l2i_builder import labels
from l2i_builder.configfile import load_config
from l2i_builder.errors import OutputError
from l2i_builder.judgements import Judgement, to_table
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import identity
from l2i_builder.output.shards import read_members
from l2i_builder.publish.card import About, size_of
from l2i_builder.publish.markdown import escaped
from l2i_builder.publish.release import Options, publish
from l2i_builder.statistics import collect

ABOUT = About("My *layers*", "cc-by-4.0", "remove@example.org", date="2026-01-02")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    toy_run(folder, folder / "out", rows=60)
    return folder / "out"


@pytest.fixture(scope="module")
def published(run, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("published") / "set"
    publish(str(run), str(to), Options(ABOUT, shard_bytes=100_000))
    return to


def card(folder: Path) -> tuple[dict, str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_front_matter_names_the_files_of_each_split(published):
    front, _ = card(published)
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    (default,) = front["configs"]
    assert default["data_files"] == [{"split": "train", "path": "data/train-*.tar"}]
    assert list(published.glob(default["data_files"][0]["path"]))


def test_its_funnel_is_the_ledgers(run, published):
    _, text = card(published)
    rows = [line for path in run.glob("ledger/*") for line in read_ledger(str(path)).to_pylist()]
    kept = sum(not row["reason"] for row in rows)
    assert f"| input rows | {len(rows)} |" in text
    assert re.search(rf"= kept \| {kept} \|", text)
    for reason in {row["reason"] for row in rows} - {""}:
        assert f"| `{reason}` | {sum(row['reason'] == reason for row in rows)} |" in text


def test_its_configuration_is_the_one_that_built_the_run(published, tmp_path):
    _, text = card(published)
    found = re.search(r"```yaml\n(.*?)```", text, re.S)
    assert found
    (tmp_path / "config.yaml").write_text(found[1])
    again = identity(load_config(tmp_path / "config.yaml"))
    assert yaml.safe_load(found[1]) == again


def test_pictures_are_there_and_show_something(published):
    _, text = card(published)
    named = re.findall(r"!\[.*?\]\((images/.*?)\)", text)
    assert {"images/kept.webp", "images/kept-lowest-mask.webp", "images/mask-rejected.webp"} <= set(named)
    for name in named:
        with Image.open(io.BytesIO((published / name).read_bytes())) as sheet:
            assert sheet.width > 4 * 150
            assert len(sheet.getcolors(10**6) or []) > 100


def test_without_pictures_the_card_says_so(run, tmp_path):
    publish(str(run), str(tmp_path / "set"), Options(ABOUT, pictures=False))
    _, text = card(tmp_path / "set")
    assert "without pictures" in text
    assert "images/" not in text


def test_names_given_by_people_are_no_markup(published):
    _, text = card(published)
    assert text.lstrip().startswith("# My \\*layers\\*")
    assert escaped("<script>|`x`\n# y") == "&lt;script&gt;\\|\\`x\\` \\# y"


def test_precision_comes_from_people_where_they_have_labelled_enough(run, tmp_path):
    judged = [
        (int(path.stem), line)
        for path in run.glob("ledger/*")
        for line in read_ledger(str(path)).to_pylist()
        if line["mask_score"] >= 0
    ]
    judgements = [
        Judgement(
            line["key"], "anna", mask="good" if place % 4 else "bad", queue="audit", weight=1.0, shard=shard, time=1
        )
        for place, (shard, line) in enumerate(judged)
    ]
    publish(str(run), str(tmp_path / "before"), Options(ABOUT, pictures=False))
    assert "labels of people" not in card(tmp_path / "before")[1]
    labels.write_labels(to_table(judgements), str(run / "labels.parquet"))
    try:
        publish(str(run), str(tmp_path / "after"), Options(ABOUT, pictures=False))
    finally:
        (run / "labels.parquet").unlink()
    kept = [place for place, (_, line) in enumerate(judged) if line["mask_score"] >= 0.3]
    share = sum(place % 4 > 0 for place in kept) / len(kept)
    line = next(line for line in card(tmp_path / "after")[1].splitlines() if line.startswith("| mask |"))
    assert f"| {share:.2f} [" in line
    assert f"{len(judged)} labels of people" in line


def test_statistics_are_in_it_where_they_are_of_this_run(run, tmp_path):
    digest = json.loads((run / "run.json").read_text())["digest"]
    numbers = collect(str(run))
    try:
        (run / "statistics.json").write_text(json.dumps(numbers))
        publish(str(run), str(tmp_path / "set"), Options(ABOUT, pictures=False))
        assert numbers["run"] == digest
        assert "## Statistics" in card(tmp_path / "set")[1]
        assert "| paper, both of its sets | 1 | 3 | 5 | 7 | 10 | 15 | 36 |" in card(tmp_path / "set")[1]
        for other in ({**numbers, "run": "0" * 64}, {"run": digest}):
            (run / "statistics.json").write_text(json.dumps(other))
            with pytest.raises(OutputError, match="l2i stats"):
                publish(str(run), str(tmp_path / "other"), Options(ABOUT, pictures=False))
    finally:
        (run / "statistics.json").unlink()


def test_sizes_are_said_as_people_say_them():
    assert [size_of(count) for count in (12, 1_234, 999_999, 17_900_000, 3 * 10**12)] == [
        "12 B",
        "1.2 kB",
        "1000.0 kB",
        "17.9 MB",
        "3.0 TB",
    ]


@pytest.fixture(scope="module")
def layered(tmp_path_factory) -> Path:
    """A published run with at most four layers."""
    folder = tmp_path_factory.mktemp("layered")
    layered_run(folder, folder / "out", rows=20)
    publish(str(folder / "out"), str(folder / "set"), Options(ABOUT, pictures=False))
    return folder / "set"


def test_it_says_how_many_objects_there_may_be(published, layered):
    assert "One object, or one group, a sample" in card(published)[1]
    text = card(layered)[1]
    assert "At most 3 objects, or groups, a sample" in text
    assert "likewise B of the second object over what is behind it" in text
    assert "One object" not in text


def test_croissants_sets_of_pictures_hold_one_member_of_each_sample(layered):
    samples = [pair for path in layered.glob("data/*") for pair in read_members(str(path))]
    members = [f"data/{key}.{suffix}" for key, parts in samples for suffix in parts]
    described = json.loads((layered / "croissant.json").read_text())["distribution"]
    patterns = {one["@id"]: one["includes"] for one in described if one["@id"].endswith("-files")}
    assert {"image-files", "background-files", "bg2-files", "bg3-files", "mask3-files"} <= set(patterns)
    for name, pattern in patterns.items():
        (suffix,) = {member.partition(".")[2] for member in fnmatch.filter(members, pattern)}
        assert len(fnmatch.filter(members, pattern)) == len(samples), (name, suffix)


@pytest.mark.slow
def test_datasets_streams_the_folder(published):
    import datasets

    loaded = datasets.load_dataset(str(published), split="train", streaming=True)
    expected = dict(pair for path in sorted(published.glob("data/*")) for pair in read_members(str(path)))
    found = {sample["__key__"]: sample["txt"] for sample in loaded}
    assert found == {key: members["txt"].decode() for key, members in expected.items()}
    sidecars = str(published / "metadata" / "train-*.parquet")
    metadata = datasets.load_dataset("parquet", data_files=sidecars, split="train", streaming=True)
    assert [line["key"] for line in metadata] == list(expected)


@pytest.mark.slow
def test_mlcroissant_validates_it_and_reads_records_and_pictures(published, tmp_path, monkeypatch):
    import mlcroissant
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path / "extracted"))
    dataset = mlcroissant.Dataset(str(published / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    expected = dict(pair for path in sorted(published.glob("data/*")) for pair in read_members(str(path)))
    assert {record["samples/key"].decode() for record in dataset.records("samples")} == set(expected)
    for name, suffix in {"image": "jpg", "foreground": "fg.png", "background": "bg.jpg", "mask": "mask.png"}.items():
        seen = 0
        for record in dataset.records(name):
            picture = Image.open(io.BytesIO(expected[record[f"{name}/key"].decode()][suffix]))
            assert record[f"{name}/content"].tobytes() == picture.tobytes()
            seen += 1
        assert seen == len(expected)
