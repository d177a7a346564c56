"""Takedown: nothing of a sample is left, nothing brings it back, and cutting it off anywhere does no harm."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from damage import about, change_ledger, findings
from finished_toy import LOOSE, toy_run
from toy import Silent, ToySource, contents, toy_parts
from typer.testing import CliRunner

from l2i_builder import storage
from l2i_builder.cli import app
from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.ingest import planning
from l2i_builder.output import commit
from l2i_builder.output.features import read_features
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.manifest import RunManifest, finished
from l2i_builder.output.refilter import refilter
from l2i_builder.output.shards import read_members
from l2i_builder.output.takedown import read_list, take_down
from l2i_builder.output.tombstones import Identifier, Takedowns, is_tombstone, read_takedowns
from l2i_builder.run import retry
from l2i_builder.run.cluster import Parts
from l2i_builder.run.inline import run_inline
from l2i_builder.sample import Row


class HashedSource(ToySource):
    """Gives every body a SHA-256; rows 2 of shard 0 and 3 of shard 1 are the same file, each kept."""

    def batches_of(self, rows: list[Row], shard: Any) -> Any:
        for batch in super().batches_of(rows, shard):
            for row in batch.rows:
                if row.kept:
                    same = (row.shard, row.index) in ((0, 2), (1, 3))
                    row.sha256 = "ab" * 32 if same else f"{row.key}{row.key}"
            yield batch


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    config = toy_run(folder, folder / "x", *LOOSE, rows=1)
    toy_run(folder, folder / "out", *LOOSE, rows=60, parts=hashed(config))
    (folder / "out/report.html").write_text("pictures")
    (folder / "out/report-files").mkdir()
    (folder / "out/report-files/001.html").write_text("pictures")
    return folder


def hashed(config: Config) -> Parts:
    return Parts(partial(HashedSource, config), toy_parts(config).stages)


@pytest.fixture
def out(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template / "out", tmp_path / "out"))


def rows_of(out: Path | str) -> list[Row]:
    shards = sorted(finished(str(out)))
    return [Row(**x) for n in shards for x in read_ledger(f"{out}/ledger/{n:05d}.parquet").to_pylist()]


def kept(out: Path, shard: int = 0) -> list[Row]:
    return [row for row in rows_of(out) if row.kept and row.shard == shard and row.sha256 != "ab" * 32]


def anything_of(out: Path, row: Row) -> list[str]:
    """Names of the files in which a row's URL, caption, digest or a member of its own can still be found."""
    words = [text.encode() for text in (row.url, f'"{row.caption}"', row.sha256) if text]
    found = [
        str(path) for path in out.rglob("*") if path.is_file() and any(word in path.read_bytes() for word in words)
    ]
    for folder in ("shards", "audit", "previews"):
        for path in (out / folder).glob("*.tar"):
            found += [str(path) for key, _ in read_members(str(path)) if key == row.key]
    found += [str(p) for p in (out / "features").iterdir() if row.key in read_features(str(p)).vectors["mask"]]
    return found


@pytest.mark.parametrize("kind", ["key", "url", "sha256"])
def test_nothing_of_the_sample_is_left(out: Path, kind: str) -> None:
    row = kept(out)[0]
    assert anything_of(out, row)
    assert take_down(str(out), [Identifier.of(kind, getattr(row, kind))]).rows == 1
    assert anything_of(out, row) == []
    assert findings(out) == []
    assert not (out / "report.html").exists()
    assert not (out / "report-files/001.html").exists()


def test_all_else_stays_byte_for_byte(out: Path, template: Path) -> None:
    row = kept(out)[0]
    take_down(str(out), [Identifier("key", row.key)])
    before, after = contents(template / "out"), contents(out)
    same = {name for name, data in after.items() if data == before.get(name)}
    assert {name for name in before if "00001" in name or "00002" in name} <= same
    for folder in ("shards", "audit", "previews"):
        name = str(out / folder / "00000.tar")
        old = dict(read_members(str(template / "out" / folder / "00000.tar")))
        assert list(read_members(name)) == [(key, members) for key, members in old.items() if key != row.key]
    assert len(rows_of(out)) == 60


