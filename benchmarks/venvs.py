"""Environments of their own for packages that clash with ours: made once, kept under the user's cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process_tree import CACHE


class VenvError(Exception):
    """Packages that cannot be installed here; says why."""


def venv(name: str, requirements: Sequence[str], folder: Path | None = None) -> Path:
    """Return the interpreter of an environment that holds the pinned ``requirements`` and what they need.

    Made with ``uv`` where it is not there; another list of requirements is another environment. Raises VenvError.
    """
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:8]
    home = (folder or CACHE) / f"{name}-{digest}"
    python = home / "bin" / "python"
    if (home / "made").exists():
        return python
    print(f"installing {', '.join(requirements)} into {home}", file=sys.stderr, flush=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for command in (
        ["venv", "--quiet", "--clear", "--python", version, str(home)],
        ["pip", "install", "--quiet", "--python", str(python), *requirements],
    ):
        done = subprocess.run([_uv(), *command], capture_output=True, text=True)
        if done.returncode:
            raise VenvError(f"{name} cannot be installed: {' '.join(done.stderr.split())[-500:]}")
    (home / "made").touch()
    return python


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"
