"""The things that travel through the pipeline: Row, Batch, and why a row ended where it did."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Verdict(StrEnum):
    """What became of an input row."""

    KEPT = "kept"
    REJECTED = "rejected"  # by a rule or a judge
    FAILED = "failed"  # could not be fetched, decoded or processed


class Reason(StrEnum):
    """Why a row was not kept. Closed: nothing else is ever written; free text goes to ``Row.detail``."""

    BAD_SCHEME = "bad_scheme"
    BAD_URL = "bad_url"
    URL_CREDENTIALS = "url_credentials"
    SSRF_BLOCKED = "ssrf_blocked"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    DNS_ERROR = "dns_error"
    CONNECT_ERROR = "connect_error"
    TLS_ERROR = "tls_error"
    TIMEOUT = "timeout"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    RATE_LIMITED = "rate_limited"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TRUNCATED = "body_truncated"
    BAD_ENCODING = "bad_encoding"
    EMPTY_BODY = "empty_body"
    OPTED_OUT = "opted_out"
    NOT_IMAGE = "not_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    DECODE_ERROR = "decode_error"
    DECODE_TRUNCATED = "decode_truncated"
    DECODER_CRASHED = "decoder_crashed"
    DECODE_TIMEOUT = "decode_timeout"
    TOO_MANY_PIXELS = "too_many_pixels"
    ANIMATED = "animated"
    TOO_SMALL = "too_small"
    BAD_ASPECT = "bad_aspect"
    HASH_MISMATCH = "hash_mismatch"
    DUPLICATE = "duplicate"
    UNSAFE = "unsafe"
    BAD_CAPTION = "bad_caption"
    LOW_AESTHETIC = "low_aesthetic"
    LOW_SIMILARITY = "low_similarity"
    WATERMARK = "watermark"
    WRONG_LANGUAGE = "wrong_language"
    MASK_EMPTY = "mask_empty"
    MASK_FULL = "mask_full"
    MASK_REJECTED = "mask_rejected"
    INPAINTING_REJECTED = "inpainting_rejected"
    STAGE_ERROR = "stage_error"
    UNDECIDED = "undecided"
    TAKEN_DOWN = "taken_down"

    @property
    def verdict(self) -> Verdict:
        """``FAILED`` where the machine or the web gave out, ``REJECTED`` where a rule or judge decided."""
        return Verdict.FAILED if self in _FAILURES else Verdict.REJECTED

    @property
    def transient(self) -> bool:
        """Whether fetching the row again may end differently (``--retry-failed``)."""
        return self in _TRANSIENT


_TRANSIENT = frozenset(
    {
        Reason.DNS_ERROR,
        Reason.CONNECT_ERROR,
        Reason.TIMEOUT,
        Reason.HTTP_5XX,
        Reason.RATE_LIMITED,
        Reason.BODY_TRUNCATED,
        Reason.DECODER_CRASHED,
        Reason.DECODE_TIMEOUT,
        Reason.STAGE_ERROR,
        Reason.UNDECIDED,
    }
)
_FAILURES = _TRANSIENT | {
    Reason.BAD_SCHEME,
    Reason.BAD_URL,
    Reason.URL_CREDENTIALS,
    Reason.SSRF_BLOCKED,
    Reason.TOO_MANY_REDIRECTS,
    Reason.TLS_ERROR,
    Reason.HTTP_4XX,
    Reason.BODY_TOO_LARGE,
    Reason.BAD_ENCODING,
    Reason.EMPTY_BODY,
    Reason.NOT_IMAGE,
    Reason.UNSUPPORTED_FORMAT,
    Reason.DECODE_ERROR,
    Reason.DECODE_TRUNCATED,
    Reason.TOO_MANY_PIXELS,
    Reason.HASH_MISMATCH,
}


class PeelEnd(StrEnum):
    """Why the last attempt to peel a further object off a sample's background was the last. Closed, like ``Reason``,
    some of whose values it shares. It never is a reason to refuse the sample."""

    ENOUGH = "enough"  # the sample has layers.count layers
    MASK_EMPTY = "mask_empty"
    MASK_FULL = "mask_full"
    MASK_INPAINTED = "mask_inpainted"  # what was found lies mostly where the background was inpainted before
    MASK_REJECTED = "mask_rejected"
    INPAINTING_REJECTED = "inpainting_rejected"
    STAGE_ERROR = "stage_error"


# Pixels of these, and what was computed of them, are never written, whatever asks for them.
NEVER_SHOWN = frozenset({Reason.UNSAFE.value, Reason.OPTED_OUT.value, Reason.TAKEN_DOWN.value})

UNKNOWN = -1  # typed sentinel of every number that is not known; strings use ""


def sample_key(url: str, caption: str) -> str:
    """Return the key of a row: 32 hex digits, a 128-bit BLAKE2b of URL and caption. Never a position."""
    text = f"{url}\n{caption}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def key_fraction(key: str, salt: str) -> float:
    """Return a fixed number in [0, 1) for a key; each salt gives an independent draw.

    Decides the audit slice, preview sampling and splits, so that they never move when data are added.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=salt.encode()[:16]).digest()
    return int.from_bytes(digest) / 2**64