def test_the_ledger_keeps_a_tombstone_with_place_and_key(out: Path) -> None:
    row = kept(out)[0]
    take_down(str(out), [Identifier("url", row.url)])
    (left,) = [other for other in rows_of(out) if other.reason == "taken_down"]
    assert is_tombstone(left)
    assert (left.key, left.shard, left.index) == (row.key, row.shard, row.index)
    assert (left.url, left.caption, left.sha256, left.mask_score) == ("", "", "", -1)


def test_copies_of_the_file_go_too_in_other_shards_and_under_other_links(out: Path) -> None:
    first, second = [row for row in rows_of(out) if row.sha256 == "ab" * 32]
    assert first.url != second.url
    assert take_down(str(out), [Identifier("url", first.url)]).shards == 2
    assert anything_of(out, second) == []
    assert findings(out) == []


def test_rejected_and_failed_rows_can_be_taken_down(out: Path) -> None:
    for reason in ("http_4xx", "mask_rejected"):
        row = next(row for row in rows_of(out) if row.reason == reason)
        assert take_down(str(out), [Identifier("url", row.url)]).rows >= 1
        assert anything_of(out, row) == []
    assert findings(out) == []


@pytest.mark.parametrize("given", ["https://a.test/my picture.jpg", "  https://a.test/my picture.jpg "])
def test_a_url_may_hold_blanks_as_those_of_metadata_do(out: Path, given: str) -> None:
    change_ledger(out, lambda lines: lines[9].update(url=" https://a.test/my picture.jpg"), 0)
    row = next(row for row in rows_of(out) if "my picture" in row.url)
    result = take_down(str(out), [Identifier.of("url", given)])
    assert (result.rows, result.unknown) == (1, ())
    assert anything_of(out, row) == []


def test_what_killed_commits_left_half_written_goes_too(out: Path) -> None:
    row = kept(out)[0]
    for folder in ("shards", "previews", "ledger"):
        whole = next((out / folder).glob("00000.*"))
        shutil.copy(whole, whole.with_name(f".{whole.name}.99-abcd.tmp"))
    take_down(str(out), [Identifier("key", row.key)])
    assert [str(path) for path in out.rglob("*.tmp")] == []
    assert findings(out) == []


def test_doing_it_again_changes_nothing(out: Path) -> None:
    row = kept(out)[0]
    take_down(str(out), [Identifier("url", row.url)])
    before = contents(out)
    result = take_down(str(out), [Identifier("url", row.url)])
    assert (result.rows, result.shards, result.unknown) == (0, 0, ())
    assert contents(out) == before


def test_the_log_holds_hashes_only_and_in_order(out: Path) -> None:
    row = kept(out)[0]
    take_down(str(out), [Identifier("key", row.key)])
    records = [json.loads(line) for line in (out / "takedowns.jsonl").read_text().splitlines()]
    assert sorted({record["kind"] for record in records}) == ["key", "sha256", "url", "whole"]
    assert all(set(record) == {"kind", "digest"} and len(record["digest"]) == 64 for record in records)
    assert records == sorted(records, key=lambda record: (record["kind"], record["digest"]))


def test_what_no_ledger_has_is_told_and_kept_out(out: Path) -> None:
    other = Identifier.of("url", "https://elsewhere.test/me.jpg")
    assert take_down(str(out), [other]).unknown == (other,)
    assert read_takedowns(str(out)).holds("url", other.value)
    assert findings(out) == []


def test_rows_that_share_an_error_page_with_it_stay(out: Path) -> None:
    """Many dead links answer with the same page, which is no image: it says nothing of the sample."""
    page = {"sha256": "cd" * 32, "reason": "not_image", "verdict": "failed"}
    change_ledger(out, lambda lines: [lines[i].update(page) for i in (9, 19)], 0)
    first, second = [row for row in rows_of(out) if row.reason == "not_image"]
    assert take_down(str(out), [Identifier("url", first.url)]).rows == 1
    assert [row.url for row in rows_of(out) if row.reason == "not_image"] == [second.url]


# interruptions


