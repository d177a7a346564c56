"""Publishing a run: what is copied, in which shards, and what a stranger can check."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
import pytest
from finished_toy import toy_run

from l2i_builder import storage
from l2i_builder.errors import ConfigError, L2IError, OutputError
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.shards import read_members
from l2i_builder.output.takedown import take_down
from l2i_builder.output.tombstones import Identifier, Takedowns, write_takedowns
from l2i_builder.publish.release import Options, publish
from l2i_builder.sample import NEVER_SHOWN
from l2i_builder.splits import NAMES, SplitTable, as_bytes

SMALL = Options(shard_bytes=100_000, pictures=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    toy_run(folder, folder / "out", rows=80)
    return folder / "out"


@pytest.fixture(scope="module")
def published(run, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("published") / "set"
    publish(str(run), str(to), SMALL)
    return to


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def samples(folder: Path, pattern: str) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob(pattern)):
        for key, members in read_members(str(path)):
            assert key not in found
            found[key] = members
    return found


def counts(folder: Path, split: str = "train") -> list[int]:
    return [len(dict(read_members(str(path)))) for path in sorted((folder / "data").glob(f"{split}-*.tar"))]


def test_every_kept_sample_is_there_once_byte_for_byte_and_in_order(run, published):
    here, there = samples(run, "shards/*.tar"), samples(published, "data/*.tar")
    assert list(here.items()) == list(there.items())
    assert len(here) > 30


def test_shards_of_a_split_hold_equally_many_samples_but_for_one(published):
    each = counts(published)
    assert len(each) > 3
    assert max(each) - min(each) <= 1
    assert each == sorted(each, reverse=True)


def test_sums_cover_every_file_and_hold(published):
    listed = dict(reversed(line.split("  ")) for line in (published / "SHA256SUMS").read_text().splitlines())
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files(published).items() if name != "SHA256SUMS"}
    assert listed == found
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=published).returncode == 0


def test_sidecars_say_of_each_sample_where_it_is_and_what_is_known(run, published):
    lines = [line for path in sorted(published.glob("metadata/*")) for line in pq.read_table(path).to_pylist()]
    ledger = {line["key"]: line for path in run.glob("ledger/*") for line in read_ledger(str(path)).to_pylist()}
    assert [line["key"] for line in lines] == list(samples(published, "data/*.tar"))
    for line in lines:
        assert {name: line[name] for name in ("url", "caption", "mask_score", "sha256")} == {
            name: ledger[line["key"]][name] for name in ("url", "caption", "mask_score", "sha256")
        }
        with tarfile.open(published / line["tar"]) as tar:
            names = list(dict.fromkeys(name.partition(".")[0] for name in tar.getnames()))
        assert names[line["position"]] == line["key"]


def test_the_index_is_what_wids_reads(published):
    index = json.loads((published / "index-train.json").read_text())
    assert [entry["nsamples"] for entry in index["shardlist"]] == counts(published)
    for entry in index["shardlist"]:
        data = (published / entry["url"]).read_bytes()
        assert (len(data), hashlib.md5(data).hexdigest()) == (entry["filesize"], entry["md5sum"])


def test_publishing_twice_gives_the_same_bytes_whatever_the_number_of_workers(run, published, tmp_path):
    (tmp_path / "other").mkdir()
    publish(str(run), str(tmp_path / "other" / "set"), replace(SMALL, workers=1))
    assert files(tmp_path / "other" / "set") == files(published)


def test_what_is_there_already_is_not_written_again(run, published):
    before = {path: path.stat().st_mtime_ns for path in published.glob("data/*")}
    assert publish(str(run), str(published), SMALL).copied == 0
    assert {path: path.stat().st_mtime_ns for path in published.glob("data/*")} == before


def test_killed_and_run_again_it_ends_with_the_same_bytes(run, published, tmp_path):
    to = tmp_path / "set"
    code = (
        "import os, signal, sys\n"
        "from dataclasses import replace\n"
        "from l2i_builder.publish.release import Options, publish\n"
        "def die(size, done, total):\n"
        "    if done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "publish(sys.argv[1], sys.argv[2], Options(shard_bytes=100_000, workers=2, pictures=False), die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(run), str(to)], cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    left = files(to)
    assert "SHA256SUMS" not in left
    assert "README.md" not in left
    final = files(published)
    assert all(final[name] == data for name, data in left.items() if name.startswith("data/") and "/." not in name)
    (to / "data" / ".train-00003.tar.1-ab.tmp").write_bytes(b"cut off")
    assert publish(str(run), str(to), SMALL).copied < len(counts(published))
    assert files(to) == final


@pytest.mark.parametrize("kept_back", [0, 1])
def test_interrupted_while_describing_it_is_finished_by_the_next_call(run, published, tmp_path, monkeypatch, kept_back):
    to, real = tmp_path / "set", storage.write_bytes

    def cut(url, data, error=OutputError):
        if url.endswith(("README.md", "SHA256SUMS")[kept_back]):
            raise KeyboardInterrupt
        real(url, data, error)

    monkeypatch.setattr(storage, "write_bytes", cut)
    with pytest.raises(KeyboardInterrupt):
        publish(str(run), str(to), SMALL)
    monkeypatch.undo()
    publish(str(run), str(to), SMALL)
    assert files(to) == files(published)


def test_a_takedown_that_is_still_to_be_carried_out_is_left_out(tmp_path):
    toy_run(tmp_path, tmp_path / "out")
    gone = next(iter(samples(tmp_path / "out", "shards/*.tar")))
    log = Takedowns()
    log.add([Identifier.of("key", gone)])
    write_takedowns(str(tmp_path / "out"), log)
    result = publish(str(tmp_path / "out"), str(tmp_path / "set"), SMALL)
    assert result.left_out == 1
    assert gone not in samples(tmp_path / "set", "data/*.tar")
    assert gone not in str(files(tmp_path / "set")["README.md"])


def test_after_a_takedown_the_folder_is_replaced_only_where_one_says_so(tmp_path):
    out, to = tmp_path / "out", tmp_path / "set"
    toy_run(tmp_path, out)
    publish(str(out), str(to), SMALL)
    gone = next(iter(samples(out, "shards/*.tar")))
    take_down(str(out), [Identifier.of("key", gone)])
    with pytest.raises(ConfigError, match="--replace"):
        publish(str(out), str(to), SMALL)
    assert "SHA256SUMS" in files(to)
    publish(str(out), str(to), replace(SMALL, replace=True))
    publish(str(out), str(tmp_path / "fresh" / "set"), SMALL)
    assert files(to) == files(tmp_path / "fresh" / "set")
    assert gone not in samples(to, "data/*.tar")


def test_splits_go_into_shards_of_their_own_and_what_is_withheld_nowhere(run, tmp_path):
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(run), str(out)], check=True)
    kept, audit = list(samples(out, "shards/*.tar")), list(samples(out, "audit/*.tar"))
    assert audit
    names = ["train"] * (len(kept) - 9) + ["test"] * 4 + ["la"] * 3 + ["withheld"] * 2 + ["la"] * len(audit)
    write_splits(out, dict(zip([*kept, *audit], names, strict=True)))
    result = publish(str(out), str(tmp_path / "set"), SMALL)
    assert result.samples == {"train": len(kept) - 9, "test": 4, "la": 3 + len(audit)}
    assert result.withheld == 2
    assert set(samples(tmp_path / "set", "data/la-*.tar")) == {*kept[-5:-2], *audit}
    lines = pq.read_table(tmp_path / "set" / "metadata" / "la-00000.parquet").to_pylist()
    assert {line["verdict"] for line in lines} == {"kept", "rejected"}
    assert not {line["reason"] for line in lines} & NEVER_SHOWN


def test_samples_that_came_after_the_splits_were_drawn_are_not_dropped_silently(run, tmp_path):
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(run), str(out)], check=True)
    kept = list(samples(out, "shards/*.tar"))
    write_splits(out, dict.fromkeys(kept[:-1], "train"))
    with pytest.raises(OutputError, match=r"do not know 1 kept samples.*l2i splits"):
        publish(str(out), str(tmp_path / "set"), SMALL)


def write_splits(out: Path, splits: dict[str, str]) -> None:
    keys = sorted(splits)
    codes = np.array([NAMES.index(splits[key]) for key in keys], np.uint8)
    (out / "splits.parquet").write_bytes(SplitTable(as_bytes(keys), codes, {}).to_parquet())


def test_damaged_output_is_refused_and_leaves_no_tar(run, tmp_path):
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(run), str(out)], check=True)
    tar = out / "shards" / "00001.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(OutputError, match="l2i verify"):
        publish(str(out), str(tmp_path / "set"), Options())
    assert not [name for name in files(tmp_path / "set") if name.endswith(".tar")]
    tar.write_bytes(bytes(data[:-512]))
    with pytest.raises(OutputError, match="damaged"):
        publish(str(out), str(tmp_path / "set2"), Options())


def test_an_unfinished_run_is_published_only_where_one_says_so(run, tmp_path):
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(run), str(out)], check=True)
    (out / "manifests" / "00002.json").unlink()
    with pytest.raises(OutputError, match=r"1 of 4 shards .* --unfinished"):
        publish(str(out), str(tmp_path / "set"), SMALL)
    publish(str(out), str(tmp_path / "set"), replace(SMALL, unfinished=True))
    assert samples(tmp_path / "set", "data/*.tar").keys() < samples(run, "shards/*.tar").keys()


def test_a_folder_with_other_files_is_not_touched(run, tmp_path):
    (tmp_path / "thesis.docx").write_bytes(b"years of work")
    with pytest.raises(OutputError, match=r"thesis\.docx"):
        publish(str(run), str(tmp_path), SMALL)
    assert files(tmp_path) == {"thesis.docx": b"years of work"}


def test_a_run_that_kept_nothing_is_refused(tmp_path):
    toy_run(tmp_path, tmp_path / "out", "judge.mask.threshold=1.0", rows=20)
    with pytest.raises(OutputError, match="no sample to publish"):
        publish(str(tmp_path / "out"), str(tmp_path / "set"), SMALL)


def test_publishing_into_the_run_itself_is_refused(run):
    with pytest.raises(ConfigError, match="folder of its own"):
        publish(str(run), f"{run}/", SMALL)


def remote_files(url: str) -> dict[str, bytes]:
    fs, path = storage.filesystem(url)
    return {name[len(path) :].strip("/"): fs.cat_file(name) for name in fs.find(path)}


def test_object_stores_get_the_same_bytes(run, published, s3_folder):
    for to in ("memory://published/set", f"{s3_folder}/set"):
        publish(str(run), to, SMALL)
        assert remote_files(to) == files(published)


def test_a_run_in_an_object_store_is_published_from_there(s3_folder, tmp_path):
    toy_run(tmp_path, f"{s3_folder}/out", rows=20)
    publish(f"{s3_folder}/out", str(tmp_path / "set"), SMALL)
    assert samples(tmp_path / "set", "data/*.tar")


@pytest.mark.parametrize(
    ("to", "token", "says"),
    [
        ("hf://datasets/me/set", "", "HF_TOKEN"),
        ("hf://me/set", "x", "hf://datasets/<user or organisation>/<name>"),
        ("hf://datasets/me", "x", "hf://datasets/<user or organisation>/<name>"),
    ],
)
def test_the_hub_says_what_it_needs_before_anything_is_copied(run, to, token, says, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError) as error:
        publish(str(run), to, SMALL)
    assert says in str(error.value)


@pytest.mark.parametrize("answers", [True, False])
def test_what_the_hub_refuses_is_an_error_with_advice(run, monkeypatch, answers):
    server = HTTPServer(("127.0.0.1", 0), _Unknown)
    Thread(target=server.serve_forever, daemon=True).start()
    if not answers:
        server.shutdown()
        server.server_close()
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(OutputError, match="repository not found" if answers else "hf://datasets/me/set"):
        publish(str(run), "hf://datasets/me/set", SMALL)
    if answers:
        server.shutdown()


class _Unknown(BaseHTTPRequestHandler):
    """A hub that has no such dataset."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


def test_without_the_hub_package_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr("l2i_builder.publish.target.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        publish(str(run), "hf://datasets/me/set", SMALL)


def test_a_damaged_release_file_is_an_error_with_advice(run, tmp_path):
    (tmp_path / "l2i.json").write_text("{")
    with pytest.raises(L2IError, match="damaged"):
        publish(str(run), str(tmp_path), SMALL)
