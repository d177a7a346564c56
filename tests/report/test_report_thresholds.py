"""Which thresholds a run was made with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import write_run

from l2i_builder.judge.judges import load_head
from l2i_builder.output.manifest import RunManifest
from l2i_builder.report import write_report
from l2i_builder.report.run import Run, open_run
from l2i_builder.report.thresholds import Threshold, _between, thresholds


def test_those_of_the_configuration_come_first(reported):
    assert thresholds(open_run(reported.out)) == {
        "mask": Threshold(0.437, "configuration"),
        "inpainting": Threshold(0.55, "configuration"),
    }


def test_a_judge_that_is_off_has_none(tmp_path):
    write_run(str(tmp_path / "out"), shards=1, rows=40, judges=False, previews=False)
    assert thresholds(open_run(str(tmp_path / "out"))) == {"mask": None, "inpainting": None}


def without_settings(run: Run, weights: dict[str, str]) -> Run:
    """The run as if its thresholds had been left to the heads."""
    judges = {judge: {"enabled": True, "head": "", "threshold": -1.0} for judge in ("mask", "inpainting")}
    run.config = run.config | {"judge": judges}
    run.weights = weights
    return run


def test_that_of_the_head_counts_if_it_is_the_head_of_the_run(reported):
    heads = {judge: load_head("", judge) for judge in ("mask", "inpainting")}
    weights = {f"judge {judge}: {head.card['name']}": head.digest for judge, head in heads.items()}
    assert thresholds(without_settings(open_run(reported.out), weights)) == {
        judge: Threshold(head.card["threshold"], "head") for judge, head in heads.items()
    }


def test_where_the_head_is_another_one_the_ledgers_tell(reported):
    weights = {"judge mask: mask-v1": "0" * 64}
    found = thresholds(without_settings(open_run(reported.out), weights))
    for judge, wanted, passing in (("mask", 0.437, ["", "inpainting_rejected"]), ("inpainting", 0.55, [""])):
        assert found[judge].source == "ledgers"
        assert found[judge].value == pytest.approx(wanted, abs=0.01)
        scores, reasons = (reported.rows[name].to_numpy() for name in (f"{judge}_score", "reason"))
        passed = np.isin(reasons, passing)
        assert (scores[passed] >= found[judge].value).all()
        assert (scores[reasons == f"{judge}_rejected"] < found[judge].value).all()


def test_with_a_found_threshold_the_page_still_counts_what_was_kept(reported, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(reported.out, out)
    run = RunManifest.from_json((out / "run.json").read_bytes())
    for judge in ("mask", "inpainting"):
        run.config["judge"][judge]["threshold"] = -1.0
    (out / "run.json").write_bytes(run.to_json())
    html = Path(write_report(str(out))).read_text("utf-8")
    limits = json.loads((out / "report.json").read_bytes())["thresholds"]
    i, j = (limits[f"{judge}_edges"].index(limits[judge]) for judge in ("mask", "inpainting"))
    assert sum(count for a, b, count in limits["both"] if a >= i and b >= j) == limits["kept"]
    assert "found from the ledgers" in html


@pytest.mark.parametrize(
    ("low", "high", "value"),
    [(0.6301, 0.6312, 0.631), (0.41, 0.62, 0.6), (0.4, 0.5, 0.5), (0.0, 1.0, 1.0), (0.12345, 0.12346, 0.12346)],
)
def test_the_shortest_number_between_is_taken(low, high, value):
    assert _between(low, high) == Threshold(value, "ledgers")


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 0.5), (0.5, np.inf), (0.6, 0.5), (0.5, 0.5)])
def test_without_both_sides_nothing_can_be_told(low, high):
    assert _between(low, high) is None
