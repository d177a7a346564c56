"""Manifests: what an output folder was made from (``run.json``), and that a shard is finished and what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pydantic import BaseModel

from l2i_builder import __version__, storage
from l2i_builder.config import Config, Section
from l2i_builder.errors import ConfigError, OutputError

RUN_FILE = "run.json"
FOLDER = "manifests"
PENDING = "pending"  # where a finished shard is made anew
_OPTIONAL = {"derived_from"}  # fields that run.json has only where they say something


@dataclass(frozen=True)
class RunManifest:
    """What a run is made from. Two runs may write into one folder only if these agree.

    config: ``identity`` of the configuration; weights: name -> sha256; input: digest of the input plan;
    derived_from: digest of the run that ``l2i refilter`` made this one from, "" for a build.
    """

    config: dict[str, Any]
    weights: dict[str, str]
    input: str
    version: str = __version__
    derived_from: str = ""

    @classmethod
    def of(cls, config: Config, input_digest: str, weights: Mapping[str, str]) -> RunManifest:
        """Return the manifest of a run; weights: name -> sha256."""
        return cls(identity(config), dict(weights), input_digest)

    @property
    def digest(self) -> str:
        """SHA-256 of configuration, weights, input and origin. Not of the version: a bug-fix release may go on."""
        content = {"config": self.config, "weights": self.weights, "input": self.input}
        return hashlib.sha256(canonical(content | self._origin)).hexdigest()

    @property
    def _origin(self) -> dict[str, str]:
        return {"derived_from": self.derived_from} if self.derived_from else {}

    def to_json(self) -> bytes:
        content = asdict(self) | {"digest": self.digest}
        return pretty({name: value for name, value in content.items() if value or name != "derived_from"})

    @classmethod
    def from_json(cls, data: bytes, name: str = RUN_FILE) -> RunManifest:
        """Raises OutputError where the JSON is damaged, or was edited."""
        run, raw = _load(cls, data, name)
        try:
            if raw.get("digest") != run.digest:
                raise ValueError("its digest does not match its content")
        except (ValueError, RecursionError) as problem:  # also of numbers without end, which have no digest
            raise _damaged(name, problem) from problem
        return run


@dataclass(frozen=True)
class ShardManifest:
    """Written last, so its presence says that the shard is finished, also where it keeps nothing.

    files: path inside the output folder -> {"bytes", "sha256"} (tars also "md5", which wids asks for). The stats
    file is not among them: it holds times, and manifests are the same on every run.
    """

    shard: int
    rows: int
    kept: int
    reasons: dict[str, int] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    run_digest: str = ""

    @property
    def name(self) -> str:
        return shard_name(self.shard)

    def to_json(self) -> bytes:
        return pretty(asdict(self))

    @classmethod
    def from_json(cls, data: bytes, name: str = "manifest") -> ShardManifest:
        """Raises OutputError where the JSON is damaged."""
        manifest, _ = _load(cls, data, name)
        for file, entry in manifest.files.items():
            kinds = {"bytes": int, "sha256": str} | ({"md5": str} if file.endswith(".tar") else {})
            if not isinstance(entry, dict) or any(not isinstance(entry.get(key), kinds[key]) for key in kinds):
                raise _damaged(name, ValueError(f"{file} lacks {' or '.join(kinds)}"))
        if not all(isinstance(count, int) for count in manifest.reasons.values()):
            raise _damaged(name, ValueError("a reason's count is no number"))
        return manifest


def layer_count(config: Mapping[str, Any]) -> int:
    """Return how many layers the samples of a run have at most. config: of its ``run.json``."""
    return int(config.get("layers", {}).get("count", 2))


def shard_name(number: int) -> str:
    """Return a shard's file name without extension: at least five digits."""
    return f"{number:05d}"


def manifest_url(out: str, shard: int) -> str:
    """Return where a shard's manifest is kept."""
    return storage.join(out, FOLDER, f"{shard_name(shard)}.json")


def read_manifest(out: str, shard: int) -> ShardManifest:
    """Read a shard's manifest. Raises OutputError where it is missing or damaged."""
    url = manifest_url(out, shard)
    return ShardManifest.from_json(storage.read_bytes(url), url)