@dataclass(slots=True)
class Peel:
    """What is known of a further object, as ``Row`` has it of the first: also of one that was refused."""

    mask_area: float = UNKNOWN
    hole_area: float = UNKNOWN
    mask_components: int = UNKNOWN
    mask_score: float = UNKNOWN
    inpainting_score: float = UNKNOWN


@dataclass(slots=True)
class Row:
    """What is known of one input row, from metadata to verdict. Becomes one line of the ledger.

    No field is ever None: unknown numbers are ``UNKNOWN`` (-1), unknown strings "". Nothing here depends on
    the clock, the machine or the attempt: two runs over the same web write the same ledger bytes.
    """

    key: str
    url: str  # as in the metadata; credentials redacted before it reaches a ledger
    caption: str
    shard: int  # input shard
    index: int  # row inside the input shard, 0-based
    # metadata
    width: int = UNKNOWN
    height: int = UNKNOWN
    aesthetic: float = UNKNOWN
    similarity: float = UNKNOWN
    punsafe: float = UNKNOWN
    pwatermark: float = UNKNOWN
    language: str = ""
    expected_sha256: str = ""  # where the metadata promises the content's digest
    # fetch and decode
    status: int = UNKNOWN  # HTTP status of the last answer
    content_type: str = ""
    bytes: int = UNKNOWN  # size of the fetched body
    sha256: str = ""  # of the fetched body
    opt_out: str = ""  # signals seen, e.g. "x-robots-tag: noai"; "" when none
    format: str = ""  # decoder's name of the format, e.g. "JPEG"
    original_width: int = UNKNOWN  # pixels after EXIF rotation
    original_height: int = UNKNOWN
    image_notes: str = ""  # what decoding mended, e.g. "exif-rotated,icc-to-srgb"
    nsfw_score: float = UNKNOWN  # P(pornographic) by the optional NSFW filter, 0..1
    # mask, hole and judges
    mask_area: float = UNKNOWN  # share of pixels with m > 0.5
    hole_area: float = UNKNOWN  # share of pixels inside the dilated mask
    mask_components: int = UNKNOWN  # 8-connected components of m > 0.5
    mask_score: float = UNKNOWN  # P(mask is good), 0..1
    inpainting_score: float = UNKNOWN  # P(inpainting is good), 0..1
    mask_head: str = ""  # version of the head that scored
    inpainting_head: str = ""
    # outcome
    audit: bool = False  # runs through every stage whatever the scores
    verdict: str = Verdict.KEPT
    reason: str = ""  # a Reason, "" when kept
    stage: str = ""  # stage that decided, "" when kept
    detail: str = ""  # free text for people, at most 500 characters
    # further objects, where layers.count is above 2; only then columns of the ledger
    layers: int = UNKNOWN  # of the sample, the background being one
    peel_end: str = ""  # a PeelEnd, "" where nothing was peeled
    peels: list[Peel] = field(default_factory=list)  # attempts at the second object, the third, ...

    @property
    def kept(self) -> bool:
        return not self.reason

    def refuse(self, reason: Reason, stage: str, detail: str = "") -> None:
        """Give the row its reason. The first one stands: an audit row that goes on cannot be given another."""
        if self.reason:
            return
        self.reason, self.stage = reason.value, stage
        self.verdict = reason.verdict.value
        self.detail = detail.encode("utf-8", "replace").decode().replace("\0", "\\0")[:500]


