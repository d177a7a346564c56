"""What a body is, told from its first bytes: a format we decode, an image we do not, or no image at all."""

from __future__ import annotations

import re
import struct

from l2i_builder.sample import Reason

# (offset, magic, Pillow's name). Anything Pillow could open beyond this list stays closed.
_DECODED = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
)
_OTHER_IMAGES = (
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\0\0\2\0", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"8BPS", "PSD"),
    (0, b"gimp xcf", "XCF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"\x8bJNG", "JNG"),
    (0, b"\x01\xda\x01", "SGI"),
    (0, b"\x01\xda\x00", "SGI"),
    (0, b"\x0a\x05\x01\x08", "PCX"),
    (0, b"/* XPM */", "XPM"),
)
_NOT_IMAGES = (
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (4, b"ftyp", "MP4"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"RIFF", "RIFF"),
    (0, b"FWS", "Flash"),
    (0, b"CWS", "Flash"),
    (0, b"Rar!", "RAR"),
    (0, b"7z\xbc\xaf", "7-Zip"),
    (0, b"\x7fELF", "ELF"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"crx ")
_AVIF_SIZE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)  # property "image spatial extents" of ISO/IEC 23008-12
_TEXT_BYTES = bytes(range(0x20, 0x100)) + b"\t\n\r\f\x1b"


def identify(data: bytes) -> tuple[str, Reason | None]:
    """Return (name, None) for a format we decode, else (what it seems to be, why it is refused).

    Names of decoded formats are Pillow's: JPEG, PNG, GIF, WEBP, BMP, TIFF, AVIF. The reason is
    UNSUPPORTED_FORMAT for other images, NOT_IMAGE for text and other media, DECODE_ERROR for the rest.
    """
    if data[4:8] == b"ftyp":
        if found := _iso_media(data):
            return found
    elif name := _match(data, _DECODED):
        if name == "PNG" and data[12:16] == b"CgBI":
            return "Apple CgBI PNG", Reason.UNSUPPORTED_FORMAT
        if name != "WEBP" or data.startswith(b"RIFF"):
            return name, None
    if name := _match(data, _OTHER_IMAGES):
        return name, Reason.UNSUPPORTED_FORMAT
    if name := _match(data, _NOT_IMAGES):
        return name, Reason.NOT_IMAGE
    if _is_text(data[:1024]):
        return _text(data)
    if data[:1] == b"P" and data[1:2] in b"1234567fF" and data[2:3].isspace():
        return "PNM", Reason.UNSUPPORTED_FORMAT
    if data[-18:-2] == b"TRUEVISION-XFILE":
        return "TGA", Reason.UNSUPPORTED_FORMAT
    return "unknown", Reason.DECODE_ERROR


def announced_pixels(data: bytes, format: str) -> int:
    """Return the pixels that the header announces, where the decoder would rather fail than say; else 0.

    AVIF: libavif calls a file malformed that has more than 16384 x 16384.
    """
    if format != "AVIF":
        return 0
    sizes = (struct.unpack(">II", match[1]) for match in _AVIF_SIZE.finditer(data[:65536]))
    return max((width * height for width, height in sizes), default=0)


def ends_early(data: bytes, format: str) -> bool:
    """Whether the file's own structure says that bytes are missing at its end."""
    if format == "JPEG":
        return b"\xff\xd9" not in data[-64:]  # a few bytes of padding after the end marker are common
    if format == "PNG":
        return b"IEND" not in data[-64:]
    if format == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if format == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if format == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    if format == "AVIF":
        return _boxes_end(data) > len(data)
    return False  # TIFF has no end: its decoder's message decides


def _match(data: bytes, signatures: tuple[tuple[int, bytes, str], ...]) -> str:
    return next((name for offset, magic, name in signatures if data.startswith(magic, offset)), "")


def _iso_media(data: bytes) -> tuple[str, Reason | None] | None:
    """Tell AVIF from HEIF by the brands of the ``ftyp`` box; None for video."""
    brands = data[8 : min(int.from_bytes(data[:4]), 256)]
    listed = {brands[i : i + 4] for i in (0, *range(8, len(brands), 4))}  # bytes 4..8 are a version
    if listed & {b"avif", b"avis"}:
        return "AVIF", None
    if listed.intersection(_HEIF_BRANDS):
        return "HEIF", Reason.UNSUPPORTED_FORMAT
    return None


def _boxes_end(data: bytes) -> int:
    """Return the offset at which the last top-level ISO box ends by its own account."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4])
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16])
        # 0: the box lasts to the end of the file; a name that is none: this is no box, and its size means nothing
        if size < 8 or not data[position + 4 : position + 8].isalnum():
            return len(data)
        position += size
    return position


def _is_text(head: bytes) -> bool:
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or not head.translate(None, _TEXT_BYTES)


def _text(data: bytes) -> tuple[str, Reason]:
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_html = head.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))
    if b"<svg" in head and not is_html:
        return "SVG", Reason.UNSUPPORTED_FORMAT
    if head[:1] == b"p" and head[1:2] in b"123" and head[2:3].isspace():
        return "PNM", Reason.UNSUPPORTED_FORMAT
    return ("HTML" if is_html or b"<html" in head else "text"), Reason.NOT_IMAGE
