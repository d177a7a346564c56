"""The notebook of layers runs from top to bottom on shards, and leaves its pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from finished_toy import toy_run
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "layers.ipynb"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """The cells after a run over toy shards."""
    import nbformat
    from nbclient import NotebookClient

    toy_run(tmp_path, tmp_path / "out")
    monkeypatch.setenv("L2I_RUN", str(tmp_path / "out"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return notebook.cells


def pictures(cells: list) -> list[np.ndarray]:
    data = [
        output.data["image/png"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "data" in output
        if "image/png" in output.data
    ]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in data]


def test_it_runs_and_shows_layers_and_a_moved_foreground(cells: list) -> None:
    shown = pictures(cells)
    assert len(shown) == 4
    layers, _, exchanged, moved = shown
    assert layers.shape[1] > 3.9 * layers.shape[0]  # four tiles in a row
    for picture in (exchanged, moved):
        first, second = picture[:, :150].astype(int), picture[:, 156:306].astype(int)
        assert np.abs(first - second).mean() > 1  # another background, another place


def test_what_is_kept_of_its_outputs_is_small_and_names_no_folder() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 250_000
    assert "/home/" not in text
    assert "/tmp/" not in text
    assert text.count("image/png") == 4
