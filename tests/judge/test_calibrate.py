"""Thresholds from audit labels: right on data whose truth is known, weighted, honest about what is too little."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from l2i_builder import storage
from l2i_builder.cli import app
from l2i_builder.config import Config
from l2i_builder.errors import OutputError
from l2i_builder.judge.calibrate import Audited, Report, calibrate, propose
from l2i_builder.labels import Judgement, to_table, write_labels
from l2i_builder.output.ledger import write_ledger
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.sample import Reason, Row


def audited(count: int = 4000, seed: int = 0) -> Audited:
    """Scores that are true probabilities: above t the precision is (1 + t) / 2."""
    rng = np.random.default_rng(seed)
    scores = rng.random(count)
    good = (rng.random(count) < scores).astype(float)
    return Audited(
        scores={"mask": scores, "inpainting": scores},
        good={"mask": good, "inpainting": good},
        weight=np.ones(count),
        heads={"mask": ["mask-v1"], "inpainting": ["inpainting-v1"]},
    )


def everything(data: Audited) -> np.ndarray:
    return np.ones(len(data.weight), bool)


class TestThreshold:
    def test_reaches_the_wanted_precision_and_says_what_it_costs(self) -> None:
        data = audited()
        found = propose(data, "mask", everything(data), 0.9, current=0.5)
        assert found.threshold[0] == pytest.approx(0.8, abs=0.05)
        assert found.threshold[1] <= found.threshold[0] <= found.threshold[2]
        assert found.precision[0] >= 0.9
        assert found.kept[0] == pytest.approx(0.2, abs=0.05)
        assert found.recall[0] == pytest.approx(0.36, abs=0.08)  # 1 - 0.8 squared
        assert found.current_precision[0] == pytest.approx(0.75, abs=0.03)
        assert found.current_yield[0] == pytest.approx(0.5, abs=0.03)
        assert found.advice == ""

    def test_holds_for_the_whole_slice_when_the_queue_showed_some_samples_more_often(self) -> None:
        """Bad samples shown four times as often: without their weights every precision would come out too low."""
        data = audited(20_000)
        rng = np.random.default_rng(1)
        chance = np.where(data.good["mask"] > 0.5, 0.1, 0.4)
        shown = rng.random(20_000) < chance
        labels = np.where(shown, data.good["mask"], np.nan)
        weighted = Audited(data.scores, {"mask": labels}, np.where(shown, 1 / chance, 0), data.heads)
        blind = Audited(data.scores, {"mask": labels}, shown.astype(float), data.heads)
        right, wrong = (propose(d, "mask", everything(data), 0.9, 0.5) for d in (weighted, blind))
        assert right.current_precision[0] == pytest.approx(0.75, abs=0.03)
        assert wrong.current_precision[0] < 0.6
        assert right.threshold[0] == pytest.approx(0.8, abs=0.05)

    def test_intervals_narrow_with_labels(self) -> None:
        few, many = (propose(d, "mask", everything(d), 0.9, 0.5) for d in (audited(200), audited(4000)))
        width = [f.current_precision[2] - f.current_precision[1] for f in (few, many)]
        assert width[0] > 3 * width[1]

    def test_unreached_precision_is_said(self) -> None:
        data = audited(400)
        data.good["mask"][:] = np.arange(400) % 2
        found = propose(data, "mask", everything(data), 0.99, current=None)
        assert "No threshold reaches" in found.advice

    @pytest.mark.parametrize(("labels", "more"), [(30, True), (3000, False)])
    def test_too_few_labels_are_said_with_how_many_more(self, labels: int, more: bool) -> None:
        data = audited(labels)
        advice = propose(data, "mask", everything(data), 0.9, 0.5).advice
        assert ("more make its precision" in advice) == more

    def test_labels_of_one_kind_give_no_threshold(self) -> None:
        data = audited(30)
        data.good["mask"][:] = 1
        found = propose(data, "mask", everything(data), 0.9, 0.5)
        assert math.isnan(found.threshold[0])
        assert "30 audit labels of the mask are few" in found.advice


MASK_THRESHOLD, INPAINTING_THRESHOLD = 0.4, 0.5


def write_run(out: str, shards: int, audit_every: int) -> list[Row]:
    """Write what calibration reads of a run: its identity, ledgers with scores, and which shards are finished."""
    settings = {"mask": {"threshold": MASK_THRESHOLD}, "inpainting": {"threshold": INPAINTING_THRESHOLD}}
    claim(out, RunManifest.of(Config.model_validate({"judge": settings}), "input", {}))
    rng, rows = np.random.default_rng(0), []
    for shard in range(shards):
        ledger = [Row(f"key-{shard}-{i}", "", "", shard, i) for i in range(300)]
        for row in ledger:
            row.audit = audit_every > 0 and row.index % audit_every == 0
            row.mask_score, row.mask_head = float(rng.random()), "mask-v1"
            if row.mask_score < MASK_THRESHOLD:
                row.refuse(Reason.MASK_REJECTED, "judge_mask")
            if row.kept or row.audit:
                row.inpainting_score, row.inpainting_head = float(rng.random()), "inpainting-v1"
        ledger[5].mask_score = ledger[5].inpainting_score = -1.0  # never fetched
        storage.write_bytes(f"{out}/ledger/{shard:05d}.parquet", write_ledger(ledger, {}))
        storage.write_bytes(f"{out}/manifests/{shard:05d}.json", b"{}")
        rows += ledger
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of 900 rows, half of them audited and labelled: good with the probability that the score says."""
    out = str(tmp_path_factory.mktemp("calibrate") / "run")
    rng, said = np.random.default_rng(1), []
    for row in write_run(out, shards=3, audit_every=2):
        scores = {"mask": row.mask_score, "inpainting": row.inpainting_score}
        answers = {task: ("good" if rng.random() < s else "bad") if s >= 0 else "" for task, s in scores.items()}
        fields = {"queue": "audit", "weight": 2.0}
        if not row.audit:  # shown because it looked bad: never part of the figures
            answers, fields = {"mask": "bad", "inpainting": ""}, {"queue": "uncertain", "weight": 0.0}
        if answers["mask"]:
            said.append(Judgement(row.key, "ada", shard=row.shard, **answers, **fields))  # type: ignore[arg-type]
    write_labels(to_table(said), f"{out}/labels.parquet")
    return out


