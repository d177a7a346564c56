"""``l2i review`` and ``l2i labels`` as typed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from l2i_builder.cli import app
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.labels import Judgement, LabelStore, read_labels
from l2i_builder.review.server import Address, labels_path, listen


@pytest.fixture
def out(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "out"))


def l2i(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def fill(out: Path, **judged: str) -> None:
    with LabelStore(out / "labels.sqlite") as store:
        for reviewer, answers in judged.items():
            for number, letter in enumerate(answers):
                store.add(Judgement(f"k{number}", reviewer, mask="good" if letter == "g" else "bad", queue="audit"))


def test_labels_go_out_and_come_back_without_loss_or_repetition(out, tmp_path):
    fill(out, ada="gbg", bob="gg")
    assert "5 judgements" in l2i("labels", "export", out)
    table = read_labels(str(out / "labels.parquet"))
    other = shutil.copytree(out, tmp_path / "other", ignore=shutil.ignore_patterns("labels.*"))
    assert "5 of 5" in l2i("labels", "import", other, out / "labels.parquet")
    assert "0 of 5" in l2i("labels", "import", other, out / "labels.parquet")
    assert read_labels(str(other)) == table


def test_export_goes_to_object_stores_too(out, s3_folder):
    fill(out, ada="gb")
    l2i("labels", "export", out, "--to", f"{s3_folder}/labels.parquet")
    assert read_labels(f"{s3_folder}/labels.parquet") == read_labels(str(out))


def test_labels_made_elsewhere_are_imported(out, tmp_path):
    pq.write_table(pa.table({"key": ["a"], "reviewer": ["team <1>"], "mask": ["bad"]}), tmp_path / "theirs.parquet")
    assert "1 of 1" in l2i("labels", "import", out, tmp_path / "theirs.parquet")
    assert read_labels(str(out))["queue"].to_pylist() == ["import"]


def test_a_wrong_row_is_named_with_advice(out, tmp_path):
    pq.write_table(pa.table({"key": ["a"], "reviewer": ["team"], "mask": ["superb"]}), tmp_path / "theirs.parquet")
    with pytest.raises(OutputError, match=r"row 0.*Nothing was imported"):
        l2i("labels", "import", out, tmp_path / "theirs.parquet")
    assert len(read_labels(str(out))) == 0


def test_agreement_is_told_for_each_pair_and_all(out):
    fill(out, ada="gbgb", bob="gbgb", **{"[red]eve": "gggg"})
    told = l2i("labels", "agreement", out)
    assert "ada · bob" in told
    assert "1.00" in told
    assert "[red]eve" in told
    assert "all pairs" in told


def test_without_common_samples_agreement_says_how_to_get_some(out):
    fill(out, ada="g")
    assert "second opinions" in l2i("labels", "agreement", out)


@pytest.mark.parametrize("command", [["labels", "export"], ["labels", "agreement"], ["review"]])
def test_a_folder_that_is_no_run_is_refused(tmp_path, command):
    with pytest.raises(OutputError, match=r"run\.json"):
        l2i(*command, tmp_path)


def test_labels_of_a_remote_run_are_in_a_local_file_named_for_it(tmp_path):
    assert labels_path("s3://bucket/out", "", "0123456789abcdef") == "labels-0123456789ab.sqlite"
    assert labels_path(str(tmp_path), "", "0123") == str(tmp_path / "labels.sqlite")
    assert labels_path("s3://bucket/out", "mine.sqlite", "0123") == "mine.sqlite"
    with pytest.raises(ConfigError, match="no local path"):
        labels_path("s3://bucket/out", "s3://bucket/labels.sqlite", "0123")


def test_an_address_that_cannot_be_had_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="another --port"):
        listen(Address(port=taken.getsockname()[1]))
    with pytest.raises(ConfigError, match="another --host"):
        listen(Address(host="192.0.2.1"))


@pytest.mark.slow
def test_it_prints_its_link_serves_and_ends_with_ctrl_c(out):
    command = [sys.executable, "-m", "l2i_builder.cli", "review", str(out), "--port", "0", "--host", "0.0.0.0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "300"}, start_new_session=True
    )
    assert process.stderr
    told = ""
    while "Ctrl-C" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    port, token = re.search(r":(\d+)/#token=(\S{40,})", told).groups()  # type: ignore[union-attr]
    assert "not encrypted" in told
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        page = answer.read()
    assert b"Token" in page
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(30) == 0
    assert "labels.sqlite" in rest
    assert "Traceback" not in rest
    assert token not in rest
