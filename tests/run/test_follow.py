"""``l2i status --watch``: what it says of a run, from its output folder alone."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from finished_toy import toy_run
from rich.console import Console

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.run import follow as module
from l2i_builder.run.follow import Followed, follow, line_of, screen_of, span

NOON = 1_700_000_000.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished toy run: 60 rows in three shards."""
    folder = tmp_path_factory.mktemp("run")
    toy_run(folder, folder / "out", rows=60)
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A folder in which shards of that run appear (``show``): so far there is only the plan."""
    (tmp_path / "out/manifests").mkdir(parents=True)
    (tmp_path / "out/input.json").write_bytes((finished / "input.json").read_bytes())
    return tmp_path / "out"


def show(finished: Path, out: Path, number: int, when: float) -> None:
    name = f"manifests/{number:05d}.json"
    (out / name).write_bytes((finished / name).read_bytes())
    os.utime(out / name, (when, when))


def shown(run: Followed, now: float) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(screen_of(run, now))
    return console.file.getvalue()


def test_a_folder_without_a_run_is_said_so(tmp_path):
    with pytest.raises(OutputError, match="l2i build"):
        Followed(str(tmp_path))


def test_speed_and_time_left_are_known_from_the_first_look(finished, out):
    show(finished, out, 0, NOON)
    show(finished, out, 1, NOON + 10)
    run = Followed(str(out))
    assert run.look() == 2
    assert (run.rows, run.total, run.complete) == (40, 60, False)
    assert run.rate() == (2.0, 10.0, NOON + 10)
    line = line_of(run, NOON + 12)
    assert "40 of 60 rows, 2 of 3 shards" in line
    assert "2.0 rows/s, about 10 s left, last shard 2 s ago" in line


def test_counts_are_those_of_the_manifests(finished, out):
    for number in range(3):
        show(finished, out, number, NOON + number)
    run = Followed(str(out))
    run.look()
    manifests = [json.loads((finished / f"manifests/{number:05d}.json").read_text()) for number in range(3)]
    assert run.kept == sum(one["kept"] for one in manifests)
    assert run.reasons()["http_4xx"] == sum(one["reasons"]["http_4xx"] for one in manifests) == 6
    assert run.complete
    assert "http_4xx" in shown(run, NOON)


def test_a_manifest_is_read_once_and_again_when_it_is_written_anew(finished, out, monkeypatch):
    read = []
    real = module.manifest.read_manifest
    monkeypatch.setattr(module.manifest, "read_manifest", lambda out, number: read.append(number) or real(out, number))
    run = Followed(str(out))
    for number in range(3):
        show(finished, out, number, NOON + number)
        run.look()
    assert read == [0, 1, 2]
    os.utime(out / "manifests/00001.json", (NOON + 99, NOON + 99))
    assert run.look() == 1
    assert read == [0, 1, 2, 1]
    assert run.rows == 60


def test_a_shard_that_is_made_anew_is_not_finished_meanwhile(finished, out):
    for number in range(3):
        show(finished, out, number, NOON)
    run = Followed(str(out))
    run.look()
    (out / "manifests/00001.json").unlink()
    run.look()
    assert (run.rows, run.complete) == (40, False)


def test_a_damaged_manifest_is_told_of_and_looked_at_again(finished, out):
    show(finished, out, 0, NOON)
    (out / "manifests/00001.json").write_text("{")
    run = Followed(str(out))
    run.look()
    assert run.rows == 20
    assert "00001.json is damaged" in shown(run, NOON)
    show(finished, out, 1, NOON)
    run.look()
    assert (run.rows, run.trouble) == (40, "")


def test_silence_is_mentioned(finished, out):
    show(finished, out, 0, NOON)
    show(finished, out, 1, NOON + 30)
    run = Followed(str(out))
    run.look()
    assert "still running" not in line_of(run, NOON + 100)
    assert "last shard 1 h ago, usually one every 30 s: is the build still running?" in line_of(run, NOON + 3630)


def test_a_night_without_a_build_does_not_count_as_slowness(finished, out):
    run = Followed(str(out))
    run.shards = 10
    run.seen = {number: module.Seen(NOON + 10 * number, 20, 5, {}) for number in range(3)}
    night = NOON + 12 * 3600
    run.seen |= {number: module.Seen(night + 5 * number, 20, 5, {}) for number in range(4, 7)}
    assert run.rate()[0] == pytest.approx(4.0)


def test_it_ends_when_the_run_is_complete(finished, out, monkeypatch):
    coming = iter([1, 2])
    monkeypatch.setattr(
        module.time, "sleep", lambda seconds: show(finished, out, number := next(coming), NOON + number)
    )
    show(finished, out, 0, NOON)
    console = Console(file=io.StringIO(), width=200)
    follow(str(out), console, every=5)
    lines = console.file.getvalue().splitlines()
    assert [line.split(" shards")[0][-6:] for line in lines[:3]] == ["1 of 3", "2 of 3", "3 of 3"]
    assert lines[3] == f"complete. Is it whole? l2i verify {out}"


def test_a_terminal_is_drawn_in_place(finished, out, monkeypatch):
    coming = iter([1, 2])
    monkeypatch.setattr(
        module.time, "sleep", lambda seconds: show(finished, out, number := next(coming), NOON + number)
    )
    show(finished, out, 0, NOON)
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    follow(str(out), console, every=5)
    text = console.file.getvalue()
    assert "\x1b[1A" in text, "the cursor goes up"
    assert "60 of 60" in text


def test_an_object_store_is_asked_for_a_listing_and_new_manifests_only(finished, s3_folder, monkeypatch):
    storage.upload(finished / "input.json", f"{s3_folder}/run/input.json")
    for number in range(2):
        storage.upload(finished / f"manifests/{number:05d}.json", f"{s3_folder}/run/manifests/{number:05d}.json")
    run = Followed(f"{s3_folder}/run")
    assert run.look() == 2
    storage.upload(finished / "manifests/00002.json", f"{s3_folder}/run/manifests/00002.json")
    asked = []
    fs, _ = storage.filesystem(s3_folder)
    real = fs._call_s3

    async def noted(method, *args, **more):
        asked.append(method)
        return await real(method, *args, **more)

    monkeypatch.setattr(fs, "_call_s3", noted)
    assert run.look() == 1
    assert run.complete
    assert run.rate()[2] > NOON
    assert (asked.count("list_objects_v2"), asked.count("get_object")) == (1, 1)
    assert len(asked) <= 3, "s3fs may ask for a file's size before it reads it"


def test_storage_that_fails_meanwhile_is_told_of_and_asked_again(finished, out, monkeypatch):
    show(finished, out, 0, NOON)
    run = Followed(str(out))
    run.look()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "list_times", lambda folder: (_ for _ in ()).throw(OutputError("cannot list it")))
        assert run.look() == 0
        assert "cannot list it" in line_of(run, NOON)
        assert run.rows == 20
    assert run.look() == 0
    assert run.trouble == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.4, "4 s"), (61, "1 min 1 s"), (3600, "1 h"), (100_000, "1 d 3 h"), (7290, "2 h 1 min")]
)
def test_lengths_of_time_have_two_units(seconds, words):
    assert span(seconds) == words
