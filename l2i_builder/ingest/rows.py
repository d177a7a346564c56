"""From metadata values to Rows: cleaning, and the filters that need no picture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from l2i_builder.config import Config
from l2i_builder.ingest.columns import NSFW_LABELS
from l2i_builder.sample import UNKNOWN, Reason, Row, key_fraction, sample_key

STAGE = "ingest"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RowMaker:
    """Makes the Rows of one input shard."""

    def __init__(self, shard: int, config: Config) -> None:
        self.shard, self.filter = shard, config.ingest.filter
        self.audit_rate = config.ingest.audit_rate
        self.languages = {language.casefold() for language in self.filter.languages}

    def __call__(self, batch: pa.RecordBatch, columns: Mapping[str, str], first: int) -> list[Row]:
        """Return a Row for each row of the batch; ``first``: index of its first row in the shard."""
        values = {field: _values(batch, column) for field, column in columns.items()}
        return [
            self._row({field: column[i] for field, column in values.items()}, first + i) for i in range(batch.num_rows)
        ]

    def _row(self, values: dict[str, Any], index: int) -> Row:
        url, caption = text(values["url"]), text(values["caption"])
        key = sample_key(url, caption)
        row = Row(key, url, caption, self.shard, index, audit=key_fraction(key, "audit") < self.audit_rate)
        row.width, row.height = pixels(values.get("width")), pixels(values.get("height"))
        row.aesthetic, row.similarity = number(values.get("aesthetic")), number(values.get("similarity"))
        row.punsafe = NSFW_LABELS.get(text(values.get("punsafe")).strip().upper(), probability(values.get("punsafe")))
        row.pwatermark = probability(values.get("pwatermark"))
        row.language = text(values.get("language")).strip()
        digest = text(values.get("expected_sha256")).strip().lower()
        row.expected_sha256 = digest if _SHA256.fullmatch(digest) else ""
        self._check(row)
        return row

    def _check(self, row: Row) -> None:
        """Refuse a row for the first rule it breaks. What the metadata do not know passes, except punsafe."""
        rule = self.filter
        sides = sorted(side for side in (row.width, row.height) if side != UNKNOWN)
        length = len(row.caption)
        if not row.url.strip():
            row.refuse(Reason.BAD_URL, STAGE, "no URL in the metadata")
        elif not row.caption.strip():
            row.refuse(Reason.BAD_CAPTION, STAGE, "empty caption")
        elif length > rule.max_caption_chars:
            row.refuse(Reason.BAD_CAPTION, STAGE, f"{length} characters, more than {rule.max_caption_chars}")
        elif row.punsafe == UNKNOWN and rule.unknown_punsafe == "reject":
            row.refuse(Reason.UNSAFE, STAGE, "the metadata have no punsafe value")
        elif row.punsafe > rule.max_punsafe:
            row.refuse(Reason.UNSAFE, STAGE, f"punsafe {row.punsafe:.3f} > {rule.max_punsafe}")
        elif sides and sides[0] < rule.min_size:
            row.refuse(Reason.TOO_SMALL, STAGE, f"shorter side {sides[0]} < {rule.min_size}")
        elif rule.max_aspect and len(sides) == 2 and sides[1] > rule.max_aspect * sides[0]:
            row.refuse(Reason.BAD_ASPECT, STAGE, f"{row.width}x{row.height}")
        elif rule.min_aesthetic and UNKNOWN != row.aesthetic < rule.min_aesthetic:
            row.refuse(Reason.LOW_AESTHETIC, STAGE, f"aesthetic {row.aesthetic:.3f} < {rule.min_aesthetic}")
        elif rule.min_similarity and UNKNOWN != row.similarity < rule.min_similarity:
            row.refuse(Reason.LOW_SIMILARITY, STAGE, f"similarity {row.similarity:.3f} < {rule.min_similarity}")
        elif row.pwatermark > rule.max_pwatermark:
            row.refuse(Reason.WATERMARK, STAGE, f"pwatermark {row.pwatermark:.3f} > {rule.max_pwatermark}")
        elif self.languages and row.language and row.language.casefold() not in self.languages:
            row.refuse(Reason.WRONG_LANGUAGE, STAGE, row.language[:50])


def keys_of(batch: pa.RecordBatch, columns: Mapping[str, str]) -> list[str]:
    """Return the key of each row of a batch of metadata; columns: Row field -> column, of URL and caption."""
    pairs = zip(*(_values(batch, columns[field]) for field in ("url", "caption")), strict=True)
    return [sample_key(text(url), text(caption)) for url, caption in pairs]


def text(value: Any) -> str:
    """Return well-formed text: bytes are read as UTF-8, what is none becomes U+FFFD; "" for what is no text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def number(value: Any) -> float:
    """Return a finite float, also from text such as "5.3"; UNKNOWN for all else."""
    if value is None or isinstance(value, bool):
        return float(UNKNOWN)
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return float(UNKNOWN)
    return result if math.isfinite(result) else float(UNKNOWN)


def pixels(value: Any) -> int:
    """Return a positive whole number of pixels, or UNKNOWN."""
    result = number(value)
    return int(result) if 1 <= result < 2**31 else UNKNOWN


def probability(value: Any) -> float:
    """Return a number in 0..1, or UNKNOWN."""
    result = number(value)
    return result if 0 <= result <= 1 else float(UNKNOWN)


def _values(batch: pa.RecordBatch, column: str) -> list[Any]:
    """Return a column as Python values, text as bytes (its UTF-8 may be broken); all None where it is absent."""
    places = batch.schema.get_all_field_indices(column)
    if not places:
        return [None] * batch.num_rows
    array = batch.column(places[0])
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.large_binary())
    try:
        return array.to_pylist()
    except (ValueError, OverflowError):  # e.g. dates that Python has no type for
        return [None] * batch.num_rows
