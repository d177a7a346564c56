"""The funnel: rows left after each step, and whether they add up."""

import io
from collections import Counter

import pytest
from rich.console import Console
from rich.table import Table

from l2i_builder.report import funnel
from l2i_builder.report.steps import INPUT, make_funnel

COUNTS = {
    ("", ""): 10,
    ("low_aesthetic", "ingest"): 5,
    ("http_4xx", "fetch"): 30,
    ("not_image", "decode"): 3,
    ("mask_empty", "segment"): 2,
    ("mask_rejected", "judge_mask"): 40,
    ("stage_error", "inpaint"): 1,
    ("stage_error", "segment"): 1,
    ("inpainting_rejected", "judge_inpainting"): 8,
}


def test_each_step_loses_what_its_stage_refused():
    assert make_funnel(COUNTS, 100).rows == [
        (INPUT, 100),
        ("pass the metadata filter", 95),
        ("fetched", 65),
        ("decoded", 62),
        ("segmented", 59),
        ("mask judged good", 19),
        ("inpainted", 18),
        ("inpainting judged good = kept", 10),
    ]


def test_reasons_of_several_stages_are_one_reason():
    assert make_funnel(COUNTS, 100).reasons["stage_error"] == 2


def test_what_is_refused_after_the_last_step_gets_a_step_of_its_own():
    counts = COUNTS | {("duplicate", "commit"): 4}
    assert make_funnel(counts, 104).rows[-2:] == [("inpainting judged good", 14), ("kept", 10)]


@pytest.mark.parametrize(("planned", "reconciles"), [(100, True), (99, False), (101, False), (-1, False)])
def test_it_reconciles_only_with_the_planned_rows(planned, reconciles):
    assert make_funnel(COUNTS, planned).reconciles is reconciles


def test_nothing_finished_is_an_empty_funnel():
    empty = make_funnel({}, 0)
    assert (empty.total, empty.kept, empty.reconciles) == (0, 0, True)
    assert {count for _, count in empty.rows} == {0}


def printed(table: Table) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_table_shows_counts_and_shares():
    lines = printed(make_funnel(COUNTS, 100).table()).splitlines()
    judged = next(line for line in lines if line.startswith("mask judged good"))
    assert judged.split()[3:] == ["19", "32.2", "%", "19.0", "%"]
    assert not any("does not add up" in line for line in lines)


def test_the_table_says_when_rows_are_missing():
    assert "does not add up" in printed(make_funnel(COUNTS, 120).table())


def test_of_an_output_folder_it_counts_the_ledgers(reported):
    result = funnel(reported.out)
    counts = Counter(reported.rows["reason"].to_pylist())
    assert result.kept == counts.pop("")
    assert result.reasons == dict(sorted(counts.items()))
    assert result.rows[0] == (INPUT, 1200)
    assert result.reconciles
