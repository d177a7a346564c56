"""What strangers send, each with the reason it ends in: links, names, certificates, answers, images and captions.

``python tests/bad_inputs.py`` writes ``docs/bad-inputs.md`` from these lists; ``tests/source/test_bad_inputs.py``
builds all of them at once.
"""

from __future__ import annotations

import io
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pictures import encode, lying_png, picture
from PIL import Image

from l2i_builder.sample import Reason

SPECIAL_V4 = """0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1
    127.255.255.254 168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.7
    203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255"""
PRIVATE_V4 = SPECIAL_V4.split()


def embeddings(v4: str) -> dict[str, str]:
    """The IPv6 addresses that stand for, or carry, an IPv4 address."""
    number = int(ipaddress.IPv4Address(v4))
    high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
    return {
        "mapped": f"::ffff:{v4}",
        "nat64": f"64:ff9b::{v4}",
        "nat64 of an operator": f"64:ff9b:1::{v4}",
        "compatible": f"::{v4}",
        "translated": f"::ffff:0:{v4}",
        "6to4": f"2002:{high}:{low}::1",
        "teredo": f"2001:0:{high}:{low}::1",
        "isatap": f"2a00:1450::5efe:{v4}",
        "isatap, global": f"2a00:1450::200:5efe:{v4}",
    }


REFUSED_URLS = {
    Reason.BAD_SCHEME: [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/png;base64," + "A" * 100_000,
        "ftp://example.com/a.jpg",
        "gopher://example.com:70/_x",
        "javascript:alert(1)",
        "blob:https://example.com/1",
        "ws://example.com/",
        "localhost:8080/a.jpg",
    ],
    Reason.BAD_URL: [
        "",
        "   ",
        "/a.jpg",
        "example.com/a.jpg",
        "//example.com/a.jpg",
        "http:",
        "http://",
        "http:///a.jpg",
        "http:example.com/a.jpg",
        "http:/example.com/a.jpg",
        "https://?a=b",
        "http://:80/",
        "http://example.com/" + "a" * 8192,
        "http://example.com/" + "é" * 4096,  # 8,211 bytes in UTF-8
        "http://example.com/a\r\nHost: evil",
        "http://example.com/a\nb",
        "http://example.com\r\n/",
        "http://example.com/a\0.jpg",
        "http://exam\0ple.com/",
        "http://example.com/a\tb",
        "http://example.com/a\x7f",
        "\x00http://example.com/",
        "http://example.com/\ud800.jpg",
        "http://exa mple.com/",
        "http://exa%6dple.com/",
        "http://example..com/",
        "http://.example.com/",
        "http://-example.com/",
        "http://" + "a" * 64 + ".com/",
        "http://" + "a." * 127 + "com/",
        "http://example.com:abc/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:-1/",
        "http://example.com:٨٠/",
        "http://example.com\\a/",
        "http://[::1/",
        "http://::1/",
        "http://[::g]/",
        "http://[]/",
        "http://[1.2.3.4]/",
        "http://256.1.1.1/",
        "http://1.2.3.4.5/",
        "http://1.2.3.999/",
        "http://09.1.1.1/",
        "http://example.1/",
        "http://4294967296/",
        "http://0x100000000/",
        "http://134744072/",  # 8.8.8.8: public, but nobody writes it like this
        "http://0x8.8.8.8/",
        "http://8.8.8/",
        "http://010.8.8.8/",  # octal or decimal? readers differ
        "http://a\u202e.com/",
        "http://xn--\u00fc.com/",
    ],
    Reason.URL_CREDENTIALS: [
        "http://user:password@example.com/a.jpg",
        "http://user@example.com/",
        "http://:password@example.com/",
        "http://@example.com/",
        "https://user:p@ss@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com:80@169.254.169.254/",
    ],
    Reason.SSRF_BLOCKED: [
        *(f"http://{ip}/" for ip in PRIVATE_V4),
        *(f"http://[{ip}]/" for v4 in ("127.0.0.1", "169.254.169.254") for ip in embeddings(v4).values()),
        "http://127.0.0.1:8080/a.jpg",
        "http://127.0.0.1./",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",  # 127.0.0.1 in decimal
        "http://0x7f000001/",
        "http://0x7F.0.0.1/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://2852039166/",  # 169.254.169.254
        "http://0xa9fea9fe/",
        "http://0/",
        "http://0x/",
        "http://１２７.０.０.１/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]:80/",
        "http://[::]/",
        "http://[fd00:ec2::254]/latest/",
        "http://[fe80::1%25eth0]/",
        "http://[FE80::1]/",
    ],
}

