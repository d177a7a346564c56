"""One pass over all ledgers: every shard once, in order, in bounded blocks."""

import pytest

from l2i_builder.errors import OutputError
from l2i_builder.report import scan as s
from l2i_builder.report.run import open_run


@pytest.mark.parametrize(("shards", "rows"), [(1, 1), (3, 500), (16, 200_000)])
def test_every_shard_comes_once_and_in_order(reported, monkeypatch, shards, rows):
    monkeypatch.setattr(s, "SHARDS", shards)
    monkeypatch.setattr(s, "BLOCK_ROWS", rows)
    done = []
    blocks = [block for part in s.scan(open_run(reported.out), ("shard", "key"), list, done.append) for block in part]
    assert [number for block in blocks for number in block.numbers] == [0, 1, 2, 3]
    assert [key for block in blocks for key in block.ledger["key"].to_pylist()] == reported.rows["key"].to_pylist()
    for block in blocks:
        assert sum(block.lengths) == len(block.ledger)
        assert len(block.ledger) < rows + 300
    assert sum(done) == 4


def test_reasons_are_counted_with_their_stage(reported):
    counts = s.scan_reasons(open_run(reported.out))
    assert sum(counts.values()) == 1200
    assert counts["", ""] == reported.numbers["funnel"]["kept"]
    assert counts["mask_rejected", "judge_mask"] > 0


def test_an_unreadable_ledger_is_an_error(tmp_path, reported):
    run = open_run(reported.out)
    run.out = str(tmp_path)
    with pytest.raises(OutputError):
        list(s.scan(run, ("key",), list))


def test_reading_ahead_keeps_the_order_and_passes_errors_on():
    assert list(s.ahead(lambda number: number * number, range(50), 8)) == [number * number for number in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(s.ahead(lambda number: 1 // (number - 20), range(50), 8))
