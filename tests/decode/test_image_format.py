"""identify: what a body is, from its first bytes."""

import io

import pytest
from PIL import Image, features

from l2i_builder.decode.formats import ends_early, identify
from l2i_builder.sample import Reason

FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP"] + ["AVIF"] * features.check("avif")


def encode(format):
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", [*FORMATS, "TIFF"])
def test_formats_of_the_list(format):
    assert identify(encode(format)) == (format, None)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn by hand -->\n<svg/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(40), "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "HEIF"),
        (b"\0\0\1\0\1\0" + bytes(40), "ICO"),
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"P6 4 4 255 " + bytes(48), "PNM"),
        (b"P3\n4 4 255\n0 0 0", "PNM"),
        (b"DDS |" + bytes(40), "DDS"),
        (bytes(30) + b"TRUEVISION-XFILE.\0", "TGA"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI" + bytes(40), "Apple CgBI PNG"),
    ],
)
def test_other_image_formats_are_unsupported(data, name):
    assert identify(data) == (name, Reason.UNSUPPORTED_FORMAT)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<!DOCTYPE html><html><body><svg></svg></body></html>", "HTML"),
        (b"\n\n<!-- hello --><HTML>", "HTML"),
        (b'{"error": "not found"}', "text"),
        ("Bild gelöscht".encode(), "text"),
        ("<html>".encode("utf-16"), "text"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"PK\3\4" + bytes(40), "ZIP"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(40), "MP4"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "RIFF"),
    ],
)
def test_what_is_no_image_is_named_so(data, name):
    assert identify(data) == (name, Reason.NOT_IMAGE)


@pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)), b"\0\0\0\x18ftyp", b"XXXX\0\0\0\0WEBP" + bytes(9)])
def test_everything_else_is_unknown(data):
    assert identify(data)[1] in (Reason.DECODE_ERROR, Reason.NOT_IMAGE)
    assert identify(data)[0] not in FORMATS


@pytest.mark.parametrize("format", FORMATS)
def test_a_files_own_structure_tells_whether_it_ends_early(format):
    whole = encode(format)
    assert not ends_early(whole, format)
    assert ends_early(whole[:-40] if format == "AVIF" else whole[: len(whole) * 2 // 3], format)


def test_padding_after_the_end_is_no_early_end():
    assert not ends_early(encode("JPEG") + bytes(16), "JPEG")
    assert not ends_early(encode("GIF") + bytes(16), "GIF")


def test_boxes_that_are_none_say_nothing_of_the_end():
    data = encode("AVIF") if features.check("avif") else b"\0\0\0\x10ftypavif\0\0\0\0"
    assert not ends_early(data[:12] + b"\xee" * (len(data) - 12), "AVIF")
