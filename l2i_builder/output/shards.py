"""Shards: samples as members of a tar, and the tar as bytes that any webdataset reader takes.

A sample is six adjacent members: image, foreground, background, mask, caption and facts. JPEGs are 4:4:4. F is
cut from the *decoded* image and the hole ends on the JPEG block grid, so what is read back keeps F == I where
m > threshold and B == I outside the hole, exactly, under any one decoder of the JPEGs (F: Pillow's).

Where ``layers.count`` is above 2, every sample has three more members for each further object, F, m and what is
behind it, which keep the same towards the background before; an object that was not found is empty (docs/layers.md).
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import IO, Any, TypeVar

import cv2
import numpy as np

from l2i_builder import layers, storage
from l2i_builder.config import Config
from l2i_builder.errors import OutputError
from l2i_builder.output.codecs import decode, jpeg, png
from l2i_builder.output.ledger import further_facts, plain
from l2i_builder.sample import UNKNOWN, Row, Triplet

T = TypeVar("T")

MEMBERS = ("jpg", "fg.png", "bg.jpg", "mask.png", "txt", "json")  # of a sample, in order
KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")
REBUILD = "Delete the shard's manifest and run the build again: it is made anew."
_SUFFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MAX_MEMBER = 256 * 2**20  # bytes; a larger member is damage, not a sample

# Facts in a sample's JSON that are fields of its Row. Position in the ledger: shard and index.
_ROW_FACTS = (
    *("key", "url", "caption", "shard", "index", "sha256", "bytes", "content_type", "opt_out", "format"),
    *("original_width", "original_height", "image_notes", "language"),
    *("aesthetic", "similarity", "punsafe", "pwatermark"),
    *("mask_area", "hole_area", "mask_components", "mask_score", "inpainting_score", "mask_head", "inpainting_head"),
    *("audit", "verdict", "reason"),
)


def member_names(layers: int = 2) -> tuple[str, ...]:
    """Return the members of every sample of a run, in order; layers: its ``layers.count``."""
    return MEMBERS + tuple(name for number in range(2, layers) for name in further_names(number))


def further_names(number: int) -> tuple[str, str, str]:
    """The members of the so-manieth object: F, m, and what is behind it."""
    return f"fg{number}.png", f"mask{number}.png", f"bg{number}.jpg"


def encode_members(
    row: Row,
    image: np.ndarray,
    mask: np.ndarray,
    background: np.ndarray,
    config: Config,
    further: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> dict[str, bytes]:
    """Return a sample's members, suffix -> bytes, in the order in which they are stored.

    image, background: uint8 [H, W, 3], sRGB; mask: uint8 [H, W], the soft mask scaled to 0..255. H and W are
    multiples of 8. Outside the hole the background is taken from the image. further: mask and background of each
    further object, front to back. Raises ValueError on other shapes.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape != background.shape:
        raise ValueError(f"image {image.dtype} {image.shape} and background {background.shape} are no uint8 [H, W, 3]")
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise ValueError(f"mask {mask.dtype} {mask.shape} does not fit the image {image.shape}")
    stored = jpeg(image, config.shards.jpeg_quality)
    front, filled, behind = _cut(image, stored, mask, background, config)
    members = {
        "jpg": stored,
        "fg.png": _foreground_png(front),
        "bg.jpg": behind,
        "mask.png": png(mask),
        "txt": row.caption.encode("utf-8", "replace"),
        "json": b"",
    }
    stack = [(front, mask)]
    for number, (m, further_background) in enumerate(further, start=2):
        front, filled, behind = _cut(filled, behind, m, further_background, config)
        members.update(zip(further_names(number), (_foreground_png(front), png(m), behind), strict=True))
        stack.append((front, m))
    for number in range(2 + len(further), config.layers.count):
        empty = _empty_layer(mask.shape, config.layers.foreground_fill)
        members.update(zip(further_names(number), (*empty, behind), strict=True))
    info = sample_info(row, image.shape, config)
    if config.layers.count > 2:
        flat = layers.flatten([np.dstack(pair) for pair in stack], decode(behind, "RGB"))
        info["composite_error"] = layers.difference(flat, decode(stored, "RGB"))
    members["json"] = json.dumps(info, ensure_ascii=True, allow_nan=False).encode()
    return members


