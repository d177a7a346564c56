"""What the real web does to a list of links, one small case each, made from the sample's own photographs."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from l2i_builder.sample import Reason

KEPT_FOR_MODELS = ""  # the row reaches the models; what becomes of it there is theirs to decide
_ORIENTATION = 0x0112  # EXIF tag
HOST = "blog.l2i.test"


@dataclass(frozen=True)
class Oddity:
    """One row of the metadata that is not simply a good link to a good photograph.

    ``route`` is what the sample web answers at ``/odd/<name>`` (see ``web._Handler``), ``body`` what it serves there;
    ``url`` replaces the URL; ``reason`` is where the row must end with the default configuration.
    """

    name: str
    caption: str
    reason: str
    body: bytes = b""
    route: dict = field(default_factory=dict)
    url: str = ""
    host: str = HOST
    punsafe: float | None = 0.001
    size: tuple[int, int] = (800, 600)  # WIDTH and HEIGHT as the metadata claims them
    listed: bool = True  # false: served, but not a row of the metadata


def oddities(photos: Path) -> list[Oddity]:
    """Return all oddities. ``photos`` is the folder of gathered photographs; the same photographs give the same bytes.

    Every picture made here differs from every other, so that none of them is a duplicate by accident.
    """
    files = sorted(path for path in photos.iterdir() if not path.name.startswith("."))

    def photo(name: str) -> Image.Image:
        """A photograph by name, or where it could not be gathered, the first one there is."""
        path = next((path for path in files if path.stem == name), files[0])
        with Image.open(path) as image:
            return image.convert("RGB")

    return [*_links(), *_answers(photo), *_bodies(photo), *_pictures(photo), *_captions(photo)]


def _links() -> list[Oddity]:
    """URLs that must not, or cannot, be asked for."""
    wanted = "photos.l2i.test/photos/wild-kingfisher.webp"
    return [
        Oddity("ftp", "A kingfisher, by another protocol", Reason.BAD_SCHEME, url=f"ftp://{wanted}"),
        Oddity("file", "Somebody's password file", Reason.BAD_SCHEME, url="file:///etc/passwd"),
        Oddity("no-host", "A link without a host", Reason.BAD_URL, url="http:///kingfisher.jpg"),
        Oddity(
            "credentials",
            "A kingfisher behind a password",
            Reason.URL_CREDENTIALS,
            url=f"http://reader:swordfish@{wanted}",
        ),
        Oddity("private", "Router settings", Reason.SSRF_BLOCKED, url="http://192.168.0.1/logo.png"),
        Oddity(
            "metadata-service",
            "Cloud credentials",
            Reason.SSRF_BLOCKED,
            url="http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        ),
        Oddity("gone", "A host that no longer exists", Reason.DNS_ERROR, url="http://gone.l2i.invalid/cat.jpg"),
        Oddity("refused", "A host that refuses", Reason.CONNECT_ERROR, url="http://closed.l2i.test/dog.jpg"),
        Oddity("tls", "A host whose TLS is broken", Reason.TLS_ERROR, url="https://broken-tls.l2i.test/horse.jpg"),
    ]


def _answers(photo: Callable[[str], Image.Image]) -> list[Oddity]:
    """Statuses, redirects and headers."""
    moved = {"status": 302, "headers": {"Location": "http://cdn.l2i.test/odd/moved-here.jpg"}}
    inward = {"status": 302, "headers": {"Location": "http://169.254.169.254/latest/meta-data/"}}
    loop = {"status": 301, "headers": {"Location": f"http://{HOST}/odd/loop.jpg"}}
    answer = {"type": "image/jpeg"}
    noai = {**answer, "headers": {"X-Robots-Tag": "noai, noimageai"}}
    no_training = {**answer, "headers": {"Content-Usage": "train-ai=n"}}
    page = b"<!doctype html><title>Not here</title><p>This picture has moved. See our other pictures!</p>\n"
    coffee, dahlia = photo("museum-coffee"), photo("museum-dahlia")
    return [
        Oddity("missing.jpg", "Two otters holding hands", Reason.HTTP_4XX, route={"status": 404}),
        Oddity("withdrawn.jpg", "A lighthouse in a storm", Reason.HTTP_4XX, route={"status": 410}),
        Oddity("overloaded.jpg", "A street market at night", Reason.HTTP_5XX, route={"status": 503}),
        Oddity("loop.jpg", "A dog chasing its tail", Reason.TOO_MANY_REDIRECTS, route=loop),
        Oddity("inward.jpg", "A sunset over the bay", Reason.SSRF_BLOCKED, route=inward),
        Oddity("moved.jpg", "A cup of coffee, seen in a mirror", KEPT_FOR_MODELS, route=moved),
        Oddity("moved-here.jpg", "", KEPT_FOR_MODELS, jpeg(ImageOps.mirror(coffee)), answer, listed=False),
        Oddity("page.jpg", "A bridge in autumn", Reason.NOT_IMAGE, page, {"type": "text/html"}),
        Oddity("noai.jpg", "An orange dahlia, upside down", Reason.OPTED_OUT, jpeg(ImageOps.flip(dahlia)), noai),
        Oddity("no-training.jpg", "An orange dahlia", Reason.OPTED_OUT, jpeg(ImageOps.mirror(dahlia)), no_training),
        Oddity("busy.jpg", "A busy café's espresso", KEPT_FOR_MODELS, jpeg(_crop(coffee)), {**answer, "fail_first": 1}),
    ]


def _bodies(photo: Callable[[str], Image.Image]) -> list[Oddity]:
    """Bodies that are cut, slow, empty, packed wrongly or far too big."""
    quokka = jpeg(ImageOps.mirror(photo("museum-quokka")))
    half = quokka[: len(quokka) // 2]
    bomb = gzip.compress(bytes(40 * 2**20), 6, mtime=0)  # 40 MiB of zeros
    packed = {"type": "image/jpeg", "headers": {"Content-Encoding": "gzip"}}
    jpg, png = {"type": "image/jpeg"}, {"type": "image/png"}
    return [
        Oddity("slow.jpg", "A quokka on a slow line", KEPT_FOR_MODELS, quokka, {**jpg, "seconds": 1.5}),
        Oddity("hung-up.jpg", "Half a quokka", Reason.BODY_TRUNCATED, half, {**jpg, "promise": len(half)}),
        Oddity("empty.jpg", "Nothing at all", Reason.EMPTY_BODY, b"", jpg),
        Oddity("not-gzip.jpg", "A quokka, packed badly", Reason.BAD_ENCODING, b"\x1f\x8bnot gzip at all" * 9, packed),
        Oddity("gzip-bomb.jpg", "A very long story", Reason.BODY_TOO_LARGE, bomb, packed),
        Oddity("truncated.jpg", "The upper half of a quokka", Reason.DECODE_TRUNCATED, half, jpg),
        Oddity("corrupt.png", "A damaged picture", Reason.DECODE_ERROR, _corrupt(photo("museum-chelsea")), png),
        Oddity("bomb.png", "A tiny file with huge ambitions", Reason.TOO_MANY_PIXELS, _huge_png(), png),
    ]


def _pictures(photo: Callable[[str], Image.Image]) -> list[Oddity]:
    """Pictures in unusual formats and shapes; some of them are perfectly good."""
    astronaut, rocket, pagoda = photo("museum-astronaut"), photo("museum-rocket"), photo("museum-pagoda")
    exif = Image.Exif()
    exif[_ORIENTATION] = 6  # stored lying on its side, shown turned by 90 degrees
    turned = jpeg(ImageOps.mirror(pagoda).rotate(90, expand=True), exif=exif)
    deep = Image.fromarray(np.asarray(ImageOps.mirror(astronaut).convert("L"), np.uint16) * 257)
    cmyk = jpeg(ImageOps.mirror(rocket).convert("CMYK"))
    clear = ImageOps.mirror(photo("museum-chelsea")).convert("RGBA")
    clear.putalpha(Image.radial_gradient("L").resize(clear.size).point(lambda value: 255 - value))
    frames = [rocket.resize((320, 214)).point(lambda value, step=step: min(value + step, 255)) for step in (0, 9, 18)]
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="600"><circle r="90" cx="300" cy="300"/></svg>\n'
    png = {"type": "image/png"}
    jpg = {"type": "image/jpeg"}
    return [
        Oddity("thumbnail.jpg", "A tiny pagoda", Reason.TOO_SMALL, jpeg(pagoda.resize((120, 80))), jpg, size=(120, 80)),
        Oddity("banner.jpg", "A very wide pagoda", Reason.BAD_ASPECT, jpeg(pagoda.resize((1800, 300))), jpg),
        Oddity("moving.gif", "A rocket, moving", Reason.ANIMATED, _gif(frames), {"type": "image/gif"}),
        Oddity("drawing.svg", "A black disc", Reason.UNSUPPORTED_FORMAT, svg, {"type": "image/svg+xml"}),
        Oddity("rotated.jpg", "A pagoda photographed with the camera on its side", KEPT_FOR_MODELS, turned, jpg),
        Oddity("deep.png", "Black and white portrait of a smiling astronaut", KEPT_FOR_MODELS, _png(deep), png),
        Oddity("print.jpg", "A rocket on its launch pad, prepared for print", KEPT_FOR_MODELS, cmyk, jpg),
        Oddity("clear.png", "A tabby cat fading into white", KEPT_FOR_MODELS, _png(clear), png),
        Oddity("grey.png", "A plain grey wall", KEPT_FOR_MODELS, _png(Image.new("RGB", (640, 640), "#808080")), png),
    ]


def _captions(photo: Callable[[str], Image.Image]) -> list[Oddity]:
    """Rows whose text or scores decide, or whose text must not break anything."""
    image, route = photo("museum-coffee"), {"type": "image/jpeg"}
    return [
        Oddity("no-caption.jpg", "", Reason.BAD_CAPTION, jpeg(image.rotate(2)), route),
        Oddity("unsafe.jpg", "Not for everybody", Reason.UNSAFE, jpeg(image.rotate(4)), route, punsafe=0.97),
        Oddity("unrated.jpg", "Nobody rated this", Reason.UNSAFE, jpeg(image.rotate(6)), route, punsafe=None),
        Oddity(
            "markup.jpg",
            '<script>alert("coffee")</script> A cup & saucer =SUM(A1)',
            KEPT_FOR_MODELS,
            jpeg(ImageOps.mirror(image.rotate(3, expand=False)).crop((40, 20, 560, 380))),
            route,
        ),
    ]


def jpeg(image: Image.Image, **options: object) -> bytes:
    """Encode as JPEG of quality 90; options as Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _gif(frames: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    frames = [frame.quantize(64, Image.Quantize.FASTOCTREE) for frame in frames]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)
    return buffer.getvalue()


def _crop(image: Image.Image) -> Image.Image:
    """Drop a margin of a twentieth on every side."""
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


def _corrupt(image: Image.Image) -> bytes:
    """A PNG whose header chunk fails its checksum."""
    data = bytearray(_png(image))
    data[29] ^= 0xFF  # first byte of the CRC after IHDR: 8 signature, 8 length and type, 13 content
    return bytes(data)


def _huge_png() -> bytes:
    """A PNG of a hundred bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(64))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
