"""Forms of the ONNX segmenters: onnxruntime with its options, ncnn, and OpenVINO."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.forms import Run, by_turns
from benchmarks.venvs import venv
from classifiers.scenes import iou
from l2i_builder.config import Segment
from l2i_builder.segment.networks import OnnxruntimeNetwork
from l2i_builder.segment.onnx import OnnxSegmenter
from l2i_builder.segment.segmenter import to_mask
from l2i_builder.weights.registry import resolve

OPENVINO = ("openvino==2026.4.1", "numpy==2.4.6")
LEVELS = onnxruntime.GraphOptimizationLevel
REFERENCE = "onnxruntime: 1 thread, no spinning"


def sessions(path: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return form -> what makes its session."""

    def made(change: Callable[[Any], None], threads: int = 1, file: Path = path, spin: bool = False) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        change(options)
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def nothing(_: Any) -> None:
        pass

    def level(options: Any, value: Any) -> None:
        options.graph_optimization_level = value

    def no_arena(options: Any) -> None:
        options.enable_cpu_mem_arena = False

    def no_pattern(options: Any) -> None:
        options.enable_mem_pattern = False

    def denormals(options: Any) -> None:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")

    def saved() -> Any:
        file = folder / f"{path.stem}-optimised.onnx"
        made(lambda options: setattr(options, "optimized_model_filepath", str(file)))
        return made(partial(level, value=LEVELS.ORT_DISABLE_ALL), file=file)

    return {
        "2 threads, no spinning": lambda: made(nothing, 2),
        "2 threads, spinning": lambda: made(nothing, 2, spin=True),
        "no graph optimisation": lambda: made(partial(level, value=LEVELS.ORT_DISABLE_ALL)),
        "basic graph optimisation": lambda: made(partial(level, value=LEVELS.ORT_ENABLE_BASIC)),
        "extended graph optimisation": lambda: made(partial(level, value=LEVELS.ORT_ENABLE_EXTENDED)),
        "no memory arena": lambda: made(no_arena),
        "no memory pattern": lambda: made(no_pattern),
        "denormals as zero": lambda: made(denormals),
        "graph optimised offline": saved,
    }


def measure(
    images: Sequence[np.ndarray], rounds: int, names: Sequence[str], openvino: bool, venvs: Path | None
) -> dict[str, tuple[dict[str, Run], dict[str, dict[str, float]]]]:
    """Return segmenter -> (runs, closeness of each form's masks to the reference's)."""
    batch, found = np.stack(images), {}
    for name in names:
        path = resolve(name)
        with tempfile.TemporaryDirectory() as folder:
            plain = Segment(backend=name, runtime="onnxruntime")
            forms = {REFERENCE: OnnxSegmenter(path, plain, "cpu", 1)}
            forms["ncnn: 1 thread"] = OnnxSegmenter(path, Segment(backend=name, runtime="ncnn"), "cpu", 1)
            forms["ncnn: 2 threads"] = OnnxSegmenter(path, Segment(backend=name, runtime="ncnn"), "cpu", 2)
            for form, make in sessions(path, Path(folder)).items():
                forms[form] = OnnxSegmenter(path, plain, "cpu", 1)
                network = OnnxruntimeNetwork(path, "cpu", 1)
                network.session = make()
                forms[form].network = network
            runs = by_turns({form: partial(model, batch) for form, model in forms.items()}, len(batch), rounds)
            if openvino:
                for hint in ("LATENCY", "THROUGHPUT"):
                    segmenter = forms[REFERENCE]
                    runs[f"OpenVINO, {hint.lower()}, network only"] = on_openvino(
                        segmenter, path, batch, hint, rounds, Path(folder), venvs
                    )
        expected = runs[REFERENCE].result
        found[name] = runs, {form: closeness(run.result, expected) for form, run in runs.items()}
    return found


def closeness(masks: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    pairs = list(zip(masks, expected, strict=True))
    difference = np.abs(masks.astype(int) - expected).mean()
    return {"least IoU": min(iou(*pair) for pair in pairs), "mean difference": float(difference)}


def on_openvino(
    segmenter: OnnxSegmenter, model: Path, batch: np.ndarray, hint: str, rounds: int, folder: Path, venvs: Path | None
) -> Run:
    """Run a segmenter's prepared images through OpenVINO, one thread, float32; masks made of them as usual."""
    prepared, out = folder / "inputs.npz", folder / f"{hint}.npz"
    np.savez(prepared, x=np.concatenate([segmenter._prepare(image) for image in batch]))
    job = {"model": str(model), "inputs": str(prepared), "out": str(out), "hint": hint, "threads": 1, "rounds": rounds}
    script = Path(__file__).with_name("on_openvino.py")
    subprocess.run([str(venv("openvino", OPENVINO, venvs)), str(script), json.dumps(job)], check=True)
    with np.load(out) as made:
        masks = np.stack([to_mask(saliency[0], batch.shape[1:3]) for saliency in made["y"]])
        return Run(float(made["cpu"]), float(made["wall"]), masks)
