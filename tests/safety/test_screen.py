"""At the entrance: what is listed or was taken down is refused before it is decoded, shown or written.

Real files over real HTTP on loopback, real decoder processes.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hostile_web import HostileWeb, answer
from PIL import Image

from l2i_builder.config import Config
from l2i_builder.errors import ConfigError
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.ledger import read_ledger
from l2i_builder.output.tombstones import Identifier, Takedowns, write_takedowns
from l2i_builder.safety.pdq import decode_with_pdq
from l2i_builder.sample import Batch, Reason, Row, sample_key
from l2i_builder.source.source import UrlSource

SIZE = {"size": 64, "min_size": 16, "workers": 1}


def scene(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    scene(seed).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(seed) for seed in range(3)]
PAGES = {f"/{i}.png": answer(body, 200, "Content-Type: image/png") for i, body in enumerate(PICTURES)}


def fetched(out: Path, **safety: object) -> tuple[list[Row], Batch, list[str]]:
    """Fetch the three pictures; return rows, batch and the paths that were asked for."""
    with HostileWeb(PAGES) as web:
        config = Config(out=str(out), image=SIZE, fetch={"connect_to": web.connect_to, "retries": 0}, safety=safety)
        source = UrlSource(config)
        try:
            urls = [web.url(page) for page in PAGES]
            rows = [Row(sample_key(url, "x"), url, "x", 0, i) for i, url in enumerate(urls)]
            (batch,) = source.batches_of(rows, InputShard(0, (), {}, 3))
        finally:
            source.close()

        return rows, batch, [visit.path for visit in web.visits]


def reasons(rows: list[Row]) -> list[str]:
    return [row.reason for row in rows]


def listing(path: Path, *lines: str) -> list[str]:
    path.write_text("\n".join(lines))
    return [str(path)]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_listed_file_is_unsafe_and_its_pixels_are_never_handed_out(tmp_path: Path, kind: str) -> None:
    digest = hashlib.new(kind, PICTURES[1]).hexdigest()
    rows, batch, _ = fetched(tmp_path / "out", **{f"{kind}_lists": listing(tmp_path / "l.txt", digest)})
    assert reasons(rows) == ["", "unsafe", ""]
    assert rows[1].detail == f"on a blocklist ({kind})"
    assert batch.live.tolist() == [0, 2]
    assert len(batch.image) == 2


def test_a_picture_that_looks_like_a_listed_one_is_unsafe(tmp_path: Path) -> None:
    smaller = io.BytesIO()
    scene(1).resize((180, 180)).save(smaller, "JPEG", quality=80)
    pdq = decode_with_pdq(smaller.getvalue(), Config(image=SIZE).image).pdq
    rows, batch, _ = fetched(tmp_path / "out", pdq_lists=listing(tmp_path / "l.txt", pdq))
    assert reasons(rows) == ["", "unsafe", ""]
    assert rows[1].detail.startswith("on a blocklist (pdq, ")
    assert rows[1].stage == "decode"
    assert batch.live.tolist() == [0, 2]


def test_what_was_taken_down_is_not_even_fetched(tmp_path: Path) -> None:
    log = Takedowns()
    log.add([Identifier("url", "http://web.test/1.png")])
    (tmp_path / "out").mkdir()
    write_takedowns(str(tmp_path / "out"), log)
    rows, batch, asked = fetched(tmp_path / "out")
    assert reasons(rows) == ["", "taken_down", ""]
    assert asked == ["/0.png", "/2.png"]
    assert batch.live.tolist() == [0, 2]


def test_the_file_of_a_taken_down_sample_is_refused_under_any_link(tmp_path: Path) -> None:
    log = Takedowns()
    log.add([Identifier("sha256", hashlib.sha256(PICTURES[2]).hexdigest())])
    (tmp_path / "other").mkdir()
    write_takedowns(str(tmp_path / "other"), log)
    rows, batch, _ = fetched(tmp_path / "out", takedown_logs=[str(tmp_path / "other/takedowns.jsonl")])
    assert reasons(rows) == ["", "", "taken_down"]
    assert batch.live.tolist() == [0, 1]


def test_a_log_that_is_missing_or_damaged_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        fetched(tmp_path / "out", takedown_logs=[str(tmp_path / "absent.jsonl")])
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="damaged"):
        fetched(tmp_path / "out", takedown_logs=[str(tmp_path / "bad.jsonl")])


def test_nothing_of_an_unsafe_picture_reaches_the_output(tmp_path: Path) -> None:
    """Not even where a stage were to leave pixels, a preview or features of it, and it is in the audit slice."""
    row = Row("ab" * 16, "http://a.test/1.jpg", "x", 0, 0, audit=True)
    row.refuse(Reason.UNSAFE, "nsfw", "score 0.99")
    batch = Batch([row], np.empty(0, np.int64), 1)
    batch.triplets[row.key] = dict.fromkeys(("jpg", "fg.png", "bg.jpg", "mask.png", "txt", "json"), b"pixels")
    batch.previews[row.key] = b"pixels"
    batch.features = {"mask": {row.key: np.ones(2, np.float32)}}
    commit_shard(str(tmp_path), InputShard(0, (), {}, 1), Config(out=str(tmp_path)), [batch], {}, "run")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "ledger/00000.parquet",
        "manifests/00000.json",
        "stats/00000.json",
    ]
    assert read_ledger(str(tmp_path / "ledger/00000.parquet"))["reason"].to_pylist() == ["unsafe"]
