"""The Python API: a build in two lines, and its samples by position, by key, in order and by split."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from finished_toy import toy_run
from layered_shards import write_discs
from toy import toy_parts, write_metadata

from l2i_builder import build, open_dataset
from l2i_builder.api import RunSummary, summarize
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, L2IError, MetadataError, OutputError, ShardsFailedError
from l2i_builder.output.manifest import finished, read_manifest
from l2i_builder.output.shards import open_triplets, wids_index
from l2i_builder.report import funnel
from l2i_builder.run import build as run_build
from l2i_builder.run import cluster
from l2i_builder.splits import FILE, SplitTable, as_bytes

SMALL = ["image.size=64", "cluster.batch_rows=4", "ingest.audit_rate=0.2", "judge.mask.threshold=0.3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "out"
    toy_run(out.parent, out)
    return out


@pytest.fixture
def toy_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds run the toy source and stages instead of the web and the weights."""
    monkeypatch.setattr(cluster.Parts, "of", toy_parts)
    monkeypatch.setattr(run_build, "weight_digests", lambda config: {})


def build_toys(folder: Path, **more: object) -> RunSummary:
    metadata = write_metadata(folder / "metadata", 40)
    return build(metadata, folder / "out", set=SMALL, inline=True, ingest={"rows_per_shard": 20}, **more)  # type: ignore


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, l2i_builder; print(l2i_builder.__version__, *sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "pydantic", "pyarrow", "torch", "ray"} & set(modules)


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    import l2i_builder

    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = l2i_builder.no_such_thing


def test_a_build_tells_what_became_of_every_row(toy_models: None, tmp_path: Path) -> None:
    summary = build_toys(tmp_path)
    assert summary.out == str(tmp_path / "out")
    assert Path(summary.report).is_file()
    assert (
        summary.rows
        == 40
        == summary.kept + summary.rejected + summary.lost
        == summary.kept + sum(summary.reasons.values())
    )
    assert summary.kept == funnel(summary.out).kept == len(open_dataset(summary.out)) > 0
    assert summary.lost == summary.reasons["http_4xx"] == 4
    assert (summary.finished_shards, summary.skipped, summary.failed) == (2, 0, {})


def test_a_second_build_goes_on_where_the_first_ended(toy_models: None, tmp_path: Path) -> None:
    first = build_toys(tmp_path)
    again = build_toys(tmp_path)
    assert again.skipped == 2
    assert again.kept == first.kept
    assert summarize(tmp_path / "out") == first


def test_new_metadata_join_a_finished_run(toy_models: None, tmp_path: Path) -> None:
    first = build_toys(tmp_path)
    more = write_metadata(tmp_path / "more", 40, files=2)  # the rows that are there, and as many new ones
    grown = build(more, tmp_path / "out", set=SMALL, inline=True, ingest={"rows_per_shard": 20}, append=True)
    assert grown.skipped == 2
    assert (grown.rows, grown.lost) == (2 * first.rows, 2 * first.lost)
    assert list(open_dataset(grown.out).keys())[: first.kept] == list(open_dataset(first.out).keys())[: first.kept]