class Cut(BaseException):
    """What an interrupt is to the code: nothing it would catch."""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_cut_off_at_any_step_another_call_finishes_it(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Every write, move and deletion is cut in turn; after it the end is that of an undisturbed takedown."""
    first = next(row for row in rows_of(template / "out") if row.sha256 == "ab" * 32)
    whole = Path(shutil.copytree(template / "out", tmp_path / "whole"))
    take_down(str(whole), [Identifier("url", first.url)])
    want = contents(whole)
    real = {name: getattr(storage, name) for name in ("write_bytes", "move", "delete")}
    step, steps = 0, 1000
    while step < steps:
        out = Path(shutil.copytree(template / "out", tmp_path / f"{when}-{step}"))
        count = [0]

        def counted(name: str, count: list[int] = count, step: int = step) -> Any:
            def call(*args: Any, **kwargs: Any) -> None:
                count[0] += 1
                if count[0] == step + 1 and when == "before":
                    raise Cut
                real[name](*args, **kwargs)
                if count[0] == step + 1:
                    raise Cut

            return call

        with monkeypatch.context() as patch, suppress(Cut):
            for name in real:
                patch.setattr(storage, name, counted(name))
            take_down(str(out), [Identifier("url", first.url)], workers=1)
            steps = step  # it was not cut any more
        logged = (out / "takedowns.jsonl").exists()
        take_down(str(out), () if logged else [Identifier("url", first.url)])
        assert contents(out) == want, f"step {step}"
        shutil.rmtree(out)
        step += 1 if step < 8 else 3
    assert steps > 30


def test_verify_tells_of_an_unfinished_takedown(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = kept(out)[0]
    monkeypatch.setattr("l2i_builder.output.takedown.spread", lambda *_: (_ for _ in ()).throw(Cut))
    with pytest.raises(Cut):
        take_down(str(out), [Identifier("url", row.url)])
    monkeypatch.undo()
    assert "taken down, but is still here" in about(findings(out, deep=False))["ledger/00000.parquet"]
    take_down(str(out))
    assert findings(out) == []


# it stays gone


def test_a_build_after_it_refuses_the_row_by_any_of_its_identifiers(out: Path, template: Path) -> None:
    config = Config.model_validate(json.loads((out / "run.json").read_bytes())["config"])
    config = config.model_copy(update={"out": str(out), "metadata": str(template / "metadata")})
    row = kept(out)[0]
    take_down(str(out), [Identifier("url", row.url)])
    before = contents(out)
    for name in ("manifests", "shards", "ledger"):
        shutil.rmtree(out / name)
    digest = RunManifest.from_json((out / "run.json").read_bytes()).digest
    run_inline(config, planning.plan(config).shards, digest, Silent(), hashed(config))
    assert contents(out) == before


def test_a_shard_whose_commit_is_under_way_obeys_it_too(
    out: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The takedown finds no manifest of it, and the commit has read the log before it was written."""
    config = Config.model_validate(json.loads((out / "run.json").read_bytes())["config"])
    config = config.model_copy(update={"out": str(out), "metadata": str(template / "metadata")})
    row = kept(out)[0]
    (out / "manifests/00000.json").unlink()
    write, taken = commit.write_ledger, list[int]()

    def meanwhile(*args: Any) -> bytes:
        if not taken:
            taken.append(take_down(str(out), [Identifier("url", row.url)]).rows)
        return write(*args)

    monkeypatch.setattr(commit, "write_ledger", meanwhile)
    digest = RunManifest.from_json((out / "run.json").read_bytes()).digest
    run_inline(config, planning.plan(config).shards, digest, Silent(), hashed(config))
    assert taken == [0]
    assert anything_of(out, row) == []
    assert [row.key for row in rows_of(out) if row.reason == "taken_down"] == [row.key]


def test_retrying_does_not_bring_it_back(out: Path, template: Path) -> None:
    config = Config.model_validate(json.loads((out / "run.json").read_bytes())["config"])
    config = config.model_copy(update={"out": str(out), "metadata": str(template / "metadata")})
    row = kept(out)[0]
    take_down(str(out), [Identifier("url", row.url)])
    digest = RunManifest.from_json((out / "run.json").read_bytes()).digest
    parts = Parts(partial(retry.RetrySource, config, HashedSource), toy_parts(config).stages, retry.commit_retry)
    before = contents(out)
    run_inline(config, planning.plan(config).shards, digest, Silent(), parts)
    assert contents(out) == before


def test_refiltering_does_not_bring_it_back(out: Path, tmp_path: Path) -> None:
    row = kept(out)[0]
    take_down(str(out), [Identifier("url", row.url)])
    refilter(str(out), str(tmp_path / "new"), ["judge.mask.threshold=0"])
    assert anything_of(tmp_path / "new", row) == []
    assert findings(tmp_path / "new") == []
    assert read_takedowns(str(tmp_path / "new")).entries == read_takedowns(str(out)).entries


def test_what_an_interrupted_retry_left_is_gone_too(out: Path) -> None:
    row = kept(out)[0]
    (out / "pending/shards").mkdir(parents=True)
    shutil.copy(out / "shards/00000.tar", out / "pending/shards/00000.tar")
    take_down(str(out), [Identifier("key", row.key)])
    assert anything_of(out, row) == []
    assert not (out / "pending/shards/00000.tar").exists()


# the list, the log, the command


def test_a_list_names_links_keys_and_digests(tmp_path: Path) -> None:
    lines = ["# asked on Monday", "", " https://a.test/1.jpg ", "AB" * 16, "cd" * 32]
    assert list(read_list(lines)) == [
        Identifier("url", "https://a.test/1.jpg"),
        Identifier("key", "ab" * 16),
        Identifier("sha256", "cd" * 32),
    ]
    with pytest.raises(ConfigError, match="neither a URL nor a key"):
        list(read_list(["1.jpg"]))


@pytest.mark.parametrize(("kind", "value"), [("key", "../x"), ("sha256", "ab"), ("url", "a\nb"), ("url", " ")])
def test_what_is_no_identifier_is_refused(kind: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"is no {kind}"):
        Identifier.of(kind, value)


@pytest.mark.parametrize("content", [b"x", b"{}", b'{"kind": "key", "digest": "ab"}', b"\xff", b"[]", b"[" * 10**6])
def test_a_damaged_log_stops_everything_that_would_need_it(out: Path, content: bytes) -> None:
    (out / "takedowns.jsonl").write_bytes(content)
    with pytest.raises(OutputError, match="damaged"):
        take_down(str(out), [Identifier("key", "ab" * 16)])
    assert "takedowns.jsonl" in about(findings(out, deep=False))


def test_any_line_of_the_log_that_was_changed_or_lost_is_found(out: Path) -> None:
    take_down(str(out), [Identifier("key", kept(out)[0].key)])
    whole = (out / "takedowns.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for number, line in enumerate(lines):
        other = line.replace(b'"digest": "', b'"digest": "f')[:-20] + line[-19:]
        for damage in ([], [other]) if number < len(lines) - 1 else ([other],):
            (out / "takedowns.jsonl").write_bytes(b"".join([*lines[:number], *damage, *lines[number + 1 :]]))
            assert "takedowns.jsonl" in about(findings(out, deep=False)), (number, damage)
    assert Takedowns.from_jsonl(b"".join(lines[:-1])).entries == Takedowns.from_jsonl(whole).entries


def test_a_url_with_a_password_is_logged_as_the_ledger_has_it() -> None:
    listed = Takedowns()
    listed.add([Identifier.of("url", "https://me:secret@a.test/1.jpg")])
    assert listed.names(Row("k", "https://me:secret@a.test/1.jpg", "", 0, 0))


def test_the_command_takes_down_and_writes_the_report_anew(out: Path, tmp_path: Path) -> None:
    first, second = kept(out)[:2]
    (tmp_path / "list.txt").write_text(f"{second.url}\nhttps://nobody.test/x.jpg\n")
    call = ["takedown", str(out), "--key", first.key, "--list", str(tmp_path / "list.txt")]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "2 rows are gone from 1 shards" in text
    assert "in no ledger, kept out of later builds: https://nobody.test/x.jpg" in text
    assert (out / "report.html").exists()
    assert first.url not in (out / "report.html").read_text()


def test_in_an_object_store(s3_folder: str, tmp_path: Path) -> None:
    config = toy_run(tmp_path, f"{s3_folder}/out", *LOOSE, rows=20)
    row = next(row for row in rows_of(config.out) if row.kept)
    assert take_down(config.out, [Identifier("url", row.url)]).rows == 1
    assert findings(config.out) == []
    data = storage.read_bytes(f"{config.out}/shards/00000.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert not [name for name in tar.getnames() if name.startswith(row.key)]
