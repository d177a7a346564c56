"""The sample's metadata in the shape of LAION-Aesthetics, and the web that stands behind its links.

Scores and sizes of links that lead nowhere are made up: similarity, punsafe, pwatermark, aesthetic and hash are
fixed numbers drawn from each row's key, in the ranges LAION's own have. No model computed them.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder.sample import Reason, key_fraction, sample_key
from pipelines.sample_laion.oddities import KEPT_FOR_MODELS, Oddity, oddities
from pipelines.sample_laion.photos import Photo, write_atomic

HOSTS = {  # first word of a photograph's file name -> where it is published
    "wild": "photos.l2i.test",
    "world": "photos.l2i.test",
    "farm": "farm.l2i.test",
    "museum": "museum.l2i.test",
    "sea": "cdn.l2i.test",
    "texture": "cdn.l2i.test",
}
CLOSED = "closed.l2i.test"  # refuses connections
SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("similarity", pa.float32()),
        ("hash", pa.int64()),
        ("punsafe", pa.float32()),
        ("pwatermark", pa.float32()),
        ("aesthetic", pa.float32()),
    ],
    metadata={"l2i_builder.sample": "scores are made up; see pipelines/sample_laion"},
)


@dataclass(frozen=True)
class Link:
    """One row of the metadata, and the reason it must end with ("" = it reaches the models)."""

    url: str
    caption: str
    width: int
    height: int
    punsafe: float | None
    reason: str


def write_metadata(folder: Path, photos: list[Photo]) -> int:
    """Write ``metadata.parquet``, ``web.json``, ``expected.json`` and ``odd/`` beside the photographs.

    Returns the number of rows. Does nothing when the same photographs were written up before by the same code.
    """
    stamp = _stamp(photos)
    web = folder / "web.json"
    if _complete(folder, web, stamp):
        return int(pq.read_metadata(folder / "metadata.parquet").num_rows)
    odd = oddities(folder / "photos")
    (folder / "odd").mkdir(exist_ok=True)
    for case in odd:
        if case.body:
            (folder / "odd" / case.name).write_bytes(case.body)
    links = _links(photos, odd)
    pq.write_table(pa.Table.from_pylist([_columns(link) for link in links], schema=SCHEMA), folder / "metadata.parquet")
    _write_json(folder / "expected.json", [{"url": link.url, "reason": link.reason} for link in links])
    hosts = sorted({*HOSTS.values(), *(case.host for case in odd), "broken-tls.l2i.test"})
    _write_json(web, {"stamp": stamp, "hosts": hosts, "closed": [CLOSED], "routes": _routes(photos, odd)})
    return len(links)


def _complete(folder: Path, web: Path, stamp: str) -> bool:
    """Whether ``folder`` holds everything that ``stamp`` stands for. ``web.json`` is written last."""
    if not web.is_file():
        return False
    written = json.loads(web.read_text(encoding="utf-8"))
    files = [route["file"] for route in written["routes"].values() if "file" in route]
    return written["stamp"] == stamp and all((folder / name).is_file() for name in ["metadata.parquet", *files])


def _stamp(photos: list[Photo]) -> str:
    """Digest of everything the files depend on: the photographs and the code that writes them up."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(repr(photo).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _links(photos: list[Photo], odd: list[Oddity]) -> list[Link]:
    """All rows: photographs and oddities take turns, so that every part of a run meets both."""
    good = [Link(_url(photo), photo.caption, photo.width, photo.height, 0.001, KEPT_FOR_MODELS) for photo in photos]
    # Right behind their originals: found as duplicates however the rows are cut into shards.
    again = [
        Link(good[0].url, good[0].caption, good[0].width, good[0].height, 0.001, Reason.DUPLICATE),
        Link(
            good[0].url.replace("/photos/", "/mirror/"),
            "The same picture on another page",
            good[0].width,
            good[0].height,
            0.001,
            Reason.DUPLICATE,
        ),
    ]
    odd_links = [
        Link(case.url or f"http://{case.host}/odd/{case.name}", case.caption, *case.size, case.punsafe, case.reason)
        for case in odd
        if case.listed
    ]
    rest, every = good[1:], max(1, len(good) // (len(odd_links) + 1))
    mixed = [good[0], *again]
    while rest or odd_links:
        mixed += rest[:every] + odd_links[:1]
        rest, odd_links = rest[every:], odd_links[1:]
    return mixed


def _url(photo: Photo) -> str:
    return f"http://{HOSTS[photo.file.partition('-')[0]]}/photos/{photo.file}"


def _columns(link: Link) -> dict[str, object]:
    key = sample_key(link.url, link.caption)
    return {
        "URL": link.url,
        "TEXT": link.caption,
        "WIDTH": link.width,
        "HEIGHT": link.height,
        "similarity": 0.28 + 0.1 * key_fraction(key, "similarity"),
        "hash": int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), signed=True),
        "punsafe": link.punsafe,
        "pwatermark": 0.3 * key_fraction(key, "pwatermark"),
        "aesthetic": 5 + 2 * key_fraction(key, "aesthetic"),
    }


def _routes(photos: list[Photo], odd: list[Oddity]) -> dict[str, dict]:
    """What the web answers: path -> route, see ``web._Handler``."""
    routes: dict[str, dict] = {}
    for photo in photos:
        kind = mimetypes.guess_type(photo.file)[0] or "image/webp"
        routes[f"/photos/{photo.file}"] = {"file": f"photos/{photo.file}", "type": kind}
    first = photos[0].file
    routes[f"/mirror/{first}"] = routes[f"/photos/{first}"]
    for case in odd:
        if not case.url:
            routes[f"/odd/{case.name}"] = {**case.route, **({"file": f"odd/{case.name}"} if case.body else {})}
    return routes


def _write_json(path: Path, content: object) -> None:
    write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
