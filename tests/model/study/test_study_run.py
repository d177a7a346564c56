import io
import json
from dataclasses import replace

import pytest
from accelerate.state import AcceleratorState, GradientState
from rich.console import Console

from model.study import run as study_run
from model.study import work as study_work
from model.study.plan import ARMS, DONE, JUDGES, SEGMENTED, Budget, Job, jobs
from model.study.run import StudyError, run
from model.study.score import read_scores
from model.study.summary import FD_TEST, IOU, IOU_MAKER, RIGHT, write_summary

TINY = Budget(
    seeds=1, pool=140, kept=120, samples=4, autoencoder_steps=2, diffusion_steps=3, weak_scenes=16, weak_steps=10,
    judged=30, judge_steps=2, strong_scenes=32, strong_steps=2,
)  # fmt: skip


def console():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.slow
def test_every_row_is_trained_and_measured(tmp_path, monkeypatch, fresh_accelerate):
    monkeypatch.setattr("model.study.labels.KEEP", 0.95)  # of so few scenes
    TINY.claim(tmp_path)
    for job in jobs(TINY):
        study_work.work(tmp_path, job.name, console())
        assert job.done(tmp_path)
    rows = read_scores(tmp_path, 1)[0]
    assert set(rows) == {arm.title for arm in ARMS} | {SEGMENTED}
    for title, cells in rows.items():
        assert {FD_TEST, RIGHT} <= set(cells), title
        assert (IOU in cells) == (title != "image only (SD-LAION-L2I)")
    assert IOU_MAKER not in rows[SEGMENTED]
    assert "Table III" in write_summary(TINY, tmp_path)


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(study_run, "jobs", lambda budget: [Job(JUDGES)])
    monkeypatch.setattr(study_run, "write_summary", lambda budget, out: "the tables")
    budget = replace(TINY, strong_steps=1)
    first, second = console(), console()
    run(budget, tmp_path, 2, first)
    assert "0 of 1 jobs are done, 1 left" in first.file.getvalue()
    assert "judges: done" in first.file.getvalue()
    assert json.loads((tmp_path / JUDGES / DONE).read_text())["cpu_seconds"] > 0
    run(budget, tmp_path, 2, second)
    assert "1 of 1 jobs are done, 0 left" in second.file.getvalue()
    assert "begun" not in second.file.getvalue()
    assert "the tables" in second.file.getvalue()


@pytest.mark.slow
def test_a_job_that_fails_is_named_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(study_run, "jobs", lambda budget: [Job("seed-0/cat2i")])
    with pytest.raises(StudyError, match=r"seed-0/cat2i failed: .*no samples.*run again to go on"):
        run(TINY, tmp_path, 1, console())
    assert not (tmp_path / "seed-0/cat2i" / DONE).exists()
