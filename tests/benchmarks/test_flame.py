"""benchmarks.flame: stacks as py-spy writes them become boxes by kind of process."""

import pytest

from benchmarks.flame import boxes, stacks

RUN = 'process 1:"python -m benchmarks.overhead"'
WORKER = f'{RUN};process 2:"default_worker.py --node; x"'
LOOP = f'{RUN};process 3:"-c from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=6)"'
LINES = [
    f"{RUN};<module> (benchmarks/overhead.py:3);run_on_ray (driving.py:9);Driver.run (l2i_builder/run/cluster.py:7) 10",
    f"{WORKER};main_loop (w.py:1);StageWorker.run (l2i_builder/run/cluster.py:5);hole (l2i_builder/layers.py:2) 60",
    f"{WORKER};main_loop (w.py:1);StageWorker.run (l2i_builder/run/cluster.py:6);hole (l2i_builder/layers.py:3) 20",
    f"{WORKER};main_loop (w.py:1) 10",
    f"{WORKER};StageWorker.ready (l2i_builder/run/cluster.py:5);load (torch.py:1) 500",
    f"{WORKER};_find_and_load (<frozen importlib._bootstrap>:100) 500",
    f"{LOOP};plain_loop (overhead.py:3);run_stages (l2i_builder/stages.py:1) 900",
]


def test_stacks_are_of_the_runs_work_alone_by_kind_of_process():
    assert stacks(LINES) == {
        ("driver", "Driver.run (run/cluster.py)"): 10,
        ("model actors", "StageWorker.run (run/cluster.py)", "hole (layers.py)"): 80,
        ("model actors", "outside of l2i_builder"): 10,
    }


def test_a_process_that_shows_nothing_of_the_project_is_rays():
    assert stacks([f'{RUN};process 7:"raylet";main (ray/agent.py:2) 3']) == {
        ("Ray's own processes", "outside of l2i_builder"): 3
    }


def test_boxes_lie_within_those_that_called_them_widest_first():
    drawn = {(box["depth"], box["frame"]): (box["left"], box["right"]) for box in boxes(stacks(LINES), least=0)}
    assert drawn == {
        (0, "model actors"): (0, 90),
        (1, "StageWorker.run (run/cluster.py)"): (0, 80),
        (2, "hole (layers.py)"): (0, 80),
        (1, "outside of l2i_builder"): (80, 90),
        (0, "driver"): (90, 100),
        (1, "Driver.run (run/cluster.py)"): (90, 100),
    }


def test_narrow_frames_are_left_out_with_what_they_call():
    assert {box["kind"] for box in boxes(stacks(LINES), least=11)} == {"model actors"}


def test_shares_are_percent_of_all_samples():
    assert sum(box["share"] for box in boxes(stacks(LINES), 0) if box["depth"] == 0) == pytest.approx(100)
