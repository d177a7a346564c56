"""``l2i publish``: a run's samples as a folder that others can pick up.

First ``l2i.json`` says what is being published, then come the shards, each with its sidecar, then indexes, card and
Croissant metadata, and ``SHA256SUMS`` last: a folder that has it is complete. Cut off at any moment, the same call
goes on, and the folder ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from l2i_builder import __version__, storage
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.manifest import canonical, pretty
from l2i_builder.output.tombstones import FILE as TAKEDOWNS
from l2i_builder.output.tombstones import read_takedowns
from l2i_builder.output.verify import output_digest
from l2i_builder.publish.card import About, write_card
from l2i_builder.publish.check import check_source
from l2i_builder.publish.copying import FORMAT, Copier, Done
from l2i_builder.publish.croissant import PICTURES, croissant
from l2i_builder.publish.facts import collect_facts, read_statistics
from l2i_builder.publish.layout import PUBLISHED, Layout, Selector, plan
from l2i_builder.publish.pictures import contact_sheets
from l2i_builder.publish.statistics import statistics_section
from l2i_builder.publish.target import check_target
from l2i_builder.report.run import Run, open_run
from l2i_builder.splits import read_splits

FACTS, CARD, CROISSANT, SUMS = "l2i.json", "README.md", "croissant.json", "SHA256SUMS"
MB = 10**6
SHARD_BYTES = 1000 * MB
_TEMPORARY = re.compile(r"\..*\.tmp")

Progress = Callable[[int, int, int], None]  # bytes copied, shards done, shards in all


@dataclass(frozen=True)
class Options:
    """shard_bytes: of a published shard, about. workers: shards at once. pictures: contact sheets in the card.
    unfinished: publish what there is of a run that is not finished. replace: another version takes the place of the
    one in the folder."""

    about: About = field(default_factory=About)
    shard_bytes: int = SHARD_BYTES
    workers: int = 4
    pictures: bool = True
    unfinished: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Published:
    """What came of it. samples: split -> samples; copied: shards made by this call; left_out: kept samples that a
    takedown still to be carried out names; withheld: those that splits keep back."""

    to: str
    samples: dict[str, int]
    shards: int
    copied: int
    bytes: int
    left_out: int
    withheld: int


def publish(
    out: str, to: str, options: Options | None = None, progress: Progress = lambda size, done, total: None
) -> Published:
    """Publish the kept samples of a run into ``to``, a folder or URL that holds nothing else.

    Raises OutputError where the run is unfinished or damaged, or ``to`` holds other files; ConfigError where it holds
    another version and ``replace`` is not set.
    """
    options = options or Options()
    if to.rstrip("/") == out.rstrip("/"):
        raise ConfigError("publish writes a folder of its own: give --to another one.")
    check_target(to)
    run = open_run(out)
    check_source(run, options.unfinished)
    statistics = statistics_section(run, read_statistics(out))  # before minutes of copying: it may be another run's
    splits = read_splits(out)
    selector = Selector(run, splits, read_takedowns(out))
    layout = plan(selector, options.shard_bytes)
    identity = {
        "format": FORMAT,
        "source": output_digest(out),
        "splits": splits.digest if splits else "",
        "shards": [[shard.name, shard.samples] for shard in layout.shards],
    }
    _claim(to, identity, layout, options.replace)
    done = _copy(Copier(selector, to), layout, options, progress)
    _finish(selector, to, layout, done, identity, options, statistics)
    size = sum(entry["bytes"] for one in done for name, entry in one.files.items() if name.endswith(".tar"))
    copied = sum(one.copied for one in done)
    return Published(to, layout.samples, len(done), copied, size, layout.left_out, layout.withheld)


def _claim(to: str, identity: Mapping[str, Any], layout: Layout, replace_other: bool) -> None:
    """Bind the folder to what is being published; take away what says that it is complete."""
    digest = hashlib.sha256(canonical(dict(identity))).hexdigest()
    there = read_release(to)
    if not there and (names := _present(to)):
        raise OutputError(
            f"{to} holds {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} but no {FACTS}: it is no published "
            "folder. Give an empty or new one."
        )
    if there and there.get("digest") != digest and not replace_other:
        raise ConfigError(
            f"{to} holds another version ({str(there.get('digest'))[:12]}, this one is {digest[:12]}): the run, its "
            "takedowns or splits, or the size of shards have changed. Give another folder, or --replace to publish "
            "this version in its place."
        )
    if there and there.get("complete"):
        for name in (SUMS, CARD, CROISSANT):
            storage.delete(storage.join(to, name))
    storage.write_bytes(storage.join(to, FACTS), pretty({"complete": False, "digest": digest, **identity}))
    wanted = {name for shard in layout.shards for name in (shard.tar, shard.sidecar)}
    for folder in ("data", "metadata", "images"):
        for name in storage.list_names(storage.join(to, folder)):
            if _TEMPORARY.fullmatch(name) or (folder != "images" and f"{folder}/{name}" not in wanted):
                storage.delete(storage.join(to, folder, name))
    for name in storage.list_names(to):
        if _TEMPORARY.fullmatch(name):
            storage.delete(storage.join(to, name))


def read_release(to: str) -> dict[str, Any]:
    """Return what ``l2i.json`` of a published folder says, {} where there is none. Raises OutputError where damaged."""
    url = storage.join(to, FACTS)
    if not storage.exists(url):
        return {}
    try:
        found = json.loads(storage.read_bytes(url))
        if not isinstance(found["digest"], str):
            raise TypeError("its digest is no text")
        return found
    except (ValueError, KeyError, TypeError) as problem:
        raise OutputError(f"{url} is damaged: {problem}. Delete it and the folder, and publish again.") from problem


def _present(to: str) -> list[str]:
    """Return what a folder holds besides the files every repository may begin with."""
    return [name for name in storage.list_names(to) if name not in (".gitattributes", CARD, "LICENSE")] + [
        f"data/{name}" for name in storage.list_names(storage.join(to, "data"))
    ]


def _copy(copier: Copier, layout: Layout, options: Options, progress: Progress) -> list[Done]:
    """Make all shards, some at once; an error or interrupt begins no further ones."""
    done: list[Done] = []
    size = 0
    progress(0, 0, len(layout.shards))
    pool = ThreadPoolExecutor(max(1, options.workers), thread_name_prefix="publish")
    try:
        for one in pool.map(copier, layout.shards):
            done.append(one)
            size += sum(entry["bytes"] for entry in one.files.values())
            progress(size, len(done), len(layout.shards))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return done


def _finish(
    selector: Selector,
    to: str,
    layout: Layout,
    done: Sequence[Done],
    identity: Mapping[str, Any],
    options: Options,
    statistics: str,
) -> None:
    """Write what describes the shards, the sums last."""
    run, about = selector.run, options.about
    about = replace(about, name=about.name or to.rstrip("/").rpartition("/")[2])
    entries: dict[str, dict[str, Any]] = {name: entry for one in done for name, entry in one.files.items()}
    shards = dict(entries)

    def put(name: str, data: bytes) -> None:
        storage.write_bytes(storage.join(to, name), data)
        entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    splits = _splits(layout, done)
    facts = collect_facts(run)
    for split in splits:
        put(f"index-{split['name']}.json", _index(about.name, split["name"], done))
    if len(selector.takedowns):
        put(TAKEDOWNS, selector.takedowns.to_jsonl())
    sheets = contact_sheets(selector) if options.pictures else []
    for name in set(storage.list_names(storage.join(to, "images"))) - {
        sheet.name.partition("/")[2] for sheet in sheets
    }:
        storage.delete(storage.join(to, "images", name))
    for sheet in sheets:
        put(sheet.name, sheet.data)
    put(CROISSANT, croissant(_described(run, about, layout), shards, _pictures(done)))
    card = write_card(run, about, facts, statistics, splits, layout.withheld, sheets, _command_options(options))
    put(CARD, card)
    release = {
        "complete": True,
        "digest": hashlib.sha256(canonical(dict(identity))).hexdigest(),
        **identity,
        "name": about.name,
        "splits": splits,
        "run": {
            "digest": run.digest,
            "version": run.version,
            "config": run.config,
            "weights": run.weights,
            "input": run.input_digest,
        },
        "publisher_version": __version__,
        "facts": {key: value for key, value in facts.items() if key != "filters"},
    }
    put(FACTS, pretty(release))
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in sorted(entries.items()))
    storage.write_bytes(storage.join(to, SUMS), lines.encode())


def _splits(layout: Layout, done: Sequence[Done]) -> list[dict[str, Any]]:
    lines = []
    for name in PUBLISHED:
        mine = [one for one in done if one.shard.split == name]
        if mine:
            size = sum(one.files[one.shard.tar]["bytes"] for one in mine)
            lines.append({"name": name, "samples": layout.samples[name], "shards": len(mine), "bytes": size})
    return lines


def _index(name: str, split: str, done: Sequence[Done]) -> bytes:
    """Return the index of a split as wids reads it."""
    shards = [
        {
            "url": one.shard.tar,
            "md5sum": one.files[one.shard.tar]["md5"],
            "nsamples": one.shard.samples,
            "filesize": one.files[one.shard.tar]["bytes"],
        }
        for one in done
        if one.shard.split == split
    ]
    return pretty(
        {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": f"{name} {split}", "shardlist": shards}
    )


def _described(run: Run, about: About, layout: Layout) -> dict[str, Any]:
    counts = ", ".join(f"{split} {samples:,}" for split, samples in layout.samples.items())
    return {
        "name": about.name,
        "description": "Text-paired layered images: photograph, mask of its main object, foreground, inpainted "
        f"background, caption. Samples: {counts}.",
        "license": about.license or "unspecified",
        "version": f"1.0.0+{run.digest[:8]}",
        "url": about.url or "https://arxiv.org/abs/2307.09781",
        "keywords": ["layered images", "text-to-image", "matting", "inpainting"],
        "cite_as": about.citation
        or "Text2Layer: Layered Image Generation using Latent Diffusion Model. arXiv 2307.09781",
        "date": about.date,
    }


def _pictures(done: Sequence[Done]) -> list[str]:
    """Return the suffixes of the members that are pictures: the usual ones first, then what else there is."""
    found = {suffix for one in done for suffix in one.members}
    return [suffix for suffix in PICTURES if suffix in found] + sorted(found - set(PICTURES))


def _command_options(options: Options) -> str:
    return f" --shard-mb {options.shard_bytes // MB}" if options.shard_bytes != SHARD_BYTES else ""