BAD_ANSWERS = {
    Reason.HTTP_4XX: ["/404", "/410", "/403", "/999"],
    Reason.RATE_LIMITED: ["/429"],
    Reason.HTTP_5XX: ["/500", "/503"],
    Reason.EMPTY_BODY: ["/empty", "/204", "/empty-gzip"],
    Reason.BODY_TRUNCATED: ["/cut", "/cut-chunks", "/reset-body", "/206"],
    Reason.BODY_TOO_LARGE: [
        "/endless",
        "/endless-chunks",
        "/announced-huge",
        "/gzip-bomb",
        "/gzip-bomb-chunked",
        "/deflate-bomb",
    ],
    Reason.BAD_ENCODING: [
        "/corrupt-gzip",
        "/not-gzip",
        "/cut-gzip",
        "/gzip-and-more",
        "/gzip-twice",
        "/brotli",
        "/bad-chunk",
        "/bad-second-chunk",
    ],
    Reason.CONNECT_ERROR: [
        "/closed",
        "/reset",
        "/cut-headers",
        "/not-http",
        "/shoutcast",
        "/bad-length",
        "/two-lengths",
        "/nul-header",
        "/huge-headers",
        "/many-headers",
        "/101",
    ],
    Reason.NOT_IMAGE: ["/html", "/html-as-jpeg", "/html-latin1", "/json", "/text", "/304", "/nowhere"],
    Reason.TOO_MANY_REDIRECTS: ["/loop", "/ping", "/chain/6"],
    Reason.BAD_SCHEME: ["/to-file"],
    Reason.URL_CREDENTIALS: ["/to-credentials"],
    Reason.SSRF_BLOCKED: ["/to-loopback", "/to-metadata", "/to-mapped", "/to-decimal"],
    Reason.DNS_ERROR: ["/to-private-name"],
    Reason.BAD_URL: ["/to-nonsense", "/to-long"],
    Reason.OPTED_OUT: ["/noai", "/noai-us", "/content-usage"],
}
SLOW_ANSWERS = ["/silent", "/slow-headers", "/slow-body", "/slow-chunks", "/endless-hints"]


@dataclass(frozen=True)
class Bad:
    """A row of the metadata, ``sha256`` of the file promised. ``reason``: what it ends in, None = a picture."""

    url: str
    reason: Reason | None
    caption: str | bytes = "a picture"
    sha256: str = ""


@dataclass(frozen=True)
class Family:
    """Inputs of one kind. ``pages``: path -> answer's body, for a server that has ``hostile_web.PAGES`` besides."""

    title: str
    inputs: list[Bad]
    pages: dict[str, bytes]


WEB = "web.test"
NAMES = {  # what the resolver says
    "private.test": "10.0.0.1",
    "metadata.test": "169.254.169.254",
    "mapped.test": "::ffff:127.0.0.1",
    "mixed.test": "8.8.8.8 192.168.0.1",
    "mixed6.test": "2606:4700::1111 fd00::1",
}
CERTIFICATES = ("expired.test", "misnamed.test", "stranger.test", "plain.test")  # https with something wrong
FAMILIES_OF_ANSWERS = {
    "redirects in circles, to private addresses, to other schemes, to nonsense": (
        "/to-",
        "/loop",
        "/ping",
        "/chain",
    ),
    "statuses 4xx, 429, 5xx": ("/404", "/410", "/403", "/999", "/429", "/500", "/503"),
    "endless bodies, lying lengths, gzip and deflate bombs": ("/endless", "/announced", "/gzip-bomb", "/deflate-bomb"),
    "connections cut or reset in headers or body": ("/cut", "/reset", "/closed", "/206"),
    "damaged or unknown compression and chunks": (
        *("/corrupt", "/not-gzip", "/cut-gzip", "/gzip-", "/brotli", "/bad-chunk", "/bad-second"),
    ),
    "opt-out headers": ("/noai", "/content-usage"),
    "web pages, JSON and text with status 200": ("/html", "/json", "/text", "/304", "/nowhere"),
    "nothing at all": ("/empty", "/204"),
}


