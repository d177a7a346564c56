"""Labels: rows that are only ever added, what stands of them, and how far reviewers agree."""

import itertools
import math
import sqlite3
import threading
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from l2i_builder.errors import OutputError
from l2i_builder.judgements import from_table
from l2i_builder.labels import (
    CONSENSUS,
    LABELS,
    Judgement,
    LabelStore,
    consensus,
    current,
    kappa,
    read_labels,
    to_table,
    write_labels,
)


@pytest.fixture
def store(tmp_path):
    with LabelStore(tmp_path / "labels.sqlite") as opened:
        yield opened


def good(key="k1", reviewer="ada", **fields) -> Judgement:
    return Judgement(key, reviewer, **({"mask": "good", "inpainting": "good", "queue": "uncertain"} | fields))


def bad_mask(key="k1", reviewer="ada", **fields) -> Judgement:
    return good(key, reviewer, **({"mask": "bad", "inpainting": "", "criteria": ("incomplete",)} | fields))


def standing(table) -> list[tuple[str, str, str]]:
    return [(row["key"], row["reviewer"], row["mask"]) for row in current(table).to_pylist()]


def test_a_judgement_comes_back_as_it_was_given(store):
    given = bad_mask(
        criteria=("incomplete", "too_small"), queue="audit", weight=100.0, run="ab", shard=7, mask_score=0.25,
        inpainting_score=-1.0, mask_head="mask-v1",
    )  # fmt: skip
    stored = store.add(given)
    assert stored == replace(given, time=stored.time)
    table = store.table()
    assert table.schema == LABELS
    assert from_table(table) == [stored]


def test_what_was_added_survives_reopening(store):
    store.add(good())
    with LabelStore(store.path) as again:
        assert again.table() == store.table()


def test_adding_an_id_twice_adds_one_row(store):
    first = store.add(good(id="a1"))
    assert store.add(bad_mask(id="a1")) == first
    assert len(store.table()) == 1


