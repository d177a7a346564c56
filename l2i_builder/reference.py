"""The reference pages: every configuration key, every reason and the sizing table, written from the code itself.

``python -m l2i_builder.reference`` writes ``docs/configuration.md``, ``docs/reasons.md`` and ``docs/sizing.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from l2i_builder.config import Config
from l2i_builder.report.reasons import EXPLANATIONS
from l2i_builder.run.sizing import page
from l2i_builder.sample import Reason

DOCS = Path(__file__).parents[1] / "docs"
_MADE = "<!-- Written by `python -m l2i_builder.reference`; edit the code it describes instead. -->\n"

_CONFIGURATION = """# Configuration

One YAML file (`--config`) with dotted overrides on top (`--set fetch.per_host=4`). A key that is not listed here is
refused, with the nearest one named. Keys that say *what* is built belong to the identity of an output folder and
cannot change between two runs into it; keys that say *how* the run is carried out may. `[]` stands for each item of
a list.
"""

_REASONS = """# Reasons

Every input row ends with one line in the ledger. Its `reason` is empty when the row was kept, else one of these, and
nothing else is ever written; free text for people is in `detail`. *Failed*: the web or the machine gave out.
*Rejected*: a rule or a judge decided. *Again*: fetching the row another time may end differently
(`l2i build --retry-failed`).
"""


def configuration() -> str:
    """Return ``docs/configuration.md``."""
    schema = Config.model_json_schema()
    parts = [_MADE, _CONFIGURATION]
    for path, section, how in _sections(schema, schema, "", False):
        parts.append(f"\n## {path or 'Top level'}\n")
        if (text := _paragraph(section.get("description", ""))) and path:
            parts.append(f"\n{text}\n")
        parts.append("\n| key | default | values | says | meaning |\n|---|---|---|---|---|\n")
        for name, field in section["properties"].items():
            if not _target(schema, field):
                parts.append(_row(f"{path}.{name}" if path else name, field, how))
    return "".join(parts)


def reasons() -> str:
    """Return ``docs/reasons.md``."""
    rows = []
    for reason in Reason:
        again = "yes" if reason.transient else ""
        rows.append(f"| `{reason.value}` | {reason.verdict.value} | {again} | {EXPLANATIONS[reason]} |\n")
    return "".join([_MADE, _REASONS, "\n| reason | verdict | again | meaning |\n|---|---|---|---|\n", *rows])


def sizing() -> str:
    """Return ``docs/sizing.md``."""
    return _MADE + page()


def _sections(schema: dict, section: dict, path: str, how: bool) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield (dotted path, JSON schema, whether it says how) of every section, depth first."""
    yield path, section, how
    for name, field in section["properties"].items():
        inner, outside = f"{path}.{name}".lstrip("."), how or field.get("identity") is False
        if target := _target(schema, field):
            yield from _sections(schema, target, inner, outside)
        elif target := _target(schema, field.get("items", {})):
            yield from _sections(schema, target, f"{inner}[]", outside)


def _target(schema: dict, field: dict) -> dict[str, Any] | None:
    """The section a field stands for, None for a plain key."""
    target = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2])
    return target if target and "properties" in target else None


def _row(key: str, field: dict[str, Any], how: bool) -> str:
    default = f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else "required"
    mark = "how" if how or field.get("identity") is False else "what"
    meaning = field.get("description", "").replace("|", "\\|")
    return f"| `{key}` | {default} | {_values(field)} | {mark} | {meaning} |\n"


def _values(field: dict[str, Any]) -> str:
    """What a key takes, in words: choices, or type and range."""
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    kind = {"array": "list", "object": "mapping", "string": "text", "boolean": "true or false"}
    words = [kind.get(field["type"], field["type"])]
    for bound, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if bound in field:
            words.append(f"{sign} {field[bound]:g}")
    return ", ".join(words)


def _paragraph(text: str) -> str:
    """A docstring as Markdown: one line, code in single backticks."""
    return " ".join(text.split()).replace("``", "`")


def write(folder: Path = DOCS) -> None:
    """Write the pages into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configuration.md").write_text(configuration(), encoding="utf-8")
    (folder / "reasons.md").write_text(reasons(), encoding="utf-8")
    (folder / "sizing.md").write_text(sizing(), encoding="utf-8")


if __name__ == "__main__":
    write()
