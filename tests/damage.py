"""Damage to the output folder of a finished run, for tests: change a file, and the manifest with it or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2i_builder.output.ledger import read_ledger, to_row, write_ledger
from l2i_builder.output.manifest import pretty
from l2i_builder.output.shards import read_members, wids_index, write_tar
from l2i_builder.output.verify import Finding, verify


def findings(out: Path | str, deep: bool = True) -> list[Finding]:
    return verify(str(out), deep)


def about(found: list[Finding]) -> dict[str, str]:
    """file -> all that is wrong with it."""
    result: dict[str, str] = {}
    for finding in found:
        assert finding.advice.endswith(".")
        assert finding.what
        result[finding.file] = result.get(finding.file, "") + finding.what + "\n"
    return result


def change_manifest(out: Path, change: Callable[[dict[str, Any]], Any], number: int = 1) -> None:
    path = out / f"manifests/{number:05d}.json"
    data = json.loads(path.read_bytes())
    change(data)
    path.write_bytes(pretty(data))


def reseal(out: Path, number: int = 1) -> None:
    """Make the manifest agree with the files again, so that only deeper checks can find the damage."""

    def seal(data: dict[str, Any]) -> None:
        for name in data["files"]:
            content = (out / name).read_bytes()
            data["files"][name]["bytes"] = len(content)
            data["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
            if "md5" in data["files"][name]:
                data["files"][name]["md5"] = hashlib.md5(content).hexdigest()

    change_manifest(out, seal, number)
    (out / "index.json").write_bytes(wids_index(str(out)))


def change_ledger(out: Path, change: Callable[[list[dict[str, Any]]], Any], number: int = 1, layers: int = 2) -> None:
    path = out / f"ledger/{number:05d}.parquet"
    lines = read_ledger(str(path)).to_pylist()
    change(lines)
    path.write_bytes(write_ledger([to_row(line) for line in lines], {}, layers))
    reseal(out, number)


def change_tar(out: Path, change: Callable[[list[tuple[str, dict[str, bytes]]]], Any], folder: str = "shards") -> None:
    path = str(out / folder / "00001.tar")
    samples = list(read_members(path))
    change(samples)
    write_tar(samples, path)
    reseal(out)
