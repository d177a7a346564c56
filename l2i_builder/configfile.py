"""Reading a configuration: one YAML file, dotted overrides, and errors that name the nearest key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from l2i_builder.config import Config
from l2i_builder.errors import ConfigError

Validated = TypeVar("Validated", bound=BaseModel)
_BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """Booleans as in YAML 1.2, true and false alone: in 1.1 `no`, which is a precision and a language, is false too."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_config(path: str | Path | None = None, overrides: Iterable[str] = (), **values: Any) -> Config:
    """Return the validated configuration.

    path: YAML file, None for the defaults; overrides: ``section.key=value`` strings, values in YAML spelling;
    values: top-level keys that win over both, None ignored (``metadata``, ``out``).
    Raises ConfigError for an unreadable file, an unknown key (with the nearest one) or a value out of range.
    """
    return load(Config, path, overrides, **values)


def load(
    model: type[Validated], path: str | Path | None = None, overrides: Iterable[str] = (), **values: Any
) -> Validated:
    """Return a configuration of any kind; see ``load_config``."""
    tree = _read_yaml(Path(path)) if path else {}
    for override in overrides:
        _apply(tree, override)
    tree.update({key: value for key, value in values.items() if value is not None})
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, model)) from None


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the configuration, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def changed_keys(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each key that differs from its default."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from changed_keys(value, f"{prefix}{name}.")
        elif value != field.get_default(call_default_factory=True):
            yield prefix + name, value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values, like `segment: {{backend: u2net}}`.")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"An override is written section.key=value, like inpaint.backend=lama; got {override!r}.")
    *sections, name = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{section!r} in {override!r} is a value, not a section.")
    try:
        tree[name] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The value in {override!r} is not valid YAML: {error}") from None


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: no such key.{_nearest(key, model)}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message} (got {item['input']!r:.80})" if key else message)
    return "The configuration does not hold:\n  " + "\n  ".join(lines)


def _nearest(key: str, model: type[BaseModel]) -> str:
    keys = list(known_keys(model))
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong section
        last = key.rsplit(".", 1)[-1]
        names = {known.rsplit(".", 1)[-1]: known for known in reversed(keys)}
        close = [names[name] for name in difflib.get_close_matches(last, names, n=1, cutoff=0.6)]
    return f" Did you mean {close[0]}?" if close else ""