def test_rows_cannot_be_changed_or_deleted_even_with_sqlite(store):
    store.add(good())
    with sqlite3.connect(store.path) as raw:
        for statement in ("UPDATE judgements SET mask = 'bad'", "DELETE FROM judgements"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                raw.execute(statement)
    assert store.table()["mask"].to_pylist() == ["good"]


def test_the_file_is_in_wal_mode(store):
    with sqlite3.connect(store.path) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_several_connections_write_at_once(store):
    def work(reviewer: str) -> None:
        with LabelStore(store.path) as mine:
            for number in range(20):
                mine.add(good(f"k{number}", reviewer))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ada", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(current(store.table())) == 60


def test_times_of_a_reviewer_strictly_increase(store):
    times = [store.add(good(f"k{number}")).time for number in range(50)]
    assert all(a < b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize(
    "fields",
    [
        {"mask": "fine"},
        {"mask": "", "inpainting": ""},
        {"skipped": True},
        {"undoes": "x"},
        {"criteria": ("incomplete",)},
        {"mask": "bad", "criteria": ("ugly",)},
        {"mask": "bad", "criteria": ("artefact",)},
        {"reviewer": ""},
    ],
)
def test_contradictions_are_refused_and_nothing_is_stored(store, fields):
    with pytest.raises(ValueError, match=r"\."):
        store.add(good(**fields))
    assert len(store.table()) == 0


class TestUndo:
    def test_it_takes_back_ones_own_last_judgement_by_a_row_of_its_own(self, store):
        store.add(good("k1"))
        last = store.add(bad_mask("k2"))
        store.add(good("k3", "bob"))
        assert store.undo("ada") == last
        assert standing(store.table()) == [("k1", "ada", "good"), ("k3", "bob", "good")]
        assert len(store.table()) == 4

    def test_again_it_takes_back_the_one_before_until_nothing_is_left(self, store):
        store.add(good("k1"))
        store.add(Judgement("k2", "ada", skipped=True, queue="audit"))
        assert [store.undo("ada").key, store.undo("ada").key] == ["k2", "k1"]
        assert store.undo("ada") is None

    def test_the_judgement_before_stands_again(self, store):
        store.add(good())
        store.add(bad_mask())
        assert standing(store.table()) == [("k1", "ada", "bad")]
        store.undo("ada")
        assert standing(store.table()) == [("k1", "ada", "good")]

    def test_asked_twice_with_one_id_it_takes_back_one(self, store):
        store.add(good("k1"))
        last = store.add(good("k2"))
        assert store.undo("ada", id="u1") == store.undo("ada", id="u1") == last
        assert standing(store.table()) == [("k1", "ada", "good")]

    def test_it_keeps_to_the_run_it_is_asked_for(self, store):
        mine = store.add(good("k1", run="r1"))
        store.add(good("k2", run="r2"))
        assert store.undo("ada", run="r1") == mine
        assert store.undo("ada", run="r1") is None

    def test_imported_judgements_stay(self, store):
        store.import_(to_table([good(queue="import")]))
        assert store.undo("ada") is None


class TestCurrent:
    def test_a_skip_takes_nothing_back(self):
        table = to_table([good(time=1), Judgement("k1", "ada", skipped=True, time=2)])
        assert standing(table) == [("k1", "ada", "good")]

    def test_the_last_word_counts_whatever_the_order_of_rows(self):
        rows = [bad_mask(time=9), good(time=3)]
        assert standing(pa.concat_tables([to_table([row]) for row in rows])) == [("k1", "ada", "bad")]

    def test_nothing_gives_an_empty_table(self):
        assert current(LABELS.empty_table()).schema == LABELS


class TestConsensus:
    def test_shares_of_reviewers_and_nan_where_nobody_judged(self):
        table = to_table([good(), bad_mask(reviewer="bob"), bad_mask("k2")])
        first, second = consensus(table).to_pylist()
        assert (first["mask_good"], first["inpainting_good"], first["reviewers"]) == (0.5, 1.0, 2)
        assert second["mask_good"] == 0.0
        assert math.isnan(second["inpainting_good"])

    def test_an_audit_sample_keeps_its_weight_whoever_else_judged_it(self):
        table = to_table([good(time=1), good(reviewer="bob", queue="audit", weight=50.0, time=2)])
        (row,) = consensus(table).to_pylist()
        assert (row["queue"], row["weight"]) == ("audit", 50.0)

    def test_nothing_gives_an_empty_table(self):
        assert consensus(LABELS.empty_table()) == CONSENSUS.empty_table()


class TestKappa:
    def test_it_is_cohens(self):
        # Yes/yes 20, yes/no 5, no/yes 10, no/no 15: agreement 0.7, by chance 0.5, kappa 0.4.
        answers = [("good", "good")] * 20 + [("good", "bad")] * 5 + [("bad", "good")] * 10 + [("bad", "bad")] * 15
        rows = [
            Judgement(f"k{number}", who, mask=answer)
            for number, pair in enumerate(answers)
            for who, answer in zip(("ada", "bob"), pair, strict=True)
        ]
        result = kappa(to_table(rows))["mask"]
        assert (result["n"], result["agreement"]) == (50, pytest.approx(0.7))
        assert result["kappa"] == pytest.approx(0.4)
        assert result["pairs"][0]["a"] == "ada"

    def test_without_a_common_sample_it_is_not_defined(self):
        result = kappa(to_table([good("k1"), good("k2", "bob")]))
        assert result["mask"]["n"] == 0
        assert math.isnan(result["mask"]["kappa"])

    def test_with_one_answer_only_the_agreement_is_told(self):
        result = kappa(to_table([good(), good(reviewer="bob")]))["inpainting"]
        assert result["agreement"] == 1.0
        assert math.isnan(result["kappa"])

    def test_three_reviewers_are_three_pairs_weighted_by_what_they_share(self):
        said = {"ada": "gbgb", "bob": "gbgb", "eve": "bg"}
        rows = [
            Judgement(f"k{n}", who, mask={"g": "good", "b": "bad"}[letter])
            for who, letters in said.items()
            for n, letter in enumerate(letters)
        ]
        result = kappa(to_table(rows))["mask"]
        assert [pair["n"] for pair in result["pairs"]] == [4, 2, 2]
        assert result["kappa"] == pytest.approx((4 * 1 + 2 * -1 + 2 * -1) / 8)


class TestFiles:
    def test_export_and_import_bring_every_row_and_no_row_twice(self, store, tmp_path):
        store.add(bad_mask())
        store.add(good("k2", queue="audit", weight=100.0))
        store.undo("ada")
        write_labels(store.table(), str(tmp_path / "out.parquet"))
        with LabelStore(tmp_path / "other.sqlite") as other:
            table = read_labels(str(tmp_path / "out.parquet"))
            assert (other.import_(table), other.import_(table)) == (3, 0)
            assert other.table() == store.table()

    def test_a_runs_folder_is_read_from_both_files_each_row_once(self, store, tmp_path):
        assert read_labels(str(tmp_path)).schema == LABELS
        store.add(good("k1"))
        write_labels(store.table(), str(tmp_path / "labels.parquet"))
        store.add(good("k2"))
        assert read_labels(str(tmp_path))["key"].to_pylist() == ["k1", "k2"]

    def test_labels_in_an_object_store_are_read(self, store):
        store.add(good())
        write_labels(store.table(), "memory://labels-test/run/labels.parquet")
        assert read_labels("memory://labels-test/run") == store.table()
        assert len(read_labels("memory://labels-test/none")) == 0

    def test_the_same_rows_give_the_same_bytes(self, store, tmp_path):
        store.add(good())
        for name in ("a.parquet", "b.parquet"):
            write_labels(store.table(), str(tmp_path / name))
        assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()

    def test_a_table_from_elsewhere_needs_key_reviewer_and_an_answer(self, store):
        table = pa.table({"key": ["k1", "k2"], "reviewer": ["team"] * 2, "mask": ["good", "bad"]})
        assert (store.import_(table), store.import_(table)) == (2, 0)
        assert {row["queue"] for row in store.table().to_pylist()} == {"import"}
        assert set(store.table()["weight"].to_pylist()) == {0.0}

    def test_a_wrong_row_is_named_and_nothing_is_imported(self, store):
        table = pa.table({"key": ["k1", "k2"], "reviewer": ["team"] * 2, "mask": ["good", "superb"]})
        with pytest.raises(ValueError, match="row 1"):
            store.import_(table)
        assert len(store.table()) == 0

    def test_what_is_no_table_of_labels_is_refused_with_advice(self, tmp_path):
        (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no")
        pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
        (tmp_path / "text.sqlite").write_text("this is no database, whatever it is called" * 50)
        for name in ("damaged.parquet", "other.parquet", "text.sqlite", "missing.sqlite"):
            with pytest.raises(OutputError, match="labels"):
                read_labels(str(tmp_path / name))
        with pytest.raises(OutputError, match="Check the path"):
            read_labels(str(tmp_path / "missing.parquet"))

    def test_reading_a_file_of_something_else_leaves_it_as_it_is(self, tmp_path):
        sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE things (x)")
        before = (tmp_path / "other.sqlite").read_bytes()
        with pytest.raises(OutputError, match="labels"):
            read_labels(str(tmp_path / "other.sqlite"))
        assert (tmp_path / "other.sqlite").read_bytes() == before
