"""What is counted shard by shard equals what is counted over all rows at once."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from synthetic_run import INPAINTING_THRESHOLD, MASK_THRESHOLD

from l2i_builder.report.aggregate import COLUMNS, Aggregate
from l2i_builder.report.bins import Histogram, bin_of, score_edges
from l2i_builder.report.run import open_run, read_stats
from l2i_builder.report.scan import Block, scan


def counted(out: str) -> Aggregate:
    total = Aggregate(MASK_THRESHOLD, INPAINTING_THRESHOLD)

    def part(blocks: Iterator[Block]) -> Aggregate:
        result = Aggregate(MASK_THRESHOLD, INPAINTING_THRESHOLD)
        for block in blocks:
            result.add(block, read_stats(out, block.numbers))
        return result

    for one in scan(open_run(out), COLUMNS, part):
        total.merge(one)
    return total


def block_of(reported) -> Block:
    return next(scan(open_run(reported.out), COLUMNS, next))


@pytest.fixture(scope="module")
def total(reported):
    return counted(reported.out)


def column(reported, name: str) -> np.ndarray:
    return reported.rows[name].to_numpy()


def test_every_row_is_counted_once(reported, total):
    assert total.rows == sum(total.counts.values()) == sum(total.verdicts.values()) == 1200
    assert Counter(reported.rows["verdict"].to_pylist()) == total.verdicts


def test_heads_are_counted_by_the_rows_they_scored(reported, total):
    for judge in ("mask", "inpainting"):
        scored = int((column(reported, f"{judge}_score") != -1).sum())
        assert total.heads[judge] == {f"{judge}-v1": scored}


def test_parts_add_up_to_the_whole(reported, total, monkeypatch):
    monkeypatch.setattr("l2i_builder.report.scan.SHARDS", 1)
    monkeypatch.setattr("l2i_builder.report.scan.BLOCK_ROWS", 1)
    parts = counted(reported.out)
    assert (parts.rows, parts.counts, parts.verdicts, parts.heads) == (
        total.rows,
        total.counts,
        total.verdicts,
        total.heads,
    )
    assert parts.audit == total.audit
    assert parts.seconds == pytest.approx(total.seconds)
    for name in ("density", "both", "audited"):
        np.testing.assert_array_equal(getattr(parts, name).counts, getattr(total, name).counts)
    for name, bins in total.distributions.items():
        np.testing.assert_array_equal(parts.distributions[name].counts, bins.counts)
    assert parts.domains.table.sort_by("host") == total.domains.table.sort_by("host")
    for name in ("number", "kept", "mask_sum"):
        np.testing.assert_allclose(parts.shards.column(name), total.shards.column(name))


def test_audit_rows_with_both_scores_are_counted_apart(reported, total):
    audit = column(reported, "audit") & (column(reported, "inpainting_score") != -1)
    decided = np.isin(column(reported, "reason"), ["", "mask_rejected", "inpainting_rejected"])
    assert total.audited.counts.sum() == total.audit["judged"] == (audit & decided).sum() > 10


@pytest.mark.parametrize("judge", ["mask", "inpainting"])
def test_score_histograms_hold_every_score_by_outcome(reported, total, judge):
    scores, reasons = column(reported, f"{judge}_score"), column(reported, "reason")
    counts = dict(zip(total.scores[judge].groups, total.scores[judge].counts, strict=True))
    known = scores != -1
    assert counts["kept"].sum() == (known & (reasons == "")).sum() > 100
    assert counts["mask rejected"].sum() == (known & (reasons == "mask_rejected")).sum() > 0
    assert counts["other"].sum() == (known & (reasons == "stage_error")).sum() > 0
    expected, _ = np.histogram(scores[known], bins=total.scores[judge].edges)
    np.testing.assert_array_equal(total.scores[judge].counts.sum(axis=0), expected)


def test_kept_counts_above_any_edge_are_exact_from_the_runs_mask_threshold_up(reported, total):
    mask, inpainting = column(reported, "mask_score"), column(reported, "inpainting_score")
    decided = np.isin(column(reported, "reason"), ["", "mask_rejected", "inpainting_rejected"])
    for i, low in enumerate(total.both.mask_edges[:-1]):
        if low < MASK_THRESHOLD:
            continue
        for j in (0, 20, 50, 56, 57, 80):
            at = total.both.inpainting_edges[j]
            expected = (decided & (mask >= low) & (inpainting >= at)).sum()
            assert total.both.counts[i:, j:].sum() == expected, (low, at)


def test_the_runs_own_thresholds_are_edges_and_give_the_kept_count(total):
    i = total.both.mask_edges.tolist().index(MASK_THRESHOLD)
    j = total.both.inpainting_edges.tolist().index(INPAINTING_THRESHOLD)
    assert total.both.counts[i:, j:].sum() == total.counts["", ""]


def test_masks_that_were_never_inpainted_are_counted_apart(reported, total):
    alone = (column(reported, "reason") == "mask_rejected") & (column(reported, "inpainting_score") == -1)
    assert total.mask_only.sum() == alone.sum() > 0
    assert total.mask_only[total.both.mask_edges[:-1] >= MASK_THRESHOLD].sum() == 0


def test_below_the_mask_threshold_only_audit_rows_have_both_scores(reported, total):
    below = total.both.counts[total.both.mask_edges[:-1] < MASK_THRESHOLD].sum()
    audit = column(reported, "audit") & (column(reported, "reason") == "mask_rejected")
    assert below == (audit & (column(reported, "inpainting_score") != -1)).sum() > 0


def test_distributions_compare_kept_with_rejected_where_the_value_is_known(reported, total):
    areas, verdicts = column(reported, "mask_area"), column(reported, "verdict")
    kept, rejected = total.distributions["mask_area"].counts
    assert kept.sum() == (verdicts == "kept").sum()
    assert rejected.sum() == ((verdicts == "rejected") & (areas != -1)).sum()
    assert total.distributions["short_side"].counts.sum() == (verdicts != "failed").sum()


def test_seconds_images_and_bytes_add_up(reported, total):
    sizes = column(reported, "bytes")
    assert total.fetched_bytes == sizes[sizes > 0].sum()
    assert total.images["fetch"] == 1200
    assert total.seconds["inpaint"] == pytest.approx(0.61 * total.images["inpaint"], rel=0.1)
    assert total.shards.column("attempts").tolist() == [1, 2, 1, 1]


def test_shards_are_counted_each(reported, total):
    shards, reasons = column(reported, "shard"), column(reported, "reason")
    mask = column(reported, "mask_score")
    for number in range(4):
        here = shards == number
        assert total.shards.column("kept")[number] == (here & (reasons == "")).sum()
        assert total.shards.column("mask_n")[number] == (here & (mask != -1)).sum()
        assert total.shards.column("mask_sum")[number] == pytest.approx(mask[here & (mask != -1)].sum())


def test_stats_of_another_shape_count_nothing(reported):
    block = block_of(reported)
    odd = Aggregate(None, None)
    odd.add(block, [{"seconds": [1], "images": {"fetch": "many"}, "attempt": "x"}] * len(block.numbers))
    assert (odd.seconds, odd.images, odd.shards.column("attempts").tolist()) == ({}, {}, [1] * len(block.numbers))


def test_a_ledger_without_rows_counts_nothing(reported):
    empty = Aggregate(0.5, 0.5)
    empty.add(Block([0], [0], block_of(reported).ledger.slice(0, 0)), [{}])
    assert (empty.rows, empty.counts, len(empty.domains.table)) == (0, {}, 0)


def test_values_on_an_edge_belong_to_the_bin_above_and_outliers_to_the_outermost():
    bins = Histogram(np.array([0.0, 1.0, 2.0, 3.0]), ("all",))
    bins.add(np.array([-9.0, 0.0, 1.0, 1.999, 2.0, 3.0, 99.0]), np.zeros(7, np.int64))
    assert bins.counts.tolist() == [[2, 2, 3]]


def test_score_edges_hold_the_threshold_exactly_and_stay_ascending():
    for threshold in (None, 0.0, 1.0, 0.5, 0.437, 0.1 + 0.2, 0.55):
        edges = score_edges(threshold)
        assert (np.diff(edges) > 1e-6).all()
        assert threshold is None or threshold in edges.tolist()
        assert bin_of(np.array([0.0, 1.0]), edges).tolist() == [0, len(edges) - 2]
