"""The main job for real: real photographs over HTTP, real models, real Ray, and whatever stops it halfway."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from toy import contents

from l2i_builder import storage
from l2i_builder.configfile import load_config
from l2i_builder.errors import ConfigError
from l2i_builder.ingest import planning
from l2i_builder.output import manifest
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.verify import verify
from l2i_builder.report import funnel
from l2i_builder.run.build import build
from l2i_builder.sample import Reason
from pipelines.sample_laion import SampleWeb, gather

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Low enough that samples from the quick models pass, whatever heads are shipped.
MASK_THRESHOLD, INPAINTING_THRESHOLD = 0.2, 0.05

QUICK = [
    f"judge.mask.threshold={MASK_THRESHOLD}",
    f"judge.inpainting.threshold={INPAINTING_THRESHOLD}",
    "image.size=256",
    "segment.backend=u2netp",
    "inpaint.backend=telea",
    "ingest.rows_per_shard=16",
    "ingest.audit_rate=0.2",
    "cluster.batch_rows=4",
    "cluster.cpus=2",
    "cluster.object_store_gb=0.5",
    "fetch.timeout=8",
    "fetch.per_host=16",
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The sample's photographs and a metadata file without the host that must be looked up outside."""
    folder = tmp_path_factory.mktemp("sample")
    gather(folder)
    table = pq.read_table(folder / "metadata.parquet")
    pq.write_table(table.filter(pc.invert(pc.match_substring(table["URL"], ".invalid"))), folder / "metadata.parquet")
    return folder


@pytest.fixture(scope="module")
def web(sample):
    with SampleWeb(sample) as served:
        yield served


def quick(sample, web, out, *overrides):
    config = load_config(None, [*QUICK, *overrides], metadata=str(sample / "metadata.parquet"), out=str(out))
    return config.model_copy(update={"fetch": config.fetch.model_copy(update={"connect_to": web.connect_to})})


@pytest.fixture(scope="module")
def finished_run(sample, web, tmp_path_factory):
    config = quick(sample, web, tmp_path_factory.mktemp("run") / "out")
    build(config)
    return config


def ledger(out):
    numbers = sorted(manifest.finished(str(out)))
    return [row for n in numbers for row in read_ledger(f"{out}/ledger/{n:05d}.parquet").to_pylist()]


def test_every_row_ends_as_its_url_deserves(finished_run, sample):
    expected = [row for row in json.loads((sample / "expected.json").read_text()) if ".invalid" not in row["url"]]
    rows = ledger(finished_run.out)
    assert len(rows) == len(expected) == planning.plan(finished_run).rows
    judged = {Reason.MASK_EMPTY, Reason.MASK_FULL, Reason.MASK_REJECTED, Reason.INPAINTING_REJECTED, ""}
    for row, wanted in zip(rows, expected, strict=True):
        if wanted["reason"]:
            assert row["reason"] == wanted["reason"], row["url"]
        else:
            assert row["reason"] in judged, (row["url"], row["detail"])


def test_verdicts_follow_the_scores(finished_run):
    rows = ledger(finished_run.out)
    judged = [row for row in rows if row["mask_head"]]
    assert len(judged) > 50
    for row in judged:
        assert 0 <= row["mask_score"] <= 1
        assert (row["mask_score"] < MASK_THRESHOLD) == (row["reason"] == "mask_rejected"), row["url"]
        assert bool(row["inpainting_head"]) == (row["reason"] != "mask_rejected" or row["audit"]), row["url"]
        if row["reason"] != "mask_rejected":
            assert (row["inpainting_score"] < INPAINTING_THRESHOLD) == (row["reason"] == "inpainting_rejected")
    assert sum(row["verdict"] == "kept" for row in rows) >= 5


def test_the_run_proves_itself_whole(finished_run):
    assert verify(finished_run.out, deep=True) == []
    assert funnel(finished_run.out).reconciles


def test_no_password_reaches_the_output(finished_run):
    for name, data in contents(Path(finished_run.out)).items():
        assert b"swordfish" not in data, name


