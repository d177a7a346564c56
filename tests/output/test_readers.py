"""Readers: webdataset, Hugging Face datasets, wids and the project's own take the shards of a finished run."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import finished_run

from l2i_builder.config import Config
from l2i_builder.output.shards import open_triplets, wids_index


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return finished_run(tmp_path_factory.mktemp("metadata"), tmp_path_factory.mktemp("out"))


def tars(run: Config) -> list[str]:
    return sorted(str(path) for path in Path(run.out, "shards").iterdir())


@pytest.mark.slow
def test_webdataset_reads_the_shards(run: Config) -> None:
    import webdataset

    dataset = webdataset.WebDataset(tars(run), shardshuffle=False).decode("pil")
    read = list(dataset)
    assert [sample["__key__"] for sample in read] == [triplet.key for triplet in open_triplets(tars(run))]
    for sample, triplet in zip(read, open_triplets(tars(run)), strict=True):
        for suffix, expected in [
            ("jpg", triplet.image),
            ("fg.png", triplet.foreground),
            ("bg.jpg", triplet.background),
        ]:
            assert np.array_equal(np.asarray(sample[suffix].convert("RGB")), expected)
        assert sample["txt"] == triplet.caption
        assert sample["json"] == triplet.info
        selected = triplet.mask > 0.1 * 255
        assert np.array_equal(np.asarray(sample["fg.png"])[selected], np.asarray(sample["jpg"])[selected])


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets_reads_the_shards(run: Config, streaming: bool, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(
        "webdataset", data_files=tars(run), split="train", streaming=streaming, cache_dir=str(tmp_path)
    )
    for sample, triplet in zip(loaded, open_triplets(tars(run)), strict=True):
        assert sample["__key__"] == triplet.key
        assert np.array_equal(np.asarray(sample["fg.png"]), triplet.foreground)
        assert np.array_equal(np.asarray(sample["mask.png"]), triplet.mask)
        assert sample["json"] == triplet.info
        assert sample["txt"] == triplet.caption


def test_the_index_lists_the_shards_with_size_digest_and_count(run: Config) -> None:
    index = json.loads(wids_index(run.out))
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    assert [Path(run.out, entry["url"]) for entry in index["shardlist"]] == [Path(path) for path in tars(run)]
    for entry in index["shardlist"]:
        data = Path(run.out, entry["url"]).read_bytes()
        assert entry["md5sum"] == hashlib.md5(data).hexdigest()
        assert entry["filesize"] == len(data)
        assert entry["nsamples"] == len(list(open_triplets(str(Path(run.out, entry["url"])))))


@pytest.mark.slow
def test_wids_reads_the_index_and_the_shards(run: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    wids = pytest.importorskip("wids", reason="runs where the wids package is installed (webdataset 1.0 left it out)")
    monkeypatch.chdir(run.out)
    dataset = wids.ShardListDataset("index.json", keep=True)
    triplets = list(open_triplets(tars(run)))
    assert len(dataset) == len(triplets)
    for position in (0, len(triplets) - 1, len(triplets) // 2):
        sample = dataset[position]
        assert sample["__key__"] == triplets[position].key
        assert np.array_equal(np.asarray(sample[".fg.png"]), triplets[position].foreground)


def test_reading_imports_no_model_library(run: Config) -> None:
    code = (
        "import sys; from l2i_builder.output.shards import open_triplets; "
        f"print(len(list(open_triplets({tars(run)!r}))), *[m for m in ('torch', 'ray', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(list(open_triplets(tars(run)))))]
