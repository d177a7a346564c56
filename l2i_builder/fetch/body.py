"""Undoing a body's compression under a byte cap, and telling text from images."""

from __future__ import annotations

import re
import zlib

from l2i_builder.fetch.guard import Refusal
from l2i_builder.fetch.http1 import too_large
from l2i_builder.sample import Reason

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib window bits of the three formats
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
# No possessive group: Python before 3.11.5 matches those wrongly.
_PROLOGUE = rb"(?:\s|<\?xml[^>]*>|<!--(?:(?!-->).)*-->)*"
_TEXT_IMAGE = re.compile(
    rb"P[1-7]\s|#define |/\* XPM|#\?RADIANCE|%!PS|" + _PROLOGUE + rb"<(?:!doctype )?svg", re.IGNORECASE | re.DOTALL
)
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_SNIFFED = 512  # bytes


def decode_body(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a body without its Content-Encoding, at most ``max_bytes`` of it.

    Raises Refusal: body_too_large, bad_encoding.
    """
    decoder = make_decoder(encoding, max_bytes)
    if decoder is None or not body:
        return body
    decoded = decoder.feed(body)
    if len(decoded) > max_bytes:
        raise too_large(max_bytes)
    decoder.finish()
    return decoded


def make_decoder(encoding: str, max_bytes: int) -> Decoder | None:
    """Return the decoder of a Content-Encoding, None when there is nothing to undo. Raises Refusal: bad_encoding."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity", "none"):
        return None
    if encoding in ("gzip", "x-gzip"):
        return Decoder(_GZIP, max_bytes)
    if encoding == "deflate":
        return Decoder(_ZLIB, max_bytes)
    raise Refusal(Reason.BAD_ENCODING, "a Content-Encoding that was not offered")


class Decoder:
    """Undoes gzip or deflate piece by piece, never holding much more than ``max_bytes`` decoded bytes."""

    def __init__(self, window: int, max_bytes: int) -> None:
        self._inflate = zlib.decompressobj(window)
        self._window = window
        self._left = max_bytes + 1  # one more than allowed, so that the reader sees that there is more

    def feed(self, chunk: bytes) -> bytes:
        """Return what ``chunk`` decodes to, at most one byte more than the cap. Raises Refusal: bad_encoding."""
        if not chunk or self._left <= 0:
            return b""
        if self._window == _ZLIB and chunk[0] & 15 != 8:  # "deflate" is often sent without the zlib header
            self._inflate = zlib.decompressobj(_RAW)
        self._window = 0
        try:
            data = self._inflate.decompress(chunk, self._left)
        except zlib.error:
            raise Refusal(Reason.BAD_ENCODING, "the compressed body is corrupt") from None
        self._left -= len(data)
        if self._inflate.unused_data.strip(b"\0"):
            raise Refusal(Reason.BAD_ENCODING, "data after the compressed body")
        return data

    def finish(self) -> None:
        """Check that the compressed stream came to its end. Raises Refusal: bad_encoding."""
        if not self._inflate.eof:
            raise Refusal(Reason.BAD_ENCODING, "the compressed body ends early")


def looks_like_text(data: bytes) -> bool:
    """Return whether a body is evidently markup or text, whatever its headers say.

    Image formats written in text (PNM, XBM, XPM, Radiance, PostScript, SVG) are left to the decoder.
    """
    if data.startswith(_IMAGE_STARTS):
        return False
    head = data[:_SNIFFED].removeprefix(b"\xef\xbb\xbf")
    if head.startswith((b"\xff\xfe<\0", b"\xfe\xff\0<")):  # markup in UTF-16
        return True
    return not _BINARY.search(head) and not _TEXT_IMAGE.match(head) and _is_text(head)


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # A character cut by the sniffing limit is fine; single-byte encodings are text where markup says so.
        return error.start > len(head) - 4 or head.lstrip()[:1] in (b"<", b"{")
    return True