def _cut(
    image: np.ndarray, stored: bytes, mask: np.ndarray, background: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Cut an object off an image, whose JPEG is ``stored``: F, and the background as pixels and as JPEG."""
    rule = config.layers
    hole = layers.hole(mask, rule.foreground_threshold, rule.dilate)
    foreground = layers.foreground(decode(stored, "RGB"), mask, rule.foreground_threshold, rule.foreground_fill)
    filled = cv2.copyTo(background, hole.view(np.uint8), image.copy())
    return foreground, filled, jpeg(filled, config.shards.jpeg_quality)


def _foreground_png(foreground: np.ndarray) -> bytes:
    return png(cv2.cvtColor(foreground, cv2.COLOR_RGB2BGR))


@cache
def _empty_layer(shape: tuple[int, int], fill: tuple[int, int, int]) -> tuple[bytes, bytes]:
    """F and m of an object that is not there."""
    return png(np.full((*shape, 3), fill[::-1], np.uint8)), png(np.zeros(shape, np.uint8))


def sample_info(row: Row, shape: tuple[int, ...], config: Config) -> dict[str, Any]:
    """Return a sample's facts: the same keys and types in every sample, sentinels for what is unknown.

    Readers infer a schema from the first few samples: a null, or an int where others have a float, breaks them.
    Where ``layers.count`` is above 2 there are facts of the further objects, and ``composite_error``.
    """
    from l2i_builder.fetch.guard import redact

    facts = plain(row)
    facts["url"] = redact(facts["url"])
    info = {name: facts[name] for name in _ROW_FACTS}
    info |= {
        "width": int(shape[1]),
        "height": int(shape[0]),
        "foreground_threshold": float(config.layers.foreground_threshold),
        "dilate": int(config.layers.dilate),
        "jpeg_quality": int(config.shards.jpeg_quality),
        "segmenter": config.segment.backend,
        "inpainter": config.inpaint.backend,
    }
    if config.layers.count > 2:
        info |= further_facts(row, config.layers.count) | {"composite_error": float(UNKNOWN)}
    return info


def amend_info(data: bytes, row: Row) -> bytes:
    """Return a sample's JSON with the facts of its row as they are now; the same facts give the same bytes."""
    facts = plain(row)
    info = json.loads(data)
    return json.dumps(info | {name: facts[name] for name in _ROW_FACTS}, ensure_ascii=True, allow_nan=False).encode()


def info_types(count: int = 2) -> dict[str, type]:
    """Return the type of every key of a sample's JSON; count: ``layers.count``."""
    config = Config.model_validate({"layers": {"count": count}})
    example = sample_info(Row("", "", "", 0, 0), (0, 0, 3), config)
    return {name: type(value) for name, value in example.items()}


def write_tar(samples: Iterable[tuple[str, Mapping[str, bytes]]], target: str | IO[bytes]) -> int:
    """Write samples (key, {suffix: bytes}) as an uncompressed tar, in the given order; return how many.

    The same samples give the same bytes: no times, no owners. Raises ValueError on a key that a loader could not
    split from its suffix, and on a key given twice.
    """
    if isinstance(target, str):
        with storage.create(target) as file:
            return write_tar(samples, file)
    keys: set[str] = set()
    written = 0
    for key, members in samples:
        if not KEY.fullmatch(key) or key in keys:
            raise ValueError(f"key {key!r} is {'given twice' if key in keys else 'no plain name'}")
        keys.add(key)
        pieces = []
        for suffix, data in members.items():
            entry = tarfile.TarInfo(f"{key}.{suffix}")
            entry.size, entry.mode = len(data), 0o644
            pieces += [entry.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)]
        block = b"".join(pieces)
        target.write(block)
        written += len(block)
    end = 2 * tarfile.BLOCKSIZE
    target.write(bytes(end + -(written + end) % tarfile.RECORDSIZE))
    return len(keys)