def read_manifests(out: str, shards: Sequence[int]) -> Iterator[ShardManifest | OutputError]:
    """Yield the manifest of each of the shards, or what is wrong with it: for many much quicker than one by one."""
    names = [f"{shard_name(shard)}.json" for shard in shards]
    folder = storage.join(out, FOLDER)
    for name, content in zip(names, storage.read_each(folder, names), strict=True):
        try:
            if not isinstance(content, bytes):
                raise content
            yield ShardManifest.from_json(content, storage.join(folder, name))
        except OutputError as problem:
            yield problem


def whole_manifests(out: str, shards: Sequence[int]) -> Iterator[ShardManifest]:
    """Yield the manifest of each of the shards. Raises OutputError at the first that is missing or damaged."""
    for found in read_manifests(out, shards):
        if isinstance(found, OutputError):
            raise found
        yield found


def finished(out: str) -> set[int]:
    """Return the numbers of the finished shards: one listing, however many there are."""
    names = storage.list_names(storage.join(out, FOLDER), ".json")
    return {int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdecimal()}


def identity(config: BaseModel) -> dict[str, Any]:
    """Return the configuration without the keys that only say how the run is carried out, as JSON types."""
    return _identity(config)


def _identity(section: BaseModel) -> dict[str, Any]:
    plain = section.model_dump(mode="json")
    result = {}
    inert = section.inert() if isinstance(section, Section) else set()
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        if name in inert or (isinstance(extra, dict) and extra.get("identity") is False):
            continue
        value = getattr(section, name)
        result[name] = _identity(value) if isinstance(value, BaseModel) else plain[name]
    return result


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the leaves in which two nested mappings differ, as "segment.backend: u2net -> isnet"."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {_show(before, key)} -> {_show(after, key)}"
        for key in [*before, *(key for key in after if key not in before)]
        if key not in before or key not in after or before[key] != after[key]
    ]


def claim(out: str, run: RunManifest) -> RunManifest:
    """Write ``run.json``, or check that the folder's own agrees; return the folder's own.

    Raises ConfigError listing the differences.
    """
    url = storage.join(out, RUN_FILE)
    if not storage.exists(url):
        if storage.list_names(storage.join(out, FOLDER)):
            raise OutputError(f"{out} holds shards but no {RUN_FILE}. Restore the file, or use another output folder.")
        storage.write_bytes(url, run.to_json())
        return run
    old = RunManifest.from_json(storage.read_bytes(url), url)
    differences = difference(_comparable(old), _comparable(run))
    if differences:
        listed = "\n".join(f"  {line}" for line in differences)
        begin = "" if finished(out) else f" It holds no finished shard yet: delete {url} to begin it anew."
        if all(line.startswith("input digest:") for line in differences) and not begin:
            begin = " To add these metadata to what is there, build with --append."
        raise ConfigError(
            f"{out} was begun with other settings:\n{listed}\n"
            f"Use another output folder, or take these settings back (old -> new).{begin}"
        )
    return old


def canonical(value: Any) -> bytes:
    """Return JSON without choice: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def pretty(value: Any) -> bytes:
    """Return JSON for people, as deterministic as ``canonical``."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _comparable(run: RunManifest) -> dict[str, Any]:
    series = ".".join(run.version.split(".")[:2])  # a bug-fix release may go on where another began
    return {**run.config, "weights": run.weights, "input digest": run.input, "version": series}


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _show(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(absent)"
    value = values[key]
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _load(cls: Any, data: bytes, name: str) -> tuple[Any, dict[str, Any]]:
    """Build a manifest dataclass from JSON, checking names and types of its fields; also return the JSON."""
    kinds = {"int": int, "str": str}
    try:
        raw = json.loads(data)
        known = {item.name: raw[item.name] for item in fields(cls) if item.name in raw or item.name not in _OPTIONAL}
        for item in fields(cls):
            kind = kinds.get(str(item.type), dict)
            if not isinstance(known.get(item.name, kind()), kind) or isinstance(known.get(item.name), bool):
                raise TypeError(f"{item.name} is not {item.type}")
        return cls(**known), raw
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise _damaged(name, problem) from problem


def _damaged(name: str, problem: Exception) -> OutputError:
    return OutputError(
        f"{name} is damaged ({type(problem).__name__}: {problem}). Restore it, or delete it and run the build again."
    )
