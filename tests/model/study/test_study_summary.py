import json
import math

import pytest

from l2i_builder.output.manifest import pretty
from model.study import summary
from model.study.plan import ARMS, DONE, IMAGE, JUDGES, LABELS, SEGMENTED, Budget
from model.study.summary import IOU, IOU_MAKER, RIGHT, student_interval


def scores_of(arm, number, seed):
    """What a row's job writes."""
    if arm.name == IMAGE:
        return {arm.title: {RIGHT: 0.7}, SEGMENTED: {IOU: 0.9, RIGHT: 0.7}}
    return {arm.title: {IOU: 0.5 + 0.1 * seed + 0.01 * number, RIGHT: 0.8, IOU_MAKER: 0.7, "mask IoU": 0.9}}


@pytest.fixture
def study(tmp_path):
    """A folder with two measured seeds of three."""
    Budget().claim(tmp_path)
    jobs = [(tmp_path / JUDGES, "judges.json", {"third segmenter": 0.95})]
    for seed in (0, 1):
        base = tmp_path / f"seed-{seed}"
        jobs.append((base / LABELS, "labels.json", {"share": 0.5}))
        jobs += [(base / arm.name, "scores.json", scores_of(arm, i, seed)) for i, arm in enumerate(ARMS)]
    for folder, name, content in jobs:
        folder.mkdir(parents=True)
        (folder / name).write_bytes(pretty(content))
        (folder / DONE).write_bytes(pretty({"cpu_seconds": 30.0}))
    return tmp_path


def test_student_s_interval_of_three_values():
    mean, low, high = student_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    assert student_interval([1.0]) == (1.0, None, None)


def test_the_paper_s_tables_over_the_seeds_that_are_measured(study):
    text = summary.write_summary(Budget(), study)
    assert "Table I. Composites" in text
    assert "Table II. Masks" in text
    assert "Table III. Effect of filtering" in text
    written = json.loads((study / "results.json").read_text())
    table = {row["model"]: row["cells"] for row in written["tables"][1]["rows"]}
    assert "image only (SD-LAION-L2I)" not in table  # it has no masks
    assert IOU_MAKER not in table[SEGMENTED]  # its mask is that segmenter's own
    assert table["CaT2I-AE-SD"][IOU]["value"] == pytest.approx(0.55)
    assert table["CaT2I-AE-SD"][IOU]["samples"] == 2
    assert written["facts"]["CPU minutes, all jobs"] == 8.5  # of 17 jobs
    assert list(written["seeds"]) == ["0", "1"]
    page = (study / "results.html").read_text()
    assert "CaT2I-AE-SD, unfiltered masks" in page
    assert "n: seeds (0, 1)" in page


def test_differences_are_paired_by_seed(study):
    summary.write_summary(Budget(), study)
    lines = json.loads((study / "results.json").read_text())["differences"]
    line = next(line for line in lines if line["minus"] == "CaT2I-AE-SD, unfiltered masks" and line["column"] == IOU)
    assert line["each seed"] == pytest.approx([-0.01, -0.01])
    assert line["low"] == pytest.approx(line["high"]) == pytest.approx(-0.01)


def test_one_seed_has_no_interval(study):
    (study / "seed-1/cat2i" / DONE).unlink()  # a row that is still at work
    text = summary.write_summary(Budget(), study)
    assert "| CaT2I-AE-SD | 0.700 | 0.500 |" in text
    assert "<small>n = 1</small>" in (study / "results.html").read_text()