def read_members(url: str, file: IO[bytes] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {suffix: bytes}) of each sample of a tar, streaming; nothing is ever extracted to disk.

    ``file``: read from there; ``url`` then only names it. Raises OutputError on a damaged tar, a member that is no
    plain file, a name with a path, or a sample whose members are not adjacent.
    """
    return _samples(url, file, _content)


def index_tar(url: str, file: IO[bytes]) -> dict[str, dict[str, tuple[int, int]]]:
    """Return where the members of each sample lie: key -> suffix -> (offset, size). Checks as ``read_members``."""
    return dict(_samples(url, file, lambda _, entry: (entry.offset_data, entry.size)))


def _samples(
    url: str, file: IO[bytes] | None, take: Callable[[tarfile.TarFile, tarfile.TarInfo], T]
) -> Iterator[tuple[str, dict[str, T]]]:
    """Yield (key, {suffix: what ``take`` returns}) of each sample."""
    key = ""
    members: dict[str, T] = {}
    seen: set[str] = set()
    for name, value in _entries(url, file, take):
        stem, _, suffix = name.partition(".")
        if not KEY.fullmatch(stem) or not _SUFFIX.fullmatch(suffix):
            raise OutputError(f"{url} holds a member {name[:200]!r}, which is no sample's. Do not use this shard.")
        if stem != key:
            if members:
                yield key, members
            if stem in seen:
                raise OutputError(f"{url}: the members of {stem} are not adjacent, or it is there twice. {REBUILD}")
            seen.add(stem)
            key, members = stem, {}
        if suffix in members:
            raise OutputError(f"{url} holds {name!r} twice. {REBUILD}")
        members[suffix] = value
    if members:
        yield key, members


def _entries(
    url: str, file: IO[bytes] | None, take: Callable[[tarfile.TarFile, tarfile.TarInfo], T]
) -> Iterator[tuple[str, T]]:
    """Yield (name, what ``take`` returns) of a tar's members."""
    if file is None:
        with storage.open_read(url) as opened:
            yield from _entries(url, opened, take)
        return
    ending = _Ending(file)
    try:
        with tarfile.open(fileobj=ending, mode="r|") as tar:  # type: ignore[call-overload]
            for entry in tar:
                if not is_plain(entry, MAX_MEMBER):
                    raise OutputError(f"{url}: member {entry.name[:200]!r} is no file of a sample. {REBUILD}")
                yield entry.name, take(tar, entry)
        if not ending.marked():
            raise tarfile.ReadError("its end mark is missing")
    except (tarfile.TarError, OSError, EOFError, ValueError) as problem:
        raise OutputError(f"{url} is damaged or cut off: {problem}. {REBUILD}") from problem


def is_plain(entry: tarfile.TarInfo, largest: int) -> bool:
    """Whether a member is a file whose content lies in the tar as it is, and has at most ``largest`` bytes.

    A sparse one, of a few bytes, may read as very many, and not from where its header says.
    """
    return entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse() and 0 <= entry.size <= largest


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(entry)
    return content.read() if content else b""


class _Ending:
    """A file of which the last 1,024 bytes read are remembered.

    A tar ends with as many zeros; tarfile takes one that was cut between two members for whole.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.last = file, b""

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.last = (self.last + data)[-1024:]
        return data

    def marked(self) -> bool:
        """Read to the end; whether the end mark is there."""
        while self.read(storage.BLOCK):
            pass
        return self.last == bytes(1024)


def open_triplets(urls: str | Iterable[str]) -> Iterator[Triplet]:
    """Yield the samples of shards (paths or URLs of tars), decoded.

    Raises OutputError on a damaged shard or a sample that lacks a member or does not decode.
    """
    for url in [urls] if isinstance(urls, str) else urls:
        for key, members in read_members(url):
            yield decode_triplet(key, members, url)


def decode_triplet(key: str, members: Mapping[str, bytes], url: str) -> Triplet:
    """Decode one sample's members (see ``read_members``). Raises OutputError naming the member that is wrong."""
    missing = [suffix for suffix in MEMBERS if suffix not in members]
    if missing:
        raise OutputError(f"{url}: sample {key} lacks {', '.join(missing)}. {REBUILD}")
    suffix = ""
    try:
        arrays = []
        for suffix, mode in (("jpg", "RGB"), ("fg.png", "RGB"), ("bg.jpg", "RGB"), ("mask.png", "L")):
            arrays.append(decode(members[suffix], mode))
        suffix = "txt"
        caption = members["txt"].decode()
        suffix = "json"
        info = json.loads(members["json"])
        if not isinstance(info, dict):
            raise ValueError("is no JSON object")
    except Exception as problem:  # decoders raise nearly anything on damaged files
        raise OutputError(f"{url}: {key}.{suffix} does not decode: {problem}. {REBUILD}") from problem
    image, foreground, background, mask = arrays
    if not image.shape == foreground.shape == background.shape == (*mask.shape, 3):
        raise OutputError(f"{url}: the layers of {key} differ in size. {REBUILD}")
    return Triplet(key, caption, image, foreground, background, mask, info)


def wids_index(out: str) -> bytes:
    """Return the index of all finished shards that hold samples, as wids and this project's loader read it."""
    from l2i_builder.output.manifest import finished, pretty, whole_manifests

    shards = []
    for manifest in whole_manifests(out, sorted(finished(out))):
        name = f"shards/{manifest.name}.tar"
        if name in manifest.files:
            file = manifest.files[name]
            shards.append({"url": name, "md5sum": file["md5"], "nsamples": manifest.kept, "filesize": file["bytes"]})
    return pretty({"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "l2i", "shardlist": shards})
