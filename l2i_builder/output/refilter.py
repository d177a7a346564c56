"""New thresholds or heads for a finished run, from its ledger and stored features: no models, no GPU.

A new version of the dataset is written beside the old one, which stays as it is. What the new rules would keep but
the old run never inpainted or stored is ``undecided``: listed in ``undecided.parquet``, and decided by a build
with the new configuration into the new folder with ``--retry-failed``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from l2i_builder import __version__, storage
from l2i_builder.config import Config, Judges, Section
from l2i_builder.configfile import load
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.ingest.growing import choice_name
from l2i_builder.ingest.planning import InputPlan, InputShard
from l2i_builder.judge.judges import Head, feature_kind, load_head
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.features import FOLDER as FEATURES
from l2i_builder.output.features import TASKS, read_features
from l2i_builder.output.manifest import PENDING, RUN_FILE, RunManifest, claim, finished, read_manifest, shard_name
from l2i_builder.output.rewrite import spread, stored_shard, stored_stats
from l2i_builder.output.rules import REASONS, Rule, head_digests, rule_of
from l2i_builder.output.shards import amend_info, wids_index
from l2i_builder.output.tombstones import Takedowns, read_takedowns, write_takedowns
from l2i_builder.output.undecided import NOT_INPAINTED, NOT_STORED, write_undecided
from l2i_builder.sample import UNKNOWN, Batch, Reason, Row, Verdict

KEYS = tuple(f"judge.{task}.{key}" for task in TASKS for key in ("threshold", "head"))
# What the judges decided; every other row was settled before them or in spite of them.
_JUDGED = {"", Reason.UNDECIDED.value, *(reason.value for reason in REASONS.values())}

Progress = Callable[[int, int], None]
Rules = Mapping[str, tuple[Rule, Head | None]]  # task -> what is asked for, and the head that scores anew


@dataclass(frozen=True)
class Refiltered:
    """What came of it. undecided: rows listed in ``undecided.parquet``; skipped: shards an earlier call finished."""

    to: str
    shards: int
    skipped: int
    undecided: int


class _Changes(Section):
    judge: Judges = Judges()


def refilter(
    out: str, to: str, overrides: Sequence[str] = (), progress: Progress | None = None, workers: int = 4
) -> Refiltered:
    """Write the finished shards of ``out`` anew into ``to``, under other thresholds or heads.

    overrides: ``judge.<mask|inpainting>.<threshold|head>=value``. progress: called with shards done and in all.
    workers: shards at once. Shards that ``to`` has already are skipped: after an interruption call it again.

    Raises ConfigError for other keys, for a head of another feature family or backbone, and where ``to`` holds
    another run; WeightsError for a head that does not load; OutputError where ``out`` is damaged.
    """
    if to.rstrip("/") == out.rstrip("/"):
        raise ConfigError("refilter writes a new version beside the old one: give --to another folder.")
    run = RunManifest.from_json(storage.read_bytes(storage.join(out, RUN_FILE)), storage.join(out, RUN_FILE))
    plan_json = storage.read_bytes(storage.join(out, "input.json"))
    plan = InputPlan.from_json(plan_json)
    if finished(storage.join(out, PENDING)):
        raise OutputError(f"{out} has shards under {PENDING}/, left by an interruption. Run that command again first.")
    changed = _changed(run, _changes(overrides))
    rules = {task: _rule(task, run, changed) for task in TASKS}
    _check_heads(out, run, rules)
    new = claim(to, replace(changed, derived_from=run.digest, version=__version__))
    for number in range(1, len(plan.growths) + 1):
        name = choice_name(number)
        storage.write_bytes(storage.join(to, name), storage.read_bytes(storage.join(out, name)))
    storage.write_bytes(storage.join(to, "input.json"), plan_json)
    _hand_on_takedowns(out, to)
    config = Config.model_validate({**new.config, "out": to})
    here, there = finished(out), finished(to)
    todo = [shard for shard in plan.shards if shard.number in here and shard.number not in there]

    def work(shard: InputShard) -> None:
        with stored_shard(out, shard.number) as batch:
            judge(batch, rules, out)
            commit_shard(to, shard, config, [batch], stored_stats(out, shard.number), new.digest)

    spread(work, todo, workers, progress)
    storage.write_bytes(storage.join(to, "index.json"), wids_index(to))
    return Refiltered(to, len(todo), len(here & there), write_undecided(to))


def _hand_on_takedowns(out: str, to: str) -> None:
    """What was taken down from the old version stays out of the new one."""
    old, new = read_takedowns(out), read_takedowns(to)
    if old.entries - new.entries:
        write_takedowns(to, Takedowns(old.entries | new.entries))


def judge(batch: Batch, rules: Rules, name: str = "the run") -> None:
    """Score and decide the rows of a stored shard anew, and amend the JSON of its samples."""
    before = {id(row): _facts(row) for row in batch.rows}
    for task, (_, head) in rules.items():
        if head is not None:
            _rescore(batch, task, head, name)
    for row in batch.rows:
        if row.reason in _JUDGED:
            row.verdict, row.reason, row.stage, row.detail = Verdict.KEPT.value, "", "", ""
            _decide(row, [rule for rule, _ in rules.values()], row.key in batch.triplets)
    for row in batch.rows:
        sample = batch.triplets.get(row.key)
        if sample is not None and _facts(row) != before[id(row)] and row.reason in _JUDGED:
            batch.triplets[row.key] = sample.replace("json", amend_info(sample["json"], row))  # type: ignore[attr-defined]


def _decide(row: Row, rules: Sequence[Rule], stored: bool) -> None:
    """Refuse a row as the stages would have, or say that it cannot be told."""
    for rule in rules:
        if rule.task == "inpainting" and rule.enabled and row.inpainting_score == UNKNOWN:
            row.refuse(Reason.UNDECIDED, "inpaint", NOT_INPAINTED)
        elif rule.refuses(row):
            row.refuse(REASONS[rule.task], f"judge_{rule.task}", f"score under {rule.threshold:.3f}")
        if row.reason:
            return
    if not stored:
        row.refuse(Reason.UNDECIDED, "encode", NOT_STORED)


def _rescore(batch: Batch, task: str, head: Head, name: str) -> None:
    """Score with another head every row that the judge has scored."""
    vectors = batch.features.get(task, {})
    scored = [row for row in batch.rows if getattr(row, f"{task}_score") != UNKNOWN]
    if any(row.key not in vectors for row in scored if row.reason in _JUDGED):
        raise _no_features(name, task)
    if task not in batch.feature_kinds:
        return
    _check_kind(batch.feature_kinds[task], head)
    for row in scored:
        if row.key in vectors:
            setattr(row, f"{task}_score", float(head.predict(vectors[row.key][None])[0]))
            setattr(row, f"{task}_head", head.card["name"])
    batch.feature_kinds[task] = feature_kind(head)


def _check_heads(out: str, run: RunManifest, rules: Rules) -> None:
    """Raise ConfigError, before anything is written, for heads that cannot score what is stored."""
    heads = {task: head for task, (_, head) in rules.items() if head is not None}
    if heads and not run.config.get("shards", {}).get("features"):
        raise _no_features(out, next(iter(heads)))
    for number in sorted(finished(out)) if heads else ():
        name = f"{FEATURES}/{shard_name(number)}.parquet"
        if name in read_manifest(out, number).files:
            kinds = read_features(storage.join(out, name)).kinds
            for task, head in heads.items():
                if task in kinds:
                    _check_kind(kinds[task], head)
            return


def _check_kind(kind: Mapping[str, Any], head: Head) -> None:
    wanted = feature_kind(head)
    if any(kind.get(key) != wanted[key] for key in ("features", "dim", "backbone_sha256")):
        raise ConfigError(
            f"head {wanted['head']} wants the features {wanted['features']} of {wanted['backbone']} "
            f"{wanted['backbone_sha256'][:12]}, stored are {kind.get('features')} of {kind.get('backbone')} "
            f"{str(kind.get('backbone_sha256'))[:12]}: its scores would mean nothing. Give a head trained on these, "
            "or build again with it."
        )


def _no_features(name: str, task: str) -> ConfigError:
    return ConfigError(
        f"{name} was built without stored features (shards.features), so judge.{task}.head cannot change: "
        "only thresholds can. Build it again with shards.features=true for another head."
    )


def _facts(row: Row) -> tuple[Any, ...]:
    return (row.verdict, row.reason, row.mask_score, row.mask_head, row.inpainting_score, row.inpainting_head)


def _changes(overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return task -> changed keys of its judge."""
    for override in overrides:
        if override.partition("=")[0].strip() not in KEYS:
            raise ConfigError(f"refilter changes only {', '.join(KEYS)}; got {override!r}. Build anew for the rest.")
    judges = load(_Changes, None, overrides).judge
    sections = {task: getattr(judges, task) for task in TASKS}
    return {task: {key: getattr(part, key) for key in part.model_fields_set} for task, part in sections.items()}


