"""Which metadata column holds what: aliases of the LAION family, matched whatever their case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from l2i_builder.errors import MetadataError

REQUIRED = ("url", "caption")

# Row field -> column names, best first. Sources: LAION-5B, LAION-Aesthetics v1 and v2, Re-LAION, LAION-400M,
# LAION-COCO (top_caption), COYO (clip_similarity_*, *_score, nsfw_score_opennsfw2), img2dataset (original_*,
# sha256: of the body as fetched, before it was resized).
ALIASES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "img_url"),
    "caption": ("top_caption", "caption", "text", "alt_text"),
    "width": ("original_width", "width", "image_width"),
    "height": ("original_height", "height", "image_height"),
    "aesthetic": ("aesthetic", "aesthetic_score", "aesthetic_score_laion_v2", "aesthetics_score"),
    "similarity": ("similarity", "clip_similarity_vitl14", "clip_similarity_vitb32"),
    "punsafe": ("punsafe", "nsfw_score_opennsfw2", "nsfw"),
    "pwatermark": ("pwatermark", "watermark_score"),
    "language": ("language", "lang"),
    "expected_sha256": ("sha256",),
}

# LAION-400M has no probability but a verdict of three values; it stands for punsafe like this. With the default
# max_punsafe of 0.45 only UNLIKELY passes. Any other value is unknown, and so rejected unless told otherwise.
NSFW_LABELS = {"UNLIKELY": 0.0, "UNSURE": 0.5, "NSFW": 1.0}

_TEXT = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    pa.types.is_null,
)


def find_columns(names: Sequence[str], chosen: Mapping[str, str], path: str) -> dict[str, str]:
    """Return Row field -> column name, ``chosen`` (``ingest.columns``) first, then ALIASES, case ignored.

    Raises MetadataError where the URL or caption column is not found, listing what was; or where ``chosen``
    names an unknown field or an absent column.
    """
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    columns: dict[str, str] = {}
    for field, wanted in chosen.items():
        if field not in ALIASES:
            raise MetadataError(f"ingest.columns names {field!r}, which is no field. Fields: {', '.join(ALIASES)}.")
        column = wanted if wanted in names else by_lower.get(wanted.lower())
        if column is None:
            raise MetadataError(f"{path} has no column {wanted!r} (ingest.columns.{field}). {_listed(names)}")
        columns[field] = column
    for field, aliases in ALIASES.items():
        if field not in columns:
            found = next((by_lower[alias] for alias in aliases if alias in by_lower), None)
            if found is not None:
                columns[field] = found
    missing = [field for field in REQUIRED if field not in columns]
    if missing:
        example = ", ".join(f"{field}: <column>" for field in missing)
        raise MetadataError(
            f"{path} has no {' and no '.join(missing)} column. {_listed(names)} "
            f"Name it with ingest.columns, e.g. {{{example}}}."
        )
    return {field: columns[field] for field in ALIASES if field in columns}


def check_text(schema: pa.Schema, columns: Mapping[str, str], path: str) -> None:
    """Raise MetadataError unless the URL and caption columns hold text (or bytes, or nothing but nulls)."""
    for field in REQUIRED:
        kind = schema.field(schema.get_all_field_indices(columns[field])[0]).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(test(plain) for test in _TEXT):
            raise MetadataError(
                f"{path}: the {field} column {columns[field]!r} holds {kind}, not text. "
                f"Name another with ingest.columns, e.g. {{{field}: <column>}}."
            )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:40]) or "none"
    return f"Columns found: {shown}{' ...' if len(names) > 40 else ''}."
