"""What the benchmarks' smoke tests share."""

from pathlib import Path

import pytest
from PIL import Image
from toy import toy_image


@pytest.fixture
def photographs(tmp_path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(toy_image(f"photograph {number}", 128)).save(folder / f"{number}.jpg")
    return folder
