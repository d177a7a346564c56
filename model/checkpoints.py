"""Checkpoints of a training run: everything a resumed run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.manifest import difference, pretty

SETTINGS = "settings.json"


class Checkpoints:
    """A folder of ``00001000.pt``, the latest ``keep`` of them; each written whole or not at all.

    ``settings.json`` in it says what is trained: a run with other settings cannot go on from there.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, or check that the folder's own agree. Raises ConfigError listing the differences."""
        file = self.folder / SETTINGS
        if not file.is_file():
            storage.write_bytes(str(file), pretty(settings))
            return
        try:
            old = json.loads(file.read_bytes())
        except ValueError as problem:
            raise OutputError(f"{file} is damaged ({problem}); restore it, or train into another folder") from problem
        changes = difference(old, json.loads(pretty(settings)))
        if changes:
            listed = "\n".join(f"  {line}" for line in changes)
            raise ConfigError(
                f"{self.folder} was begun with other settings:\n{listed}\n"
                "Train into another folder, or take these settings back (old -> new)."
            )

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return [int(name.removesuffix(".pt")) for name in storage.list_names(str(self.folder), ".pt")]

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint; then drop those that are too many."""
        path = self._path(step)
        with storage.create(str(path)) as file:
            torch.save(dict(state), file)
        for old in self.steps()[: -self.keep]:
            storage.delete(str(self._path(old)))
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the latest checkpoint, on the CPU; None without one. Raises OutputError where it is damaged."""
        steps = self.steps()
        if not steps:
            return None
        path = self._path(steps[-1])
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as problem:  # torch and pickle raise nearly anything on damaged files
            raise OutputError(
                f"the checkpoint {path} cannot be read ({' '.join(str(problem).split())[:200]}); delete it, and "
                "training goes on from the one before"
            ) from problem

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:08d}.pt"
