"""Bodies: what is undone, what is refused, and what is text rather than an image. Over HTTP: test_fetch."""

import gzip
import io
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from l2i_builder.fetch.body import looks_like_text, make_decoder
from l2i_builder.fetch.guard import Refusal
from l2i_builder.sample import Reason


def compress(data: bytes, encoding: str) -> bytes:
    if encoding in ("gzip", "x-gzip"):
        return gzip.compress(data, mtime=0)
    deflate = zlib.compressobj(wbits=-15 if encoding == "raw" else 15)
    return deflate.compress(data) + deflate.flush()


def decode(compressed: bytes, encoding: str, max_bytes: int = 10**6, piece: int = 10**6) -> bytes:
    decoder = make_decoder("deflate" if encoding == "raw" else encoding, max_bytes)
    pieces = [decoder.feed(compressed[i : i + piece]) for i in range(0, len(compressed), piece)]
    decoder.finish()
    return b"".join(pieces)


class TestDecoder:
    @pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw", " GZIP "])
    @pytest.mark.parametrize("piece", [1, 7, 10**6])
    def test_undoes_what_servers_send(self, encoding, piece):
        data = random.Random(0).randbytes(5000)
        assert decode(compress(data, encoding.strip().lower()), encoding, piece=piece) == data

    @pytest.mark.parametrize("encoding", ["", "identity", "Identity", "none"])
    def test_nothing_to_undo(self, encoding):
        assert make_decoder(encoding, 100) is None

    @pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip,identity", "utf-8", "\xff"])
    def test_refuses_what_was_not_offered(self, encoding):
        with pytest.raises(Refusal) as refusal:
            make_decoder(encoding, 100)
        assert refusal.value.reason is Reason.BAD_ENCODING

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw"])
    def test_a_bomb_gives_one_byte_more_than_the_cap_and_no_more(self, encoding):
        decoder = make_decoder("deflate" if encoding == "raw" else encoding, 1000)
        bomb = compress(bytes(10_000_000), encoding)
        given_out = sum(len(decoder.feed(bomb[i : i + 100])) for i in range(0, len(bomb), 100))
        assert given_out == 1001

    @given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
    def test_nothing_but_a_refusal_is_raised(self, noise, encoding):
        try:
            decode(noise, encoding, max_bytes=1000)
        except Refusal as refusal:
            found = refusal.reason
        else:
            found = None
        assert found in (None, Reason.BAD_ENCODING)

    def test_padding_after_the_stream_is_let_pass(self):
        assert decode(compress(b"abc", "gzip") + bytes(512), "gzip") == b"abc"

    @pytest.mark.parametrize("tail", [b"x", gzip.compress(b"more", mtime=0)])
    def test_data_after_the_stream_is_not(self, tail):
        with pytest.raises(Refusal) as refusal:
            decode(compress(b"abc", "gzip") + tail, "gzip")
        assert refusal.value.reason is Reason.BAD_ENCODING


def encoded(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(buffer, name)
    return buffer.getvalue()


class TestText:
    @pytest.mark.parametrize(
        "body",
        [
            b"<!DOCTYPE html><html></html>",
            b"<!doctype html>",
            b"\n\n  <html lang=en>",
            b"\xef\xbb\xbf<html>",
            b"\xff\xfe<\0h\0t\0m\0l\0>\0",
            b"<p>gel\xf6scht</p>",  # latin-1
            b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            b"<!-- a --><!-- b --><html><svg></svg></html>",
            b'{"error": "gone"}',
            b"[]",
            b"Not found",
            b"404",
            b"\n",
            "Datei nicht gefunden: Bücher".encode(),
            b"<b>Warning</b>: mysql_connect() in /var/www/image.php",
            b"ok " * 300,
            ("x" * 511 + "é").encode(),  # a character cut by the sniffing limit
            b"data:image/png;base64,iVBORw0KGgo=",
            b"P",
            b"GIF",
        ],
    )
    def test_is_text(self, body):
        assert looks_like_text(body)

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "ICO", "PPM", "TGA", "PCX"])
    def test_images_are_not(self, name):
        assert not looks_like_text(encoded(name))

    @pytest.mark.parametrize(
        "body",
        [
            b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
            b"\xef\xbb\xbf<svg/>",
            b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg></svg>",
            b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'>",
            b"P3\n2 2\n255\n",
            b"#define x_width 16\n",
            b"/* XPM */",
            b"#?RADIANCE\n",
            b"%!PS-Adobe-3.0 EPSF-3.0",
            b"\0\0\0\x20ftypheic",
            b"\xff\xd8\xff\xe0 then text only",
        ],
    )
    def test_images_written_in_text_are_left_to_the_decoder(self, body):
        assert not looks_like_text(body)

    @given(st.binary(min_size=1, max_size=600))
    def test_takes_any_bytes(self, body):
        assert looks_like_text(body) in (True, False)

    def test_many_comments_cost_no_more_than_their_length(self):
        assert looks_like_text(b"<!-- -->" * 100 + b"<!--" * 100)
