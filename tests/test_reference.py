"""The reference pages say what the code says, and the committed ones are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from l2i_builder import reference
from l2i_builder.config import Config, Group
from l2i_builder.configfile import known_keys, load_config
from l2i_builder.sample import Reason


def keys_and_rows() -> dict[str, list[str]]:
    """Key -> the other cells of its row in the configuration page."""
    rows = [line.split(" | ") for line in reference.configuration().splitlines() if line.startswith("| `")]
    return {cells[0].strip("|` "): [cell.strip("| ") for cell in cells[1:]] for cells in rows}


def plain_keys() -> set[str]:
    """Every dotted key that is not itself a section."""
    known = set(known_keys())
    return {key for key in known if not any(other.startswith(f"{key}.") for other in known)}


@pytest.mark.parametrize("page", ["configuration", "reasons", "sizing"])
def test_committed_pages_are_up_to_date(page: str) -> None:
    committed = (reference.DOCS / f"{page}.md").read_text(encoding="utf-8")

    assert committed == getattr(reference, page)(), "run: python -m l2i_builder.reference"


def test_every_key_has_a_row_with_a_meaning() -> None:
    rows = keys_and_rows()

    assert {key for key in rows if "[]" not in key} == plain_keys()
    assert {key for key in rows if "[]" in key} == {f"cluster.groups[].{name}" for name in Group.model_fields}
    assert all(cells[-1] for cells in rows.values())


def test_defaults_are_the_codes() -> None:
    rows = keys_and_rows()

    assert rows["fetch.timeout"][0] == "`30.0`"
    assert rows["image.fill"][0] == "`[255, 255, 255]`"
    overrides = [f"{key}={cells[0].strip('`')}" for key, cells in rows.items() if "[]" not in key]
    assert load_config(None, overrides) == Config()


def test_choices_and_ranges_are_spelled_out() -> None:
    rows = keys_and_rows()

    assert rows["inpaint.backend"][1] == "`patchmatch`, `lama`, `telea`"
    assert rows["shards.jpeg_quality"][1] == "integer, ≥ 1, ≤ 100"


def test_how_marks_exactly_the_keys_outside_the_identity() -> None:
    marked = {key for key, cells in keys_and_rows().items() if cells[2] == "how" and "[]" not in key}

    assert marked == set(_how(Config, "", False))
    assert {"out", "fetch.user_agent", "cluster.window"} < marked
    assert not {"seed", "image.size", "judge.mask.threshold"} & marked


def _how(model: type[BaseModel], prefix: str, inherited: bool) -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        how = inherited or (isinstance(extra, dict) and extra.get("identity") is False)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _how(field.annotation, f"{prefix}{name}.", how)
        elif how:
            keys.append(f"{prefix}{name}")
    return keys


def test_every_reason_is_explained_with_its_verdict() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (yes)? ?\| (.+) \|$", reference.reasons(), re.MULTILINE)

    assert [(name, verdict, again == "yes") for name, verdict, again, _ in rows] == [
        (reason.value, reason.verdict.value, reason.transient) for reason in Reason
    ]


def test_pages_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    reference.write(tmp_path / "docs")

    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == [
        "configuration.md",
        "reasons.md",
        "sizing.md",
    ]