def test_a_run_and_its_labels_give_both_thresholds(run: str) -> None:
    report = calibrate(run, precision=0.8)
    mask, inpainting = report.judges
    assert (mask.task, inpainting.task) == ("mask", "inpainting")
    assert mask.labels > 400 > inpainting.labels > 100  # only those whose mask is kept reach the second judge
    assert mask.current == MASK_THRESHOLD
    assert inpainting.current == INPAINTING_THRESHOLD
    assert mask.heads == ["mask-v1"]
    for found in report.judges:
        assert found.precision[1] <= found.precision[0] <= found.precision[2]
        assert 0 < found.kept[0] < 1
    assert report.kept[0] < mask.kept[0]
    assert report.precision[0] <= mask.precision[0] + 1e-9


def test_the_same_labels_give_the_same_report(run: str) -> None:
    assert json.dumps(calibrate(run).to_json()) == json.dumps(calibrate(run).to_json())


def test_without_labels_it_says_how_many_are_needed(run: str, tmp_path: Path) -> None:
    write_labels(to_table([]), str(tmp_path / "none.parquet"))
    report = calibrate(run, str(tmp_path / "none.parquet"))
    assert all(found.labels == 0 for found in report.judges)
    assert "more make its precision known" in report.judges[0].advice
    assert report.to_json()["judges"][0]["threshold"] == [None, None, None]
    assert report.judges[0].current_yield[0] == pytest.approx(1 - MASK_THRESHOLD, abs=0.1)  # known without labels


def test_a_run_without_an_audit_slice_is_an_error(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    write_run(out, shards=1, audit_every=0)
    with pytest.raises(OutputError, match=r"audit_rate"):
        calibrate(out)


class TestCommand:
    def test_prints_a_table_and_what_to_do_next(self, run: str) -> None:
        result = CliRunner().invoke(app, ["calibrate", run, "--precision", "0.8"], env={"COLUMNS": "200"})
        assert result.exit_code == 0
        assert f"{MASK_THRESHOLD:.3f} now" in result.output
        assert "--set judge.mask.threshold=0." in result.output

    def test_prints_json(self, run: str) -> None:
        result = CliRunner().invoke(app, ["calibrate", run, "--json"])
        printed = json.loads(result.stdout)
        assert printed["wanted"] == 0.9
        assert [judge["task"] for judge in printed["judges"]] == ["mask", "inpainting"]
        assert isinstance(calibrate(run), Report)
