"""JSON lines: what a log collector would parse."""

from __future__ import annotations

import io
import json
import re

import pytest
from toy import toy_config, toy_parts, write_metadata

from l2i_builder import cli
from l2i_builder.configfile import load_config
from l2i_builder.ingest import planning
from l2i_builder.output.manifest import ShardManifest
from l2i_builder.run.build import run_shards
from l2i_builder.run.logs import JsonLog, make_log

HEAD = ["time", "level", "event", "run", "invocation", "shard", "attempt", "message"]


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def told(level: str, tmp_path, every: float = 60.0) -> list[dict]:
    """The lines of a toy run of 40 rows."""
    file = io.StringIO()
    log = JsonLog(file, level, every)
    log.run = "ab" * 32
    config = toy_config(write_metadata(tmp_path / "metadata", 40), tmp_path / "out")
    run_shards(config, planning.plan(config).shards, log.run, log, True, toy_parts(config))
    return lines_of(file.getvalue())


def test_every_line_has_the_same_first_keys(tmp_path):
    lines = told("debug", tmp_path, every=0)
    assert len(lines) > 8
    for line in lines:
        assert list(line)[: len(HEAD)] == HEAD
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
        assert line["run"] == "ab" * 6
        assert isinstance(line["shard"], str)
        assert isinstance(line["attempt"], int)
    assert len({line["invocation"] for line in lines}) == 1


def test_it_is_quiet_by_default_and_says_what_each_shard_became(tmp_path):
    lines = told("info", tmp_path)
    assert [line["event"] for line in lines] == ["begin", "shard_done", "shard_done", "progress"]
    for number, line in enumerate(lines[1:3]):
        assert (line["shard"], line["attempt"]) == (f"{number:05d}", 1)
        assert line["rows"] == 20 == line["kept"] + sum(line["reasons"].values())
        assert line["bytes"] > 0
    assert {"rows": 40, "rows_total": 40, "shards": 2, "shards_total": 2}.items() <= lines[3].items()


def test_warnings_alone_may_be_asked_for(tmp_path):
    assert told("warning", tmp_path) == []


def test_a_failed_attempt_names_shard_and_attempt():
    file = io.StringIO()
    log = JsonLog(file)
    with log.progress(rows=20, shards=1) as progress:
        progress.note("shard 00003: attempt 2 of 3 failed: no route", "00003", 2)
        log.observer.failed("00003", 2, last=True, rows=4)
    note, failed = lines_of(file.getvalue())[1:3]
    assert (note["event"], note["level"], note["shard"], note["attempt"]) == ("note", "warning", "00003", 2)
    assert (failed["event"], failed["level"], failed["last"], failed["rows"]) == ("attempt_failed", "error", True, 4)


def test_a_line_stays_a_line_whatever_is_in_it():
    file = io.StringIO()
    JsonLog(file).say('two\nlines, a "quote", \x1b[31mcolour\x1b[0m and \udcff')
    assert file.getvalue().count("\n") == 1
    assert lines_of(file.getvalue())[0]["message"].startswith("two\nlines")


def test_what_is_left_is_told_from_the_speed_so_far(monkeypatch):
    clock = iter([0.0, 0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr("l2i_builder.run.logs.time.monotonic", lambda: next(clock, 10.0))
    file = io.StringIO()
    with JsonLog(file, every=5).progress(rows=40, shards=2) as progress:
        progress.rows(rows=10, kept=1)
        progress.shard_done(ShardManifest(0, 10, 1))
    last = lines_of(file.getvalue())[-1]
    assert (last["rows_per_second"], last["seconds_left"], last["shards"]) == (1.0, 30, 1)


def test_people_get_sentences(capsys):
    assert not isinstance(make_log(load_config(None)), JsonLog)
    make_log(load_config(None)).say("12 of 40 shards [are] finished")
    assert capsys.readouterr().err == "12 of 40 shards [are] finished\n"


def test_a_build_that_fails_says_so_in_a_line_and_its_exit_status(tmp_path, monkeypatch, capfd):
    arguments = ["build", "--inline", "--log-format=json", "--metadata", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["l2i", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capfd.readouterr()
    assert ended.value.code == 3
    assert told.out == ""
    (line,) = lines_of(told.err)
    assert (line["event"], line["level"], line["exit_status"]) == ("failed", "error", 3)
    assert str(tmp_path) in line["message"]
