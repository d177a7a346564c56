"""Formats for a triplet's members, on the triplets of a finished run: bytes, time, and what is lost.

    python -m benchmarks.members --out runs/sample --photographs runs/sample-web/photos

Each format encodes the same pixels. I is decoded anew from the photographs where they are at hand; B is I outside the
hole, and as stored inside. Encoded by OpenCV and decoded by Pillow, as the project does (``output/codecs.py``), one
thread, CPU time, least of the rounds. PSNR and SSIM are against the pixels given to the encoder, for F where m is above
the threshold; *exact* says how far F is from the stored I there, or B outside the hole: the invariants of a shard.
Derived: F is not stored, but cut from I with m by the reader.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image as Pillow

from l2i_builder import layers
from l2i_builder.config import Config
from l2i_builder.decode.decoder import decode as decode_photo
from l2i_builder.output.codecs import jpeg, png
from l2i_builder.output.shards import open_triplets

T = TypeVar("T")

RULE = Config().layers
BLOCK = 512  # of a tar: a header of one, the content filled up to whole ones


@dataclass(frozen=True)
class Pixels:
    """One triplet before encoding, uint8; ``stored``: I as its JPEG is read back."""

    image: np.ndarray
    stored: np.ndarray
    background: np.ndarray
    mask: np.ndarray
    hole: np.ndarray


@dataclass(frozen=True)
class Format:
    """encode: uint8 array to bytes; b"" where nothing is stored (``derived``)."""

    name: str
    encode: Callable[[np.ndarray], bytes]
    derived: bool = False


@dataclass
class Line:
    """Means over triplets. bytes: in a tar; ms: CPU; exact: largest difference in levels."""

    member: str
    format: str
    bytes: float
    encode_ms: float
    decode_ms: float
    psnr: float
    ssim: float
    exact: int


def webp(quality: int) -> Callable[[np.ndarray], bytes]:
    """quality above 100: lossless."""

    def encode(pixels: np.ndarray) -> bytes:
        done, data = cv2.imencode(".webp", _bgr(pixels), [cv2.IMWRITE_WEBP_QUALITY, quality])
        assert done
        return data.tobytes()

    return encode


def _bgr(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)


def _png(pixels: np.ndarray) -> bytes:
    return png(_bgr(pixels))


def _jpeg(quality: int) -> Callable[[np.ndarray], bytes]:
    return lambda pixels: jpeg(pixels, quality)


FORMATS = {
    "image": [Format("JPEG q95", _jpeg(95)), Format("JPEG q90", _jpeg(90)), Format("WebP q90", webp(90))],
    "foreground": [
        Format("PNG", _png),
        Format("WebP lossless", webp(101)),
        Format("WebP q90", webp(90)),
        Format("JPEG q95 + mask", _jpeg(95)),
        Format("derived", lambda _: b"", derived=True),
    ],
    "background": [
        Format("JPEG q95", _jpeg(95)),
        Format("JPEG q90", _jpeg(90)),
        Format("WebP q90", webp(90)),
        Format("WebP lossless", webp(101)),
        Format("PNG", _png),
    ],
    "mask": [Format("PNG", _png), Format("WebP lossless", webp(101))],
}
# the first of each list is what shards hold; other wholes worth a look: member -> format
WHOLES = {
    "as stored": {},
    "F WebP lossless": {"foreground": "WebP lossless"},
    "F and mask WebP lossless": {"foreground": "WebP lossless", "mask": "WebP lossless"},
    "F derived": {"foreground": "derived"},
    "F derived, mask WebP lossless": {"foreground": "derived", "mask": "WebP lossless"},
    "F derived, I and B JPEG q90": {"image": "JPEG q90", "foreground": "derived", "background": "JPEG q90"},
}


def triplets(out: str, photographs: Path, limit: int) -> Iterator[Pixels]:
    """Yield the pixels of a run's samples."""
    for number, triplet in enumerate(open_triplets(sorted(str(path) for path in Path(out, "shards").glob("*.tar")))):
        if number == limit:
            return
        photo = photographs / str(triplet.info["url"]).rpartition("/")[2]
        image = decode_photo(photo.read_bytes(), Config().image).image if photo.is_file() else triplet.image
        hole = layers.hole(triplet.mask, RULE.foreground_threshold, RULE.dilate)
        background = np.where(hole[..., None], triplet.background, image)
        stored = _decoded(jpeg(image, 95), image)
        yield Pixels(image, stored, background, triplet.mask, hole)


def measure(member: str, form: Format, pixels: list[Pixels], rounds: int) -> Line:
    found = [_one(member, form, one, rounds) for one in pixels]
    sizes, encoded, decoded, psnr, ssim, exact = zip(*found, strict=True)
    means = [statistics.fmean(values) for values in (sizes, encoded, decoded, psnr, ssim)]
    return Line(member, form.name, *means, max(exact))


