"""Well-formed inputs to start fuzzing from, made anew each time."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy import Silent, toy_config, toy_parts, write_metadata

from l2i_builder.ingest import planning
from l2i_builder.output import manifest
from l2i_builder.run.inline import run_inline


def seeds(target: str, folder: Path) -> list[bytes]:
    """Return the seeds of a target; ``folder`` is an empty one for a small run."""
    if target == "url":
        return [
            url.encode()
            for url in (
                "http://example.org/a.jpg?b=c#d",
                "https://user:pass@[2001:db8::1]:8443/%7Ea",
                "http://0x7f.1/",
                "http://münchen.example/ä",
            )
        ]
    if target == "robots":
        return [
            b"User-agent: *\nDisallow: /*.jpg$\nAllow: /a%2Fb\nCrawl-delay: 2\n/a.jpg",
            b"user-agent: l2i-builder/1\r\nuser-agent: x\r\n\r\nDisallow: /caf\xc3\xa9 # no\r\nSitemap: /s\n/caf%C3%A9",
        ]
    if target == "image":
        return images()
    if target == "http_answer":
        head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nX-Robots-Tag: noai\r\n"
        body = images()[0]
        chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in (body[:50], body[50:]))
        packed = gzip.compress(body)
        return [
            head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n",
            head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed,
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 302 Found\r\nLocation: /b\r\n\r\n",
        ]
    return [path.read_bytes() for path in small_run(folder) if path.suffix in SUFFIXES[target]]


SUFFIXES = {"tar": (".tar",), "parquet": (".parquet",), "manifest": (".json",)}


def images() -> list[bytes]:
    """A small image in each format that Pillow writes here."""
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (40, 30))
    found = []
    for format, mode in (
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("TIFF", "RGB"),
        ("TIFF", "I;16"),
        ("BMP", "RGB"),
        ("PPM", "RGB"),
        ("ICO", "RGBA"),
    ):
        picture = Image.fromarray(pixels)
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, format)
        found.append(buffer.getvalue())
    return found


def small_run(folder: Path) -> list[Path]:
    """The files of a run over twenty rows."""
    config = toy_config(write_metadata(folder / "metadata", rows=20), folder / "out")
    plan = planning.plan(config)
    run = manifest.RunManifest.of(config, plan.digest, {})
    manifest.claim(config.out, run)
    (folder / "out" / "input.json").write_bytes(plan.to_json())
    run_inline(config, plan.shards, run.digest, Silent(), toy_parts(config))
    return sorted(path for path in (folder / "out").rglob("*") if path.is_file() and "stats" not in path.parts)
