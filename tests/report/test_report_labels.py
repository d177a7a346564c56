"""Labels in the report: joined with the ledgers, weighted, and silent where nothing unbiased can be said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_labels import label, label_run, write
from synthetic_run import INPAINTING_THRESHOLD, MASK_THRESHOLD, write_run

from l2i_builder import metrics
from l2i_builder.report import curves as c
from l2i_builder.report import write_report
from l2i_builder.report.bins import score_edges
from l2i_builder.report.labelled import Labelled, label_bins, read_labelled, wilson
from l2i_builder.report.options import Options
from l2i_builder.report.run import open_run


@pytest.fixture(scope="module")
def audited_run(tmp_path_factory):
    """A run with a large audit slice, its labels, and the audited rows with the truth."""
    out = str(tmp_path_factory.mktemp("labels") / "out")
    write_run(out, shards=3, rows=400, audit_rate=0.3, previews=True)
    truth = label_run(out)
    write_report(out)
    return out, truth, json.loads(Path(out, "report.json").read_bytes())


@pytest.fixture
def out(reported, tmp_path) -> str:
    """A copy of the unlabelled run."""
    shutil.copytree(reported.out, tmp_path / "out")
    return str(tmp_path / "out")


def column(truth, name: str) -> np.ndarray:
    return truth[name].to_numpy(zero_copy_only=False)


def test_without_labels_it_says_so(reported):
    assert reported.numbers["labels"]["samples"] == 0
    assert reported.numbers["labels"]["curves"]["mask"]["labels"] == 0
    assert reported.numbers["thresholds"]["labels"] == {"samples": 0, "good": 0, "cells": []}
    assert reported.html.count("no labels yet") == 2
    assert "No labels yet." in reported.html


def test_labels_are_counted_by_where_they_come_from(audited_run):
    _, truth, numbers = audited_run
    found = numbers["labels"]
    assert (found["samples"], found["found"], found["audit"]) == (len(truth) + 30, len(truth) + 30, len(truth))
    assert found["queues"] == {"audit": len(truth), "uncertain": 30}
    assert found["good"] + found["bad"] == len(truth) + 30


@pytest.mark.parametrize(("mask", "inpainting"), [(MASK_THRESHOLD, INPAINTING_THRESHOLD), (0.0, 0.0), (0.7, 0.4)])
def test_the_cells_give_precision_and_recall_at_any_edges(audited_run, mask, inpainting):
    _, truth, numbers = audited_run
    limits = numbers["thresholds"]
    i, j = limits["mask_edges"].index(mask), limits["inpainting_edges"].index(inpainting)
    inside = np.array([cell[2:] for cell in limits["labels"]["cells"] if cell[0] >= i and cell[1] >= j]).sum(axis=0)
    good = column(truth, "mask_good") & column(truth, "inpainting_good")
    kept = (column(truth, "mask_score") >= mask) & (column(truth, "inpainting_score") >= inpainting)
    assert inside[:2].tolist() == [kept.sum(), (kept & good).sum()]
    assert inside[4] / inside[2] == pytest.approx(good[kept].mean())
    assert limits["labels"]["good"] == good.sum()


def test_the_curves_are_those_of_the_audit_labels_alone(audited_run):
    _, truth, numbers = audited_run
    score, good = column(truth, "mask_score"), column(truth, "mask_good")
    curve = numbers["labels"]["curves"]["mask"]
    assert (curve["labels"], curve["good"]) == (len(truth), good.sum())
    value, low, high = curve["auc"]
    assert value == pytest.approx(metrics.auc(score, good), abs=1e-4)
    assert low < value < high
    kept = score >= MASK_THRESHOLD
    assert curve["at"]["precision"][0] == pytest.approx(good[kept].mean(), abs=1e-4)
    assert curve["at"]["recall"][0] == pytest.approx(kept[good].mean(), abs=1e-4)
    assert sum(line["labels"] for line in curve["reliability"]) == len(truth)
    assert curve["calibration_error"] < 0.15  # labels were drawn with the scores as their chances


def test_curves_run_from_corner_to_corner_and_never_back(audited_run):
    for judge in ("mask", "inpainting"):
        curve = audited_run[2]["labels"]["curves"][judge]
        roc, pr = np.array(curve["roc"]), np.array(curve["pr"])
        assert roc[0, 1:].tolist() == [0, 0]
        assert roc[-1, 1:].tolist() == [1, 1]
        assert (np.diff(roc[:, 1:], axis=0) >= 0).all()
        assert pr[-1, 1] == 1
        assert ((pr[:, 3] <= pr[:, 2]) & (pr[:, 2] <= pr[:, 4])).all()
        assert len(pr) <= c.POINTS


def test_disagreements_have_galleries_with_the_label_beside_the_score(audited_run):
    out, _, numbers = audited_run
    shown = {gallery["name"]: gallery["samples"] for gallery in numbers["galleries"]}
    assert shown["disputed_kept"]
    assert shown["disputed_rejected"]
    for sample in shown["disputed_kept"]:
        assert not sample["reason"]
        assert "bad" in sample["label"]
    for sample in shown["disputed_rejected"]:
        assert f"{sample['reason'].removesuffix('_rejected')} good" in sample["label"]
    scores = [sample[f"{sample['reason'].removesuffix('_rejected')}_score"] for sample in shown["disputed_rejected"]]
    assert scores == sorted(scores)
    assert "labelled: mask" in Path(out, "report.html").read_text()


def test_weights_count_as_so_many_samples():
    rng = np.random.default_rng(3)
    score = rng.random(300).round(2)
    good, weight = rng.random(300) < score, rng.integers(1, 5, 300).astype(np.float64)
    again = np.repeat(np.arange(300), weight.astype(int))
    one = np.ones(len(again))
    assert c.weighted_auc(score, good, weight) == pytest.approx(metrics.auc(score[again], good[again]))
    assert c.weighted_average_precision(score, good, weight) == pytest.approx(
        c.weighted_average_precision(score[again], good[again], one)
    )
    heavy, light = c.reliability(score, good, weight), c.reliability(score[again], good[again], one)
    assert [line["good"] for line in heavy] == [line["good"] for line in light]


def test_a_handful_of_labels_has_no_interval():
    few = Labelled(
        key=[str(i) for i in range(12)],
        mask=np.array([1.0] * 8 + [0.0] * 4),
        inpainting=np.ones(12),
        weight=np.ones(12),
        mask_score=np.linspace(0.9, 0.1, 12),
        inpainting_score=np.full(12, 0.9),
        reason=np.array([""] * 12, object),
    )
    assert c.judge_curves(few, "mask", 0.5)["auc"] == [1.0, None, None]


def test_intervals_of_unequal_weights_cover_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        weight = rng.choice([1.0, 6.0], 80)
        good = rng.random(80) < 0.8
        share = float(np.average(good, weights=weight))
        low, high = wilson(share, float(weight.sum() ** 2 / (weight**2).sum()))
        covered += low <= 0.8 <= high
    assert covered / 400 > 0.92


def test_a_tie_of_reviewers_and_half_a_verdict_count_as_unclear():
    found = Labelled(
        key=list("abcd"),
        mask=np.array([1.0, np.nan, 1.0, np.nan]),
        inpainting=np.array([1.0, 1.0, 0.0, 0.0]),
        weight=np.ones(4),
        mask_score=np.full(4, 0.9),
        inpainting_score=np.full(4, 0.9),
        reason=np.array(["", "", "", ""], object),
    )
    np.testing.assert_array_equal(found.good, [1, np.nan, 0, 0])
    bins = label_bins(found, score_edges(None), score_edges(None))
    assert (bins["samples"], bins["good"]) == (3, 1)


def test_reviewers_that_differ_are_neither(out, reported):
    kept = reported.rows.filter(reported.rows["reason"].to_numpy() == "").to_pylist()[0]
    place = {"key": kept["key"], "shard": kept["shard"]}
    write(out, [label(**place, reviewer="ada"), label(**place, number=1, reviewer="bob", mask="bad")])
    found = read_labelled(open_run(out))
    assert np.isnan(found.mask).all()
    assert found.counts["unclear"] == 1
    assert found.counts["kappa"]["mask"]["n"] == 1


def test_labels_of_rows_that_this_run_lacks_are_counted_and_left_out(out):
    write(out, [label("f" * 32, shard=1), label("e" * 32, number=1, shard=99)])
    write_report(out)
    numbers = json.loads(Path(out, "report.json").read_bytes())
    assert (numbers["labels"]["samples"], numbers["labels"]["found"]) == (2, 0)
    assert "the ledgers of this run know 0" in Path(out, "report.html").read_text()


def test_without_audit_labels_nothing_is_claimed(out, reported):
    kept = reported.rows.filter(reported.rows["reason"].to_numpy() == "").to_pylist()[:5]
    rows = [{"key": row["key"], "shard": row["shard"]} for row in kept]
    write(out, [label(**row, number=i, queue="uncertain", weight=0.0) for i, row in enumerate(rows)])
    write_report(out)
    numbers = json.loads(Path(out, "report.json").read_bytes())
    assert numbers["labels"]["found"] == 5
    assert numbers["labels"]["curves"]["mask"]["labels"] == 0
    assert "No labels from the audit queue yet" in Path(out, "report.html").read_text()


def test_labels_of_one_kind_draw_no_curve(out, reported):
    audit = reported.rows["audit"].to_numpy(zero_copy_only=False) & (reported.rows["reason"].to_numpy() == "")
    kept = reported.rows.filter(audit).to_pylist()
    write(out, [label(row["key"], number=i, shard=row["shard"]) for i, row in enumerate(kept)])
    write_report(out)
    curve = json.loads(Path(out, "report.json").read_bytes())["labels"]["curves"]["mask"]
    assert (curve["labels"], curve["auc"], curve["roc"]) == (len(kept), None, [])
    assert curve["at"]["false_positive_rate"] is None
    assert "All labels are good: a curve takes both." in Path(out, "report.html").read_text()


def test_hostile_labels_stay_text(out, reported):
    kept = reported.rows.filter(reported.rows["reason"].to_numpy() == "").to_pylist()[:3]
    evil = "<script>window.hacked = 1</script>\u202e\x00\x1b[31m"
    write(
        out,
        [
            label(row["key"], number=i, shard=row["shard"], reviewer=evil, queue=evil, mask="bad", mask_head=evil)
            for i, row in enumerate(kept)
        ]
        + [label(evil, number=9, criteria=[evil])],
    )
    write_report(out)
    html = Path(out, "report.html").read_text("utf-8")
    assert "<script>window" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;\\u202e" in html


def test_labels_may_lie_elsewhere(out, tmp_path):
    write(str(tmp_path), [label("f" * 32)])
    write_report(out, Options(labels=str(tmp_path / "labels.parquet")))
    assert json.loads(Path(out, "report.json").read_bytes())["labels"]["samples"] == 1
