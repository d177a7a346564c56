"""Growing: new metadata join a finished run, and nothing that was there changes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from toy import toy_config, toy_parts

from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, MetadataError
from l2i_builder.ingest.growing import GROUP, choice_bytes, choose, cut, key_numbers, read_choice
from l2i_builder.ingest.planning import InputPlan, plan
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.refilter import refilter
from l2i_builder.output.shards import open_triplets
from l2i_builder.output.takedown import take_down
from l2i_builder.output.tombstones import Identifier
from l2i_builder.output.verify import verify
from l2i_builder.publish.release import Options, publish
from l2i_builder.report import funnel
from l2i_builder.run.build import build
from l2i_builder.run.dryrun import dry_run
from l2i_builder.run.status import print_status
from l2i_builder.sample import sample_key

JUDGES = ("judge.mask.threshold=0.3", "judge.inpainting.threshold=0.5")


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    """Builds with models that cost nothing, and without a report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("l2i_builder.run.cluster.Parts.of", classmethod(lambda cls, config: toy_parts(config)))
        patch.setattr("l2i_builder.run.build.weight_digests", lambda config: {})
        patch.setattr("l2i_builder.report.write_report", lambda out: "")
        yield


def metadata(folder: Path, name: str, numbers: list[int], url: str = "URL") -> Path:
    """A folder with one parquet file that lists pictures by number."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    urls, texts = ([f"{kind}{number}" for number in numbers] for kind in ("http://toy.test/", "toy "))
    pq.write_table(pa.table({url: urls, "TEXT": texts, "punsafe": [0.0] * len(urls)}), folder / name / "part.parquet")
    return folder / name


def key(number: int) -> str:
    return sample_key(f"http://toy.test/{number}", f"toy {number}")


def run_build(where: Path, out: Path, *overrides: str, append: bool = False) -> str:
    """Build, and return what was said."""
    said = io.StringIO()
    console = Console(file=said, width=200)
    build(toy_config(where, out, *(overrides or JUDGES)), console, inline=True, append=append)
    return said.getvalue()


def files(out: Path, but: tuple[str, ...] = ("stats", "report", "index", "input", "undecided")) -> dict[str, bytes]:
    names = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(but)}


def keys(out: Path) -> list[str]:
    return [key for path in sorted(out.glob("ledger/*")) for key in read_ledger(str(path), ["key"])["key"].to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run_build(metadata(folder, "first", [*range(45)]), folder / "out")
    return folder


@pytest.fixture
def first(made: Path, tmp_path: Path) -> Path:
    """A run of the pictures 0 to 44, in shards of 20 rows; its metadata lie beside it."""
    for name in ("first", "out"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "out"


def test_only_new_rows_are_built_and_old_files_stay_as_they_are(first, tmp_path):
    before = files(first)
    said = run_build(metadata(tmp_path, "more", [*range(30, 90)]), first, append=True)
    assert "45 of 60 rows are new; 15 are known and left out" in said
    after = files(first)
    assert {name: after[name] for name in before} == before
    assert sorted(name for name in after if name.startswith("ledger")) == [f"ledger/{n:05d}.parquet" for n in range(6)]
    assert keys(first) == [key(number) for number in range(90)]
    assert verify(str(first), deep=True) == []


def test_status_and_report_count_the_whole(first, tmp_path):
    run_build(metadata(tmp_path, "more", [*range(30, 90)]), first, append=True)
    said = io.StringIO()
    print_status(str(first), Console(file=said, width=200))
    assert "6 of 6 shards finished, 0 rows to go" in said.getvalue()
    assert "joined later: 45 new rows; 15 known and left out" in said.getvalue()
    counted = funnel(str(first))
    assert counted.total == counted.planned == 90
    assert counted.reconciles


def test_rows_in_another_order_and_repeated_ones_are_recognised(first, tmp_path):
    said = run_build(metadata(tmp_path, "more", [60, 3, 50, 60, 44, 51, 50]), first, append=True)
    assert "3 of 7 rows are new; 2 are known and left out, 2 repeat one of them" in said
    assert keys(first)[45:] == [key(60), key(50), key(51)]
    assert verify(str(first)) == []


def test_columns_may_be_called_otherwise(first, tmp_path):
    run_build(metadata(tmp_path, "more", [100, 101], url="image_url"), first, append=True)
    assert keys(first)[45:] == [key(100), key(101)]


def test_a_folder_that_got_another_file_is_read_from_that_file_on(first, tmp_path):
    metadata(tmp_path, "second", [40, 70])
    shutil.move(tmp_path / "second" / "part.parquet", tmp_path / "first" / "part-2.parquet")
    said = run_build(tmp_path / "first", first, append=True)
    assert "1 of 47 rows are new; 46 are known" in said
    assert keys(first)[45:] == [key(70)]


def test_the_same_growth_gives_the_same_bytes(first, tmp_path):
    shutil.copytree(first, tmp_path / "copy")
    more = metadata(tmp_path, "more", [*range(30, 90)])
    run_build(more, first, append=True)
    elsewhere = shutil.copytree(more, tmp_path / "elsewhere")
    run_build(elsewhere, tmp_path / "copy", append=True)
    assert files(first) == files(tmp_path / "copy")


def test_a_run_grows_twice(first, tmp_path):
    run_build(metadata(tmp_path, "more", [*range(30, 70)]), first, append=True)
    middle = files(first)
    run_build(metadata(tmp_path, "yet-more", [*range(20, 100, 2)]), first, append=True)
    assert {name: files(first)[name] for name in middle} == middle
    assert sorted(keys(first)) == sorted(key(number) for number in [*range(70), *range(70, 100, 2)])
    assert verify(str(first)) == []


def test_nothing_new_changes_nothing(first, tmp_path):
    before = files(first)
    assert "all 10 rows are known" in run_build(metadata(tmp_path, "same", [*range(10)]), first, append=True)
    assert "began with" in run_build(tmp_path / "first", first, append=True)
    assert files(first) == before


def interrupted(monkeypatch: pytest.MonkeyPatch, more: Path, out: Path, shards: int) -> None:
    """Append, and be interrupted after so many shards."""
    from l2i_builder.run import progress

    done = []

    def stop(self, manifest):
        done.append(manifest)
        if len(done) == shards:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.ConsoleProgress, "shard_done", stop)
        with pytest.raises(KeyboardInterrupt):
            run_build(more, out, append=True)


@pytest.mark.parametrize("again", ["append", "first"])
def test_interrupted_in_the_middle_it_goes_on(first, tmp_path, monkeypatch, again):
    shutil.copytree(first, tmp_path / "whole")
    more = metadata(tmp_path, "more", [*range(30, 90)])
    run_build(more, tmp_path / "whole", append=True)
    interrupted(monkeypatch, more, first, 1)
    assert len(list(first.glob("manifests/*"))) == 4
    with pytest.raises(ConfigError, match=r"2 of 6 shards .* not finished"):
        run_build(metadata(tmp_path, "other", [200]), first, append=True)
    run_build(*((more, first) if again == "append" else (tmp_path / "first", first)), append=again == "append")
    assert files(first) == files(tmp_path / "whole")


def test_cut_off_between_choice_and_plan_it_begins_anew(first, tmp_path, monkeypatch):
    from l2i_builder.run import grow

    shutil.copytree(first, tmp_path / "whole")
    run_build(metadata(tmp_path, "more", [*range(30, 90)]), tmp_path / "whole", append=True)

    def die(out, plan):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grow, "_write", die)
        with pytest.raises(KeyboardInterrupt):
            run_build(metadata(tmp_path, "other", [*range(300)]), first, append=True)
    run_build(tmp_path / "more", first, append=True)
    assert files(first) == files(tmp_path / "whole")


def test_another_configuration_is_refused_and_says_what_differs(first, tmp_path):
    before = files(first, ())
    with pytest.raises(ConfigError, match=r"judge\.mask\.threshold: 0\.3 -> 0\.4"):
        run_build(metadata(tmp_path, "more", [90]), first, "judge.mask.threshold=0.4", JUDGES[1], append=True)
    assert files(first, ()) == before


def test_there_must_be_a_finished_run(tmp_path):
    more = metadata(tmp_path, "more", [90])
    with pytest.raises(ConfigError, match="holds no run to append to"):
        run_build(more, tmp_path / "nothing", append=True)
    assert not (tmp_path / "nothing").exists()


def test_a_shard_that_is_missing_is_finished_before_anything_joins(first, tmp_path):
    (first / "manifests" / "00001.json").unlink()
    with pytest.raises(ConfigError, match="the metadata that it began with"):
        run_build(metadata(tmp_path, "more", [90]), first, append=True)


def test_other_metadata_without_append_are_refused_with_the_way_to_add_them(first, tmp_path):
    with pytest.raises(ConfigError, match="--append"):
        run_build(metadata(tmp_path, "more", [90]), first)


def test_what_was_taken_down_does_not_come_back(first, tmp_path):
    take_down(str(first), [Identifier.of("key", key(3))])
    said = run_build(metadata(tmp_path, "more", [3, 90]), first, append=True)
    assert "1 of 2 rows are new" in said
    assert keys(first).count(key(3)) == 1
    assert key(3) not in {one.key for one in open_triplets(map(str, sorted(first.glob("shards/*"))))}


def test_a_grown_run_is_refiltered_taken_down_from_and_published(first, tmp_path):
    run_build(metadata(tmp_path, "more", [*range(45, 90)]), first, append=True)
    refilter(str(first), str(tmp_path / "strict"), ["judge.mask.threshold=0.5"])
    assert verify(str(tmp_path / "strict")) == []
    grown = next(one.key for one in open_triplets(str(first / "shards" / "00004.tar")))
    take_down(str(first), [Identifier.of("key", grown)])
    assert verify(str(first)) == []
    result = publish(str(first), str(tmp_path / "set"), Options(pictures=False))
    assert result.samples == {"train": funnel(str(first)).kept}


def test_failed_rows_of_a_growth_are_fetched_again(first, tmp_path, monkeypatch):
    run_build(metadata(tmp_path, "more", [*range(30, 90)]), first, append=True)
    config = toy_config(tmp_path / "more", first, *JUDGES)
    grown = [shard for shard in InputPlan.from_json((first / "input.json").read_bytes()).shards if shard.choice]
    from l2i_builder.ingest.planning import read_rows

    assert [row.key for shard in grown for row in read_rows(shard, config)] == [key(number) for number in range(45, 90)]


def test_a_dry_run_says_what_would_join_and_writes_nothing(first, tmp_path):
    before, said = files(first, ()), io.StringIO()
    config = toy_config(metadata(tmp_path, "more", [*range(30, 90)]), first, *JUDGES)
    dry_run(config, Console(file=said, width=200), 1.5, 0.04, append=True)
    assert "45 of 60 rows; 15 are known" in said.getvalue()
    assert files(first, ()) == before


def test_damage_of_the_choice_is_found(first, tmp_path):
    run_build(metadata(tmp_path, "more", [90, 91]), first, append=True)
    choice = first / "growth" / "00001.parquet"
    data = choice.read_bytes()
    choice.write_bytes(data[:-1])
    assert [finding.file for finding in verify(str(first)) if finding.serious] == ["growth/00001.parquet"]
    choice.write_bytes(data)
    (first / "growth" / "00002.parquet").write_bytes(data)
    assert [finding.file for finding in verify(str(first))] == ["growth/00002.parquet"]


def test_a_damaged_plan_is_made_anew_only_where_nothing_has_joined(first, tmp_path):
    whole = (first / "input.json").read_bytes()
    (first / "input.json").write_bytes(whole[:-20])
    run_build(tmp_path / "first", first)
    assert InputPlan.from_json((first / "input.json").read_bytes()).digest == InputPlan.from_json(whole).digest
    run_build(metadata(tmp_path, "more", [90]), first, append=True)
    (first / "input.json").write_bytes(whole[:-20])
    with pytest.raises(MetadataError, match="Restore it"):
        run_build(tmp_path / "first", first)


def test_limits_count_rows_of_the_new_metadata(tmp_path):
    run_build(metadata(tmp_path, "first", [*range(30)]), tmp_path / "out", *JUDGES, "ingest.limit=25")
    more = metadata(tmp_path, "more", [*range(10, 60)])
    run_build(more, tmp_path / "out", *JUDGES, "ingest.limit=25", append=True)
    assert keys(tmp_path / "out") == [key(number) for number in [*range(25), *range(25, 35)]]


def test_new_keys_are_those_that_are_not_known_each_once():
    known = np.unique(key_numbers([key(number) for number in (5, 1, 9)]))
    new, old, repeated = choose(known, key_numbers([key(number) for number in (1, 2, 2, 9, 3)]))
    assert new.tolist() == [False, True, False, False, True]
    assert (old, repeated) == (2, 1)
    assert choose(np.empty(0, np.uint64), key_numbers([key(1)]))[0].all()


def test_shards_are_cut_after_so_many_new_rows_or_at_the_end_of_a_file():
    new = np.array([0, 1, 1, 0, 0, 1, 0, 1], bool)
    assert cut(new, [4, 8], 2) == [[1, 3, 2], [5, 8, 2]]
    assert cut(new, [4, 8], 3) == [[1, 6, 3], [7, 8, 1]]
    assert cut(new, [4, 5, 8], 0) == [[1, 3, 2], [5, 8, 2]]
    assert cut(np.zeros(4, bool), [4], 2) == []


def test_truth_values_are_read_across_row_groups(tmp_path):
    new = np.random.default_rng(0).random(2 * GROUP + 10) < 0.3
    (tmp_path / "choice.parquet").write_bytes(choice_bytes(new))
    for start, stop in ((0, 5), (GROUP - 3, GROUP + 3), (2 * GROUP, 2 * GROUP + 10)):
        assert read_choice(str(tmp_path), "choice.parquet", start, stop).tolist() == new[start:stop].tolist()


def test_a_plan_without_growth_is_written_as_ever(tmp_path):
    config: Config = toy_config(metadata(tmp_path, "first", [1]), tmp_path / "out")
    made = plan(config)
    assert b'"growths"' not in made.to_json()
    assert InputPlan.from_json(made.to_json()) == made