@dataclass(slots=True)
class Batch:
    """A contiguous slice of an input shard: all its rows, and pixels for those still in play ("live").

    ``live[j]`` is the position in ``rows`` of pixel slot ``j``. Refused rows lose their slot (``compress``)
    but stay in ``rows``. Arrays are C-contiguous uint8; ``mask`` is the soft mask m scaled to 0..255.
    """

    rows: list[Row]
    live: np.ndarray  # int64 [N]
    shard_rows: int = 0  # rows of the whole input shard
    image: np.ndarray | None = None  # uint8 [N, H, W, 3], sRGB
    mask: np.ndarray | None = None  # uint8 [N, H, W]
    background: np.ndarray | None = None  # uint8 [N, H, W, 3]
    # row.index -> (mask uint8 [H, W], background behind it uint8 [H, W, 3]) of each further object, front to back
    peeled: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    outer: Batch | None = None  # of a batch of backgrounds: what they are the backgrounds of (peeling.py)
    # set by the encode stage, which drops the arrays: key -> {"jpg": bytes, ...}
    triplets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    previews: dict[str, bytes] = field(default_factory=dict)  # key -> WebP strip
    # set by the judges: task ("mask", "inpainting") -> key -> float32 [D], and what made them (output/features.py)
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    feature_kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> busy wall seconds
    images: dict[str, int] = field(default_factory=dict)  # stage -> pixel slots it worked on

    def __len__(self) -> int:
        return len(self.live)

    @property
    def live_rows(self) -> list[Row]:
        """The rows that still have pixels, in slot order."""
        return [self.rows[i] for i in self.live]

    def compress(self, keep: np.ndarray | Iterable[bool]) -> Batch:
        """Keep only the pixel slots where ``keep`` (bool [N]) is true; rows stay. Returns self."""
        keep = np.asarray(keep, dtype=bool)
        if not keep.all():
            self.live = self.live[keep]
            for name in ("image", "mask", "background"):
                array = getattr(self, name)
                if array is not None:
                    setattr(self, name, np.ascontiguousarray(array[keep]))
        return self


@dataclass(slots=True)
class Triplet:
    """One surviving sample as read back from a shard.

    image, foreground, background: uint8 [H, W, 3]; mask: uint8 [H, W], the soft mask scaled to 0..255;
    ``info`` is the sample's JSON.
    """

    key: str
    caption: str
    image: np.ndarray
    foreground: np.ndarray
    background: np.ndarray
    mask: np.ndarray
    info: dict[str, object]


@dataclass(slots=True)
class LayeredSample:
    """One sample as ordered layers: ``layers.flatten(layers, background)`` is the image, but for soft edges.

    layers: front to back, each uint8 [H, W, 4]: F with m as its alpha (not premultiplied). background: what is behind
    all of them, uint8 [H, W, 3], as is ``image``; ``info`` is the sample's JSON.
    """

    key: str
    caption: str
    image: np.ndarray
    layers: list[np.ndarray]
    background: np.ndarray
    info: dict[str, object]
