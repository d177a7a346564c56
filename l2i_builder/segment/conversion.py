"""ONNX graphs as ncnn's: made once on each machine by pnnx, compared with onnxruntime, kept beside the weights."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from l2i_builder.errors import WeightsError
from l2i_builder.segment.networks import GRAPH, VALUES, NcnnNetwork, Network, OnnxruntimeNetwork
from l2i_builder.weights.registry import cache_folder, file_sha256, locked

_DIGESTS = "sha256.json"
_SECONDS = 600.0  # pnnx takes ten for U2-Net
_TOLERANCE = 5e-3  # of saliency in 0..1, on noise; U2-Net and U2-Net-p stay below 2e-4


class ConversionError(WeightsError):
    """A graph that ncnn cannot run, or not to the same result."""


def converted(path: Path, digest: str, side: int) -> Path:
    """Return the folder with ``GRAPH`` and ``VALUES`` of an ONNX file, for images [1, 3, side, side] of float32.

    ``digest``: SHA-256 of the file. Safe when several processes ask at once: one converts, the others wait. What is
    kept is checked against the digests noted when it was made, and made again where it differs. Raises
    ConversionError, ConfigError for a side that the graph lacks, WeightsError where it is no ONNX graph or the cache
    cannot be written.
    """
    version = importlib.metadata.version("pnnx")
    folder = cache_folder() / f"ncnn-{digest[:16]}-{side}-pnnx-{version}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock")):
            if not _whole(folder):
                _convert(path, side, folder)
    except OSError as error:
        raise WeightsError(f"the weights cache {folder.parent} cannot be written: {error}; set L2I_CACHE") from error
    return folder


def _whole(folder: Path) -> bool:
    try:
        noted = json.loads((folder / _DIGESTS).read_bytes())
        return noted == {name: file_sha256(folder / name) for name in (GRAPH, VALUES)}
    except (OSError, ValueError):
        return False


def _convert(path: Path, side: int, folder: Path) -> None:
    """Convert in a temporary folder beside ``folder``, compare, note digests, rename. Leaves nothing on failure."""
    reference = OnnxruntimeNetwork(path, "cpu", 1)
    reference.check(side)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        _run_pnnx(path, side, Path(scratch))
        for name in (GRAPH, VALUES):
            if not (Path(scratch) / name).is_file():
                raise ConversionError(f"{path} cannot be converted for ncnn")
            (Path(scratch) / name).rename(made / name)
        if not (apart := _apart(reference, NcnnNetwork(made, 1), side)) <= _TOLERANCE:
            raise ConversionError(f"{path} answers otherwise in ncnn: {apart:.2g} apart in saliency")
        (made / _DIGESTS).write_text(json.dumps({name: file_sha256(made / name) for name in (GRAPH, VALUES)}))
        if folder.exists():  # damaged
            folder.rename(Path(scratch) / "damaged")
        made.rename(folder)


def _run_pnnx(path: Path, side: int, scratch: Path) -> None:
    # The package's own module imports torch to convert torch's models; only its program is wanted.
    spec = find_spec("pnnx")
    assert spec is not None
    assert spec.origin is not None
    model = scratch / "model.onnx"
    model.symlink_to(path.resolve())
    command = [str(Path(spec.origin).with_name("pnnx")), str(model), f"inputshape=[1,3,{side},{side}]", "fp16=0"]
    try:
        subprocess.run(command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ConversionError(f"{path} cannot be converted for ncnn: pnnx took over {_SECONDS:.0f} s") from error


def _apart(reference: Network, other: Network, side: int) -> float:
    """Return the largest difference of two networks' answers to smooth noise."""
    noise = np.random.default_rng(0).normal(0, 8, (3, side, side)).astype(np.float32)
    image = np.stack([cv2.GaussianBlur(channel, (0, 0), side / 40) for channel in noise])[None]
    expected, found = reference(image), other(image)
    return float(np.abs(expected - found).max()) if expected.shape == found.shape else float("inf")
