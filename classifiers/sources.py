"""Source pictures of the bootstrap: photographs, and cut-outs with true alpha, from packages by name.

Everything drawn from one source picture falls on one side of the train/test split, decided by its name.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from l2i_builder.errors import MetadataError
from l2i_builder.sample import key_fraction
from pipelines.sample_laion import photos as sample_photos
from pipelines.sample_laion.rcc import read_rcc

STAMPS = "tuxpaint-stamps-default"
MORE_PHOTOS = ("explore_monuments.rcc", "explore_world_music.rcc", "details.rcc")  # of the same package as the sample's
# Landscapes and still lifes: package -> part of the path of its photographs. Left out, with a warning, where an
# archive does not have them.
LANDSCAPES = {"lomiri-wallpapers-16.04": "/backgrounds/", "mate-backgrounds": "/mate/nature/"}
TEST_SHARE = 0.4
MIN_PHOTO = 400  # pixels, shorter side
MAX_PHOTO = 1600  # pixels, longer side kept of large ones
MIN_CUTOUT = 120  # pixels, shorter side
# Drawings without a body: signs, letters, hands in outline. A segmenter is not asked for these.
_NOT_OBJECTS = ("/symbols/", "/clothes/t_", "/naturalforces/", "/seasonal/hanukkah/dreydl-")


@dataclass(frozen=True)
class Picture:
    """A source picture. ``pixels`` is uint8 [H, W, 3] sRGB, or [H, W, 4] with straight alpha for cut-outs."""

    name: str
    pixels: np.ndarray

    @property
    def test(self) -> bool:
        return is_test(self.name)


def is_test(name: str) -> bool:
    """Whether a source picture belongs to the test side. Mirrored twins go with their original."""
    return key_fraction(name.replace("_mirror", ""), "bootstrap") < TEST_SHARE


def decode(data: bytes) -> np.ndarray | None:
    """Return uint8 [H, W, 3 or 4] sRGB, None where the bytes are no colour picture."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3:
        return None
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def gather(folder: Path) -> tuple[list[Picture], list[Picture]]:
    """Return (photographs, cut-outs), fetched into ``folder`` where they are not there yet, in order of their names.

    Raises MetadataError when either cannot be had.
    """
    known, notes = sample_photos.gather(folder)
    photos = [(p.file, (folder / "photos" / p.file).read_bytes()) for p in known if not p.file.startswith("texture-")]
    photos += _kept(folder / "more-photos", sample_photos.DEBIAN, _resources)
    photos += _landscapes(folder / "landscapes")
    pictures = [Picture(name, pixels[..., :3]) for name, data in photos if (pixels := decode(data)) is not None]
    stamps = _kept(folder / "cutouts", STAMPS, _stamps)
    cutouts = [
        Picture(name, pixels) for name, data in stamps if (pixels := decode(data)) is not None and _has_alpha(pixels)
    ]
    if not pictures or not cutouts:
        raise MetadataError("the bootstrap needs photographs and cut-outs: " + " ".join(notes))
    return sorted(pictures, key=_name), sorted(cutouts, key=_name)


def _name(picture: Picture) -> str:
    return picture.name


def _has_alpha(pixels: np.ndarray) -> bool:
    """A cut-out large enough to paste, with something seen through and something solid."""
    if pixels.shape[2] != 4 or min(pixels.shape[:2]) < MIN_CUTOUT:
        return False
    alpha = pixels[..., 3]
    return bool((alpha < 26).mean() > 0.02 and (alpha > 229).mean() > 0.1)


def _kept(
    folder: Path, package: str, members: Callable[[Path], Iterator[tuple[str, bytes]]]
) -> list[tuple[str, bytes]]:
    """Return (name, bytes) of the wanted files of a Debian package, kept in ``folder`` for the next time."""
    done = folder / "complete"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            for file, data in members(sample_photos.apt_download(package, Path(name))):
                (folder / file).write_bytes(data)
        done.touch()
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path != done]


def _package_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, bytes) of the regular files of a Debian package."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        for entry in tar:
            if entry.isfile() and (content := tar.extractfile(entry)):
                yield entry.name, content.read()


def _resources(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the photographs of ``MORE_PHOTOS``, named after their resource file."""
    for path, data in _package_files(archive):
        resource = Path(path)
        if resource.name in MORE_PHOTOS:
            for member, content in read_rcc(data):
                pixels = decode(content) if member.endswith((".webp", ".jpg", ".jpeg")) else None
                if pixels is not None and pixels.shape[2] == 3 and min(pixels.shape[:2]) >= MIN_PHOTO:
                    yield f"{resource.stem}-{Path(member).name}", content


def _landscapes(folder: Path) -> list[tuple[str, bytes]]:
    """Return (name, bytes) of the photographs of ``LANDSCAPES``, at most ``MAX_PHOTO`` pixels wide."""
    found = []
    for package, part in LANDSCAPES.items():

        def members(archive: Path, part: str = part) -> Iterator[tuple[str, bytes]]:
            for path, data in _package_files(archive):
                if part in path and path.endswith(".jpg") and (pixels := decode(data)) is not None:
                    scale = min(1.0, MAX_PHOTO / max(pixels.shape[:2]))
                    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                    yield f"landscape-{Path(path).stem}.png", cv2.imencode(".png", small[..., ::-1])[1].tobytes()

        try:
            found += _kept(folder / package, package, members)
        except MetadataError as error:
            warnings.warn(f"{package}: its photographs are left out ({error})", stacklevel=2)
    return found


def _stamps(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the cut-outs, named by their path with dashes."""
    for path, data in _package_files(archive):
        name = path.partition("/stamps/")[2]
        if name.endswith(".png") and not any(part in f"/{name}" for part in _NOT_OBJECTS):
            yield name.replace("/", "-"), data
