"""The seeded sample: of the key and the seed alone, and each row as likely as the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from finished_toy import toy_run

from l2i_builder.report.run import open_run
from l2i_builder.sample import sample_key
from l2i_builder.statistics import drawing
from l2i_builder.statistics.drawing import COLUMNS, Pool, draw_images, draw_rows, draws


def keys(count: int) -> pa.ChunkedArray:
    return pa.chunked_array([[sample_key(f"http://a/{i}", "") for i in range(count)]])


def test_draws_are_uniform_independent_of_order_and_chunks_and_other_with_another_seed() -> None:
    some = keys(4000)
    drawn = draws(some, 0)
    assert np.histogram(drawn, 10, (0, 1))[0].min() > 320
    assert np.array_equal(draws(some.take(pa.array(range(3999, -1, -1))), 0), drawn[::-1])
    parts = pa.chunked_array([some.slice(0, 7).combine_chunks(), some.combine_chunks().slice(7)])
    assert np.array_equal(draws(parts, 0), drawn)
    assert abs(np.corrcoef(drawn, draws(some, 1))[0, 1]) < 0.05


def test_keys_of_any_length_draw_the_same_alone_and_among_others() -> None:
    mixed = pa.chunked_array([["k", "key-2", sample_key("a", "b"), ""]])
    together = draws(mixed, 5)
    assert len(set(together)) == 4
    for place in range(4):
        assert draws(mixed.slice(place, 1), 5)[0] == together[place]
    assert len(draws(pa.chunked_array([[]], pa.string()), 0)) == 0


def test_a_pool_keeps_the_lowest_draws_however_the_rows_arrive() -> None:
    some = keys(1000)
    drawn = draws(some, 3)
    lines = pa.table({name: some if name == "key" else [""] * 1000 for name in COLUMNS})
    pool = Pool(50)
    for start in range(0, 1000, 90):
        part = lines.slice(start, 90)
        pool.add(part, drawn[start : start + 90], len(part))
    assert pool.rows == 1000
    assert pool.drawn.tolist() == sorted(drawn)[:50]
    assert pool.lines is not None
    assert np.array_equal(draws(pool.lines["key"], 3), pool.drawn)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("drawn")
    toy_run(folder, folder / "out", "ingest.audit_rate=0.4", "judge.mask.threshold=0.3", rows=80)
    return str(folder / "out")


def test_rows_are_drawn_of_all_and_of_the_kept(out: str) -> None:
    told: list[tuple[int, int]] = []
    pools = draw_rows(open_run(out), 30, 0, lambda *step: told.append(step))
    assert (pools["all"].rows, len(pools["all"].drawn)) == (80, 30)
    assert pools["kept"].rows < 80
    assert pools["kept"].lines is not None
    assert set(pools["kept"].lines["reason"].to_pylist()) == {""}
    assert told[-1] == (4, 4)


def test_images_are_drawn_of_the_kept_and_of_the_audit_slice(out: str) -> None:
    run = open_run(out)
    every = draw_images(run, 1000, 0)
    assert [one.number for one in every] == [0, 1, 2, 3]
    kept = set().union(*(one.kept for one in every))
    few = draw_images(run, 5, 0)
    chosen = set().union(*(one.kept for one in few))
    assert len(chosen) == 5
    assert chosen < kept
    assert len(set().union(*(one.all for one in few))) == 5
    assert draw_images(run, 5, 0) == few != draw_images(run, 5, 1)


def test_no_more_shards_are_opened_than_the_sample_needs(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "FEWEST_SHARDS", 1)
    assert len(draw_images(open_run(out), 3, 0)) == 1


def test_an_empty_run_draws_nothing(tmp_path: Path) -> None:
    toy_run(tmp_path, tmp_path / "out", "judge.mask.threshold=1", "ingest.audit_rate=0", rows=20)
    run = open_run(str(tmp_path / "out"))
    pools = draw_rows(run, 10, 0, lambda done, total: None)
    assert pools["kept"].rows == 0
    assert [len(one.kept) + len(one.all) for one in draw_images(run, 10, 0)] == [0]
