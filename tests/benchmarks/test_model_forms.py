"""Forms of the models are compared on the same work: the benchmark's own numbers say so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import saliency_model
from toy import toy_image

from benchmarks import gpu, inpaint_forms, judge_forms, models, segment_forms
from benchmarks.forms import by_turns, plain, table
from l2i_builder.weights.registry import cached

needs_weights = pytest.mark.skipif(
    not (cached("u2netp") and cached("efficientnet_lite0")),
    reason="runs when `l2i weights pull u2netp efficientnet_lite0` has been run",
)


def test_forms_take_turns_and_each_is_held_to_the_first() -> None:
    calls: list[str] = []
    forms = {name: lambda name=name: calls.append(name) or name for name in ("one", "other")}
    runs = by_turns(forms, images=2, rounds=2)
    assert calls == ["one", "one", "other", "other", "one", "other"]  # each is warmed up once
    assert {name: run.result for name, run in runs.items()} == {"one": "one", "other": "other"}
    assert all(run.cpu >= 0 and 0 < run.wall < 1 for run in runs.values())
    close = {"one": {"difference": 0.0}, "other": {"difference": 0.25}}
    assert plain(runs, close)["other"]["difference"] == 0.25
    assert "0.25" in table("title", runs, close).splitlines()[-1]


def test_runtimes_and_their_options_change_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bright.onnx").write_bytes(saliency_model(320))
    monkeypatch.setattr(segment_forms, "resolve", lambda name: tmp_path / "bright.onnx")
    monkeypatch.setenv("L2I_CACHE", str(tmp_path))
    images = [toy_image(f"photograph {number}", 128) for number in range(2)]
    ((runs, close),) = segment_forms.measure(images, 1, ["u2net"], openvino=False, venvs=None).values()
    assert len(runs) == 3 + len(segment_forms.sessions(tmp_path / "bright.onnx", tmp_path))
    assert runs[segment_forms.REFERENCE].result.any()
    assert {numbers["least IoU"] for numbers in close.values()} == {1.0}
    assert max(numbers["mean difference"] for numbers in close.values()) < 0.01


def test_a_mask_that_differs_is_told() -> None:
    one, other = np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8)
    one[:, :4], other[:, :2] = 255, 255
    assert segment_forms.closeness(one, other) == {"least IoU": 0.5, "mean difference": 255 / 4}


@pytest.mark.slow
@needs_weights
def test_fills_are_held_to_the_truth_and_to_the_package(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inpaint_forms, "FORMS", {"as built": {}})
    out = tmp_path / "numbers.json"
    options = ["--folder", str(photographs), "--quick", "--stages", "inpaint", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["models", *options])
    models.main()
    numbers = json.loads(out.read_text())["patchmatch"]
    assert set(numbers) == {inpaint_forms.REFERENCE, "as built"}
    assert numbers[inpaint_forms.REFERENCE]["difference"] == 0
    for row in numbers.values():
        assert row["cpu"] > 0
        assert 5 < row["PSNR to truth"] <= 60
        assert 0 < row["judge's score"] < 1


@pytest.mark.slow
@needs_weights
def test_every_form_of_a_judge_gives_its_scores(photographs: Path) -> None:
    found = judge_forms.measure(models.photographs(photographs, 2), rounds=1)
    assert set(found) == {"judge of the mask", "judge of the inpainting"}
    for runs, close in found.values():
        assert set(runs) == {*judge_forms.FORMS, judge_forms.NETWORK}
        assert max(numbers["score difference"] for numbers in close.values()) < 1e-4


class TestGpu:
    def run(self, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gpu", *options])
        gpu.main()

    def test_without_a_gpu_it_says_so(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU; runs where there is none")
        self.run(monkeypatch)
        assert "There is no GPU here" in capsys.readouterr().out

    @pytest.mark.slow
    @needs_weights
    def test_on_the_cpu_forms_give_the_same_scores(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        out = tmp_path / "gpu.json"
        self.run(monkeypatch, "--device", "cpu", "--quick", "--models", "efficientnet", "--json", str(out))
        rows = json.loads(out.read_text())["efficientnet"]
        assert list(rows) == list(gpu.forms(2, compiling=False))
        assert rows["one by one, float32"]["largest_difference"] == 0
        assert rows["batches of 2"]["largest_difference"] < 1e-4
        assert all(row["largest_difference"] < 0.2 for row in rows.values())  # bfloat16 has three digits