def photograph(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """A white object on a background whose colour tells the seeds apart."""
    image = Image.new("RGB", (width, height), (seed * 37 % 200, seed * 101 % 200, seed % 200))
    image.paste((255, 255, 255), (width // 3, height // 3, 2 * width // 3, 2 * height // 3))
    return image


def jpeg(seed: int) -> bytes:
    return encode(photograph(seed), "JPEG")


def families() -> Iterator[Family]:
    """Yield every family; all URLs differ, and so do all captions that are kept."""
    for title, reason in (
        ("schemes `file:`, `data:`, `ftp:`, `gopher:`, `javascript:` …", Reason.BAD_SCHEME),
        ("links that are empty, cut off, malformed, over-long, or hold CR, LF, NUL", Reason.BAD_URL),
        ("links with a user name or password", Reason.URL_CREDENTIALS),
        (
            "private, link-local, CGNAT, multicast and metadata addresses in v4, v6, v4-mapped, NAT64, 6to4, Teredo, "
            "decimal, hexadecimal, octal and Unicode spelling",
            Reason.SSRF_BLOCKED,
        ),
    ):
        yield Family(title, [Bad(url, reason) for url in REFUSED_URLS[reason] if "\ud800" not in url], {})
    yield Family(
        "names that do not exist, lead to private addresses, or to public and private ones",
        [Bad("http://nowhere.test/a.jpg", Reason.DNS_ERROR)]
        + [Bad(f"http://{name}/a.jpg", Reason.SSRF_BLOCKED) for name in NAMES],
        {},
    )
    yield Family(
        "certificates that have expired, are for another name or of a stranger; no TLS at all",
        [Bad(f"https://{name}/ok.jpg", Reason.TLS_ERROR) for name in CERTIFICATES],
        {},
    )
    yield from _answers()
    yield from _contents()
    yield _images()
    yield _captions()


def _answers() -> Iterator[Family]:
    left = {path: reason for reason, paths in BAD_ANSWERS.items() for path in paths}
    for title, starts in FAMILIES_OF_ANSWERS.items():
        paths = [path for path in left if path.startswith(starts)]
        yield Family(title, [Bad(f"http://{WEB}{path}", left.pop(path)) for path in paths], {})
    slow = [Bad(f"http://{WEB}{path}", Reason.TIMEOUT) for path in SLOW_ANSWERS]
    yield Family("slow headers, slow bodies, silence", slow, {})
    nobody = [Bad("http://refused.test/a.jpg", Reason.CONNECT_ERROR)]
    rest = [Bad(f"http://{WEB}{path}", reason) for path, reason in left.items()]
    yield Family("nobody listens, or what listens speaks no HTTP", nobody + rest, {})


def _contents() -> Iterator[Family]:
    promised = Bad(f"http://{WEB}/promised.jpg", Reason.HASH_MISMATCH, sha256="0" * 64)
    yield Family("another file than the metadata promise (SHA-256)", [promised], {"/promised.jpg": jpeg(1)})
    paths = [f"/placeholder-{number}.jpg" for number in range(6)]
    first, *others = (f"http://{WEB}{path}" for path in paths)
    yield Family(
        "one placeholder behind many links",
        [Bad(first, None), *(Bad(url, Reason.DUPLICATE) for url in others)],
        dict.fromkeys(paths, jpeg(2)),
    )


def _images() -> Family:
    still, moving = picture(), [photograph(3), photograph(4)]
    whole, plain = encode(still, "JPEG"), encode(still, "PNG")
    bodies: dict[str, tuple[bytes, Reason | None]] = {
        "cut.jpg": (whole[: len(whole) // 2], Reason.DECODE_TRUNCATED),
        "cut.png": (plain[: len(plain) // 2], Reason.DECODE_TRUNCATED),
        "header.png": (plain[:8] + b"\xff" * 8 + plain[16:], Reason.DECODE_ERROR),
        "noise.jpg": (bytes(range(256)), Reason.DECODE_ERROR),
        "bomb.png": (lying_png(), Reason.TOO_MANY_PIXELS),
        "moving.gif": (encode(moving[0], "GIF", save_all=True, append_images=moving[1:]), Reason.ANIMATED),
        "moving.webp": (encode(moving[0], "WEBP", save_all=True, append_images=moving[1:]), Reason.ANIMATED),
        "small.png": (encode(photograph(5, 8, 8), "PNG"), Reason.TOO_SMALL),
        "long.png": (encode(photograph(6, 640, 32), "PNG"), Reason.BAD_ASPECT),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Reason.UNSUPPORTED_FORMAT),
        "cmyk.jpg": (encode(photograph(7).convert("CMYK"), "JPEG"), None),
        "turned.jpg": (_turned(photograph(8)), None),
        "deep.png": (_deep(), None),
        "clear.png": (encode(photograph(9).convert("RGBA"), "PNG"), None),
    }
    return Family(
        "images cut short, damaged, moving, too small, too long, of other formats, with lying headers; and CMYK, "
        "EXIF-turned, 16-bit and transparent ones, which are kept",
        [Bad(f"http://{WEB}/images/{name}", reason) for name, (_, reason) in bodies.items()],
        {f"/images/{name}": body for name, (body, _) in bodies.items()},
    )


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, "JPEG", exif=exif)


def _deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 96, dtype=np.uint16).reshape(64, 96) * 10).save(buffer, "PNG")
    return buffer.getvalue()


def _captions() -> Family:
    captions: list[tuple[str | bytes, Reason | None]] = [
        ("<script>alert(1)</script><img src=x onerror=alert(1)>", None),
        ("a NUL \0 inside", None),
        ("right \u202e to left", None),
        (b"a lone surrogate \xed\xa0\x80", None),
        (b"Latin-1 \xe9", None),
        ("{{ 7 * 7 }} ${HOME} %s ../../etc/passwd", None),
        ("\U0001f642" * 50, None),
        ("", Reason.BAD_CAPTION),
        (" \n\t", Reason.BAD_CAPTION),
        ("long " * 200_000, Reason.BAD_CAPTION),
    ]
    paths = [f"/captions/{number}.jpg" for number in range(len(captions))]
    return Family(
        "captions with markup, NUL, right-to-left marks, lone surrogates, other encodings: kept as text; empty ones "
        "and one of 1 MB",
        [Bad(f"http://{WEB}{path}", reason, caption) for path, (caption, reason) in zip(paths, captions, strict=True)],
        {path: jpeg(100 + number) for number, path in enumerate(paths)},
    )


def table() -> str:
    """Return ``docs/bad-inputs.md``."""
    lines, total = [], 0
    for family in families():
        reasons = dict.fromkeys(bad.reason for bad in family.inputs)
        ends = ", ".join(f"`{reason.value}`" if reason else "kept" for reason in reasons)
        lines.append(f"| {family.title} | {len(family.inputs)} | {ends} |\n")
        total += len(family.inputs)
    return _PAGE.format(table="".join(lines), total=total)


_PAGE = """<!-- Written by `python tests/bad_inputs.py`; edit the lists there instead. -->
# Bad inputs

What strangers send, and what becomes of it. `tests/source/test_bad_inputs.py` writes all {total} of these as metadata,
serves them over HTTP and HTTPS on loopback, builds them with the real fetcher and decoder, and compares each row's
reason in the ledger; nothing is lost, and no address but the server's own is ever connected to.

| input | how many | ends as |
|---|---|---|
{table}
Besides, each by tests of its own:

- DNS answers that change between the check and the connection, or between two requests; a resolver that never answers;
  a socket whose peer is not what was looked up (`tests/fetch/test_fetch_guarded.py`).
- `Retry-After`, a request rate and number for each host, robots.txt, who we say we are
  (`tests/fetch/test_fetch_manners.py`).
- Images that crash the decoder, hang it or take all memory, in child processes (`tests/decode/test_decode_pool.py`);
  right pixels from EXIF turns 1–8, 16-bit, CMYK, ICC, palettes and transparency (`tests/decode/test_colour.py`).
- Real malformed files (those of image-rs, sharp, imgproxy and of EXIF collections, and all test images of Pillow 9.5
  and 13.0): 2,444 files gave 1,506 pictures and 938 reasons, no crash and no hang. What Pillow can open and the decoder
  refuses are formats that no browser shows (PCX, FLI, BLP and the like).
- Random answers, images, links, tars, parquet and manifests, guided by coverage (`tests/fuzz/`, `make fuzz`).
"""


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "bad-inputs.md").write_text(table(), encoding="utf-8")