def _changed(run: RunManifest, changes: Mapping[str, Mapping[str, Any]]) -> RunManifest:
    """Return the run as a build with the changed keys would have claimed it."""
    config, weights = copy.deepcopy(run.config), dict(run.weights)
    for task, keys in changes.items():
        judge = config["judge"][task]
        if keys and not judge["enabled"]:
            raise ConfigError(f"the run's judge.{task} was switched off, so there is nothing to decide anew.")
        judge.update(keys)
        if "head" in keys:
            head = load_head(keys["head"], task)
            weights = {name: digest for name, digest in weights.items() if not name.startswith(f"judge {task}: ")}
            weights[f"judge {task}: {head.card['name']}"] = head.digest
            weights[f"judge {task}: {head.card['backbone']['name']}"] = head.card["backbone"]["sha256"]
    return replace(run, config=config, weights=dict(sorted(weights.items())))


def _rule(task: str, run: RunManifest, changed: RunManifest) -> tuple[Rule, Head | None]:
    """Return what a judge now asks for, and the head to score with, None where the scores in the ledger stand."""
    rule = rule_of(changed, task)
    if rule.enabled and rule.threshold is None:
        raise ConfigError(
            f"the threshold of judge.{task} is its head's own, and this machine has not the head that the run used: "
            f"give --set judge.{task}.threshold=..., or --set judge.{task}.head=... to score anew."
        )
    return rule, rule.head if head_digests(run, task) != head_digests(changed, task) else None
