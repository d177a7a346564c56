"""One judgement of one sample: its fields, what they may say, and tables of them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

from l2i_builder.sample import UNKNOWN

MASK_CRITERIA = ("incomplete", "background_included", "too_small")  # paper: why a mask is bad
INPAINTING_CRITERIA = ("object_left", "artefact", "incoherent")  # paper: why an inpainting is bad
CRITERIA = MASK_CRITERIA + INPAINTING_CRITERIA
ANSWERS = ("good", "bad", "")  # "" = not judged
AUDIT = "audit"  # the queue whose labels give unbiased figures

LABELS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("queue", pa.string(), nullable=False),
        pa.field("mask", pa.string(), nullable=False),
        pa.field("inpainting", pa.string(), nullable=False),
        pa.field("criteria", pa.list_(pa.string()), nullable=False),
        pa.field("skipped", pa.bool_(), nullable=False),
        pa.field("undoes", pa.string(), nullable=False),
        pa.field("mask_score", pa.float32(), nullable=False),
        pa.field("inpainting_score", pa.float32(), nullable=False),
        pa.field("mask_head", pa.string(), nullable=False),
        pa.field("inpainting_head", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row of ``LABELS``.

    time: milliseconds since the epoch. run: digest of the run. queue: which queue showed the sample: "audit",
    "uncertain", "reason:<r>", "second" or "import". mask, inpainting: one of ``ANSWERS``. undoes: id of the
    judgement this one takes back. Scores and head versions are those of the moment, UNKNOWN (-1) where there were
    none. weight: 1 / probability with which the queue showed the sample; 0 = not known, never for unbiased figures.
    """

    key: str
    reviewer: str
    mask: str = ""
    inpainting: str = ""
    criteria: tuple[str, ...] = ()
    skipped: bool = False
    undoes: str = ""
    queue: str = "import"
    weight: float = 0.0
    run: str = ""
    shard: int = UNKNOWN
    mask_score: float = UNKNOWN
    inpainting_score: float = UNKNOWN
    mask_head: str = ""
    inpainting_head: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: int = 0


def check(judgement: Judgement) -> None:
    """Raise ValueError, with a sentence, on a judgement that says nothing or contradicts itself."""
    if not judgement.key or not judgement.reviewer or not judgement.id:
        raise ValueError("A judgement needs an id, a key and a reviewer.")
    if judgement.mask not in ANSWERS or judgement.inpainting not in ANSWERS:
        raise ValueError('mask and inpainting are "good", "bad" or "" (not judged).')
    if unknown := [name for name in judgement.criteria if name not in CRITERIA]:
        raise ValueError(f"{unknown[0]!r} is no criterion; there are {', '.join(CRITERIA)}.")
    for answer, criteria in ((judgement.mask, MASK_CRITERIA), (judgement.inpainting, INPAINTING_CRITERIA)):
        if answer != "bad" and any(name in criteria for name in judgement.criteria):
            raise ValueError("Criteria say why something is bad; here they go with something that is not.")
    says = bool(judgement.mask or judgement.inpainting)
    if says + judgement.skipped + bool(judgement.undoes) != 1:
        raise ValueError("A judgement either judges something, skips the sample, or takes another one back.")


def to_table(judgements: Iterable[Judgement]) -> pa.Table:
    """Return a ``LABELS`` table, ordered by time; equal times keep their order."""
    rows = [asdict(one) | {"criteria": list(one.criteria)} for one in sorted(judgements, key=lambda one: one.time)]
    return pa.Table.from_pylist(rows, schema=LABELS)


def from_table(table: pa.Table) -> list[Judgement]:
    """Return the rows of a table as judgements, those without time or queue as imported ones.

    ``key``, ``reviewer`` and an answer are enough: other columns may be missing. A row without an id gets one that
    follows from its content, so that importing it again adds nothing. Raises ValueError naming the row that is wrong.
    """
    names = [item.name for item in fields(Judgement) if item.name in table.column_names]
    judgements = []
    for number, raw in enumerate(table.select(names).to_pylist()):
        row = {name: value for name, value in raw.items() if value is not None}
        if "time" in row:
            row["time"] = round(row["time"].timestamp() * 1000)
        try:
            row["criteria"] = tuple(row.get("criteria", ()))
            row.setdefault("queue", "import")
            row.setdefault("id", _content_id(row))
            one = Judgement(**row)
            check(one)
        except (TypeError, AttributeError, ValueError) as problem:
            raise ValueError(f"row {number}: {problem}") from problem
        judgements.append(one)
    return judgements


def _content_id(row: dict[str, Any]) -> str:
    return hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=16).hexdigest()