def _one(member: str, form: Format, pixels: Pixels, rounds: int) -> tuple[float, float, float, float, float, int]:
    given = _given(member, pixels)
    encode_ms, data = _timed(lambda: form.encode(given), rounds)
    if form.derived:
        decode_ms, read = _timed(lambda: _front(pixels.stored, pixels.mask), rounds)
    else:
        decode_ms, read = _timed(lambda: _decoded(data, given), rounds)
    size = BLOCK + -(-len(data) // BLOCK) * BLOCK if data else 0
    where = pixels.mask > RULE.foreground_threshold * 255 if member == "foreground" else np.ones(given.shape[:2], bool)
    original = _front(pixels.image, pixels.mask) if member == "foreground" else given
    return (
        size,
        encode_ms,
        decode_ms,
        _psnr(original, read, where),
        _ssim(original, read, where),
        _exact(member, pixels, read, where),
    )


def _given(member: str, pixels: Pixels) -> np.ndarray:
    if member == "foreground":
        return _front(pixels.stored, pixels.mask)
    return getattr(pixels, member)


def _front(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return layers.foreground(image, mask, RULE.foreground_threshold, RULE.foreground_fill)


def _decoded(data: bytes, like: np.ndarray) -> np.ndarray:
    with Pillow.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB" if like.ndim == 3 else "L"))


def _timed(work: Callable[[], T], rounds: int) -> tuple[float, T]:
    """Return CPU milliseconds, the least of all rounds, and what the work gave."""
    least = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        result = work()
        least = min(least, time.thread_time() - began)
    return least * 1e3, result


def _psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    error = (a[where].astype(np.float64) - b[where]) ** 2
    return min(99.0, float(10 * np.log10(255**2 / max(error.mean(), 1e-12))))


def _ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Structural similarity of the lightness (Wang et al. 2004: Gaussian window, sigma 1.5), mean over a region."""
    x, y = ((p if p.ndim == 2 else cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)).astype(np.float64) for p in (a, b))

    def blurred(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    mx, my = blurred(x), blurred(y)
    vx, vy, vxy = blurred(x * x) - mx * mx, blurred(y * y) - my * my, blurred(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    quotient = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(quotient[where].mean())


def _exact(member: str, pixels: Pixels, read: np.ndarray, where: np.ndarray) -> int:
    """Largest difference from I as stored: of F where it is cut, of B outside the hole; of a mask from itself."""
    if member == "mask":
        return int(cv2.absdiff(read, pixels.mask).max())
    if member == "background":
        where = ~pixels.hole
    if member == "image" or not where.any():
        return 0
    return int(np.abs(read[where].astype(int) - pixels.stored[where]).max())


def wholes(lines: Iterable[Line], samples: float) -> dict[str, dict[str, float]]:
    """Return the sums of whole triplets, by name; samples: bytes of caption and facts in a tar."""
    by_name = {(line.member, line.format): line for line in lines}
    found = {}
    for name, other in WHOLES.items():
        parts = [by_name[member, other.get(member, forms[0].name)] for member, forms in FORMATS.items()]
        found[name] = {
            "bytes": sum(part.bytes for part in parts) + samples,
            "encode_ms": sum(part.encode_ms for part in parts),
            "decode_ms": sum(part.decode_ms for part in parts),
        }
    return found


def show(lines: list[Line], whole: dict[str, dict[str, float]], count: int) -> None:
    print(f"{count} triplets")
    print(f"{'member':<12}{'format':<17}{'kB':>7}{'enc ms':>8}{'dec ms':>8}{'PSNR':>7}{'SSIM':>8}  exact")
    for line in lines:
        exact = "yes" if not line.exact else f"no, up to {line.exact}"
        print(
            f"{line.member:<12}{line.format:<17}{line.bytes / 1e3:>7.1f}{line.encode_ms:>8.2f}{line.decode_ms:>8.2f}"
            f"{line.psnr:>7.2f}{line.ssim:>8.4f}  {exact}"
        )
    first = next(iter(whole.values()))["bytes"]
    print(f"{'whole triplet':<32}{'kB':>8}{'share':>8}{'enc ms':>8}{'dec ms':>8}")
    for name, sums in whole.items():
        share = sums["bytes"] / first
        print(f"{name:<32}{sums['bytes'] / 1e3:>8.1f}{share:>8.3f}{sums['encode_ms']:>8.1f}{sums['decode_ms']:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/sample", help="output folder of a finished run")
    parser.add_argument("--photographs", type=Path, default=Path("runs/sample-web/photos"), help="its source pictures")
    parser.add_argument("--limit", type=int, default=-1, help="only the first so many triplets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three triplets, once")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args()
    if args.quick:
        args.limit, args.rounds = 3, 1
    cv2.setNumThreads(1)
    pixels = list(triplets(args.out, args.photographs, args.limit))
    lines = [measure(member, form, pixels, args.rounds) for member, forms in FORMATS.items() for form in forms]
    whole = wholes(lines, 2 * 2 * BLOCK + BLOCK)  # caption in a block, facts in two, and a header each
    show(lines, whole, len(pixels))
    if args.json:
        facts = {"triplets": len(pixels), "members": [vars(line) for line in lines], "wholes": whole}
        args.json.write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