def test_a_second_run_skips_everything(finished_run, capfd):
    before = contents(Path(finished_run.out))
    result = build(finished_run)
    assert result.skipped == result.shards > 5
    assert "finished and skipped" in capfd.readouterr().err
    assert contents(Path(finished_run.out)) == before


def test_a_rechecked_run_builds_again_what_was_changed(finished_run, tmp_path, capfd):
    out = shutil.copytree(finished_run.out, tmp_path / "out")
    path = sorted((out / "ledger").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-20] + b"\0" * 20)
    result = build(finished_run.model_copy(update={"out": str(out)}), inline=True, recheck=True)
    assert result.skipped == result.shards - 1
    assert "is damaged (ledger/00001.parquet: " in capfd.readouterr().err
    assert shards_of(out) == shards_of(finished_run.out)


def test_another_configuration_is_refused_with_the_difference(finished_run, sample, web):
    with pytest.raises(ConfigError, match=r"layers\.dilate: 9 -> 12"):
        build(quick(sample, web, finished_run.out, "layers.dilate=12"))


def test_how_a_run_is_spread_is_not_part_of_what_it_is(finished_run, sample, web):
    assert build(quick(sample, web, finished_run.out, "cluster.window=4", "fetch.concurrency=7")).failed == {}


def test_one_process_writes_the_same_bytes(finished_run, sample, web, tmp_path):
    build(quick(sample, web, tmp_path / "out", "ingest.limit=0"), inline=True)
    assert shards_of(tmp_path / "out") == shards_of(finished_run.out)


def shards_of(out):
    """What must be equal between two runs in different folders: all but the report and the stats."""
    return {name: data for name, data in contents(Path(out)).items() if not name.startswith("report.")}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_loses_nothing(finished_run, sample, web, tmp_path, how):
    out = tmp_path / "out"
    overrides = [f"--set={key}" for key in [*QUICK, f"fetch.connect_to={web.connect_to}"]]
    command = [sys.executable, "-m", "l2i_builder.cli", "build", *overrides]
    command += [f"--metadata={sample / 'metadata.parquet'}", f"--out={out}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(manifest.finished(str(out))) >= 2 or process.poll() is not None)
        process.send_signal(how)
        _, words = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert "run the same command again" in words
    assert 2 <= len(manifest.finished(str(out))) < 7
    wait_for(lambda: not ray_left_over(process.pid))
    assert subprocess.run(command, check=False).returncode == 0
    assert shards_of(out) == shards_of(finished_run.out)
    assert verify(str(out), deep=True) == []


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.2)


def ray_left_over(driver):
    """Whether Ray processes that a driver started still live; they notice its death by themselves."""
    import psutil

    return any(
        process.info["ppid"] == driver for process in psutil.process_iter(["ppid"]) if process.pid != os.getpid()
    )


def test_metadata_and_output_live_in_an_object_store(finished_run, sample, web, s3_folder, tmp_path):
    storage.upload(sample / "metadata.parquet", f"{s3_folder}/meta/part-0.parquet")
    config = quick(sample, web, "x").model_copy(update={"metadata": f"{s3_folder}/meta", "out": f"{s3_folder}/run"})
    result = build(config)
    assert result.report == f"{s3_folder}/run/report.html"
    assert verify(config.out, deep=True) == []
    names = storage.list_names(f"{s3_folder}/run/shards")
    assert names == sorted(path.name for path in (Path(finished_run.out) / "shards").iterdir())
    for name in names:
        local = (Path(finished_run.out) / "shards" / name).read_bytes()
        assert storage.read_bytes(f"{s3_folder}/run/shards/{name}") == local


def test_memory_is_enough_for_one_process(sample, web):
    config = quick(sample, web, "x", "ingest.limit=16").model_copy(update={"out": "memory://one/process"})
    assert build(config, inline=True).shards == 1
    assert verify(config.out, deep=True) == []