def test_a_build_is_silent_unless_asked(toy_models: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_toys(tmp_path / "a")
    assert capsys.readouterr() == ("", "")
    build_toys(tmp_path / "b", progress=True)
    assert "40 of 40 rows" in capsys.readouterr().err


def test_settings_come_as_file_as_object_and_as_values(toy_models: None, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("image: {size: 128, workers: 3}\ninpaint: {backend: telea}\n")
    metadata = write_metadata(tmp_path / "metadata", 4)
    build(metadata, tmp_path / "a", file, set=["image.size=64"], inline=True, judge={"mask": {"threshold": 1e-5}})
    stored = Config.model_validate({"inpaint": {"backend": "telea"}, "image": {"size": 64}, "seed": 7})
    build(metadata, tmp_path / "b", stored, inline=True, fetch={"max_redirects": 0, "connect_to": {"a.test": "::1"}})
    from l2i_builder.report.run import open_run

    a, b = (open_run(str(tmp_path / name)).config for name in "ab")
    assert (a["image"]["size"], a["inpaint"]["backend"], a["judge"]["mask"]["threshold"]) == (64, "telea", 1e-5)
    assert (b["image"]["size"], b["inpaint"]["backend"], b["seed"], b["fetch"]["max_redirects"]) == (64, "telea", 7, 0)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"imagee": {"size": 64}}, "no such key"),
        ({"image": {"sise": 64}}, "image.size"),
        ({"set": ["image.size"]}, "section.key=value"),
    ],
)
def test_a_wrong_key_is_a_configuration_error(tmp_path: Path, keys: dict, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        build(tmp_path, tmp_path / "out", **keys)


def test_missing_metadata_are_a_metadata_error(tmp_path: Path) -> None:
    with pytest.raises(MetadataError):
        build(tmp_path / "none.parquet", tmp_path / "out", inline=True)


def test_failed_shards_raise_or_are_returned(toy_models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_build, "run_shards", lambda *given: {"00001": "no such driver"})
    with pytest.raises(ShardsFailedError, match="no such driver") as raised:
        build_toys(tmp_path)
    assert raised.value.failed == {"00001": "no such driver"}
    assert build_toys(tmp_path, check=False).failed == {"00001": "no such driver"}


def test_a_dataset_has_the_samples_in_the_order_of_the_shards(run: Path) -> None:
    dataset = open_dataset(run)
    tars = sorted(str(path) for path in (run / "shards").iterdir())
    expected = list(open_triplets(tars))
    assert len(dataset) == len(expected) > 5
    assert [triplet.key for triplet in dataset] == [triplet.key for triplet in expected] == list(dataset.keys())
    for position, triplet in enumerate(expected):
        for read in (dataset[position], dataset[position - len(expected)], dataset[triplet.key]):
            assert (read.key, read.caption, read.info) == (triplet.key, triplet.caption, triplet.info)
            for layer in ("image", "foreground", "background", "mask"):
                assert np.array_equal(getattr(read, layer), getattr(triplet, layer))


def test_what_is_not_there_is_an_index_or_key_error(run: Path) -> None:
    dataset = open_dataset(run)
    for position in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[position]
    with pytest.raises(KeyError):
        dataset["no-such-key"]
    assert "no-such-key" not in dataset
    assert dataset[0].key in dataset


def test_a_dataset_is_what_a_torch_loader_takes(run: Path) -> None:
    from torch.utils.data import DataLoader

    dataset = pickle.loads(pickle.dumps(open_dataset(run)))
    assert repr(dataset) == repr(open_dataset(run))
    keys = [triplet.key for batch in DataLoader(dataset, batch_size=4, collate_fn=list) for triplet in batch]
    assert keys == list(dataset.keys())


@pytest.mark.parametrize("place", ["shards", "shards/*.tar", "shards/00000.tar"])
def test_folders_globs_and_single_tars_open_too(run: Path, place: str) -> None:
    dataset = open_dataset(run / place)
    assert [triplet.key for triplet in dataset] == list(open_dataset(run).keys())[: len(dataset)]
    assert dataset[len(dataset) - 1].info["verdict"] == "kept"


def test_object_stores_open_as_folders_do(s3_folder: str, run: Path, tmp_path: Path) -> None:
    from l2i_builder import storage

    for path in run.rglob("*"):
        if path.is_file():
            storage.upload(path, storage.join(s3_folder, "run", str(path.relative_to(run))))
    remote, local = open_dataset(f"{s3_folder}/run", cache=tmp_path), open_dataset(run)
    assert list(remote.keys()) == list(local.keys())
    assert np.array_equal(remote[-1].background, local[-1].background)
    assert list(tmp_path.iterdir())  # what was walked once is remembered
    assert len(open_dataset(f"{s3_folder}/run/shards/*.tar", cache=tmp_path)) == len(local)


def test_splits_are_read_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    toy_run(tmp_path, out)
    kept = list(open_dataset(out).keys())
    audited = next(triplet.key for triplet in open_dataset(out / "audit"))
    with pytest.raises(OutputError, match="l2i splits"):
        open_dataset(out, "train")
    wanted = {kept[0]: 1, audited: 2} | dict.fromkeys(kept[1:], 0)
    keys = sorted(wanted)
    table = SplitTable(as_bytes(keys), np.array([wanted[key] for key in keys], np.uint8), {})
    (out / FILE).write_bytes(table.to_parquet())
    assert [triplet.key for triplet in open_dataset(out, "test")] == [kept[0]]
    train = open_dataset(out, split="train")
    assert list(train.keys()) == [triplet.key for triplet in train] == kept[1:]
    assert train[0].key == kept[1]
    assert kept[0] not in train
    assert open_dataset(out, "la")[0].info["reason"]  # no judge let it in
    with pytest.raises(OutputError, match="train"):
        open_dataset(out, "validation")


def test_a_folder_for_each_split_needs_no_table(tmp_path: Path) -> None:
    for split, samples in (("train", 5), ("test", 2)):
        write_discs(tmp_path / split / "00000.tar", samples)
    assert (len(open_dataset(tmp_path, "train")), len(open_dataset(tmp_path, "test"))) == (5, 2)
    with pytest.raises(OutputError, match="no split 'la'"):
        open_dataset(tmp_path, "la")


def test_a_published_folder_has_an_index_for_each_split(tmp_path: Path) -> None:
    for split, counts in {"train": [3, 2], "test": [1], "la": [4]}.items():
        names = {f"data/{split}-{number:05d}.tar": count for number, count in enumerate(counts)}
        for name, count in names.items():
            write_discs(tmp_path / name, count)
        entries = [{"url": name, "md5sum": "", "nsamples": count, "filesize": 0} for name, count in names.items()]
        (tmp_path / f"index-{split}.json").write_text(json.dumps({"shardlist": entries}))
    assert [len(open_dataset(tmp_path, split)) for split in ("train", "test", "la", None)] == [5, 1, 4, 6]
    assert open_dataset(tmp_path, "test")[0].caption == "a red disc"


def test_an_index_names_the_shards_of_a_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number in finished(str(run)):
        name = f"shards/{read_manifest(str(run), number).name}.tar"
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "index.json").write_bytes(wids_index(str(run)))
    assert list(open_dataset(tmp_path).keys()) == list(open_dataset(run).keys())
    (tmp_path / "index.json").write_text('{"shardlist": [1]}')
    with pytest.raises(OutputError, match=r"index\.json"):
        open_dataset(tmp_path)


def test_nothing_to_read_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(L2IError, match="output folder"):
        open_dataset(tmp_path)
    with pytest.raises(L2IError):
        open_dataset(tmp_path / "none.tar")


def test_a_tar_that_was_written_anew_is_walked_again(tmp_path: Path) -> None:
    dataset = open_dataset(write_discs(tmp_path / "a.tar", 4))
    last = dataset[3].key
    write_discs(tmp_path / "a.tar", 3)
    with pytest.raises(OutputError, match="Open the dataset again"):
        dataset[last]
    with pytest.raises(OutputError, match="4 were counted"):
        dataset[0]
