"""A finished (or half-finished) output folder, made in a second: real metadata, ingest, ledgers and commits; what
the web and the models would have said is drawn from a seeded generator."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.config import Config, Previews
from l2i_builder.ingest.planning import InputPlan, InputShard, plan, read_rows
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.output.shards import MEMBERS
from l2i_builder.report.strip import make_strip
from l2i_builder.sample import Batch, Reason, Row

MASK_THRESHOLD, INPAINTING_THRESHOLD = 0.437, 0.55
BATCH = 50  # rows
WEIGHTS = {"u2net": "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491", "mask-v1": "5b" * 32}

WORDS = (
    "a quiet harbour at dusk with wooden boats",
    "portrait of an old lighthouse keeper",
    "red panda on a mossy branch",
    "handmade ceramic bowl, blue glaze",
    "vintage bicycle against a brick wall",
    "two children flying a kite",
    "snow leopard resting on a rock",
    "espresso cup on a marble table",
)
HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    "</script><script>window.hacked = 3</script>",
    '"><svg onload="window.hacked = 4">',
    "{{ 7 * 7 }}{% raw %} ${window.hacked = 5} javascript:window.hacked=6",
    "abc \u202egnp.exe\u202c and \u2066isolate\u2069 \u200bzero width \ufeff",
    "ANSI \x1b[31mred\x1b[0m bell \x07 nul \x00 vertical \x0b tab\tnew\nline",
    "https://evil.test/\"onmouseover='window.hacked=7'",
    "=cmd|' /C calc'!A0",
    "long " + "wide" * 2000,
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "日本語のキャプション、絵文字 🦊🌊 والعربية",
)
FAILURES = (
    (Reason.HTTP_4XX, "fetch", "404 Not Found", 0.13),
    (Reason.DNS_ERROR, "fetch", "no such host", 0.09),
    (Reason.TIMEOUT, "fetch", "no answer within 30 s", 0.05),
    (Reason.SSRF_BLOCKED, "fetch", "10.0.0.7 is private", 0.01),
    (Reason.NOT_IMAGE, "decode", "text/html: <html><script>window.hacked = 8</script>", 0.04),
    (Reason.DECODE_TRUNCATED, "decode", "image file is truncated (12 bytes not processed)", 0.02),
    (Reason.TOO_SMALL, "decode", "180x240", 0.05),
    (Reason.OPTED_OUT, "fetch", "x-robots-tag: noai", 0.01),
    (Reason.STAGE_ERROR, "inpaint", "ValueError: \x1b[31mboom\x1b[0m", 0.01),
)


def write_run(
    out: str,
    shards: int = 4,
    rows: int = 300,
    seed: int = 0,
    finished: int | None = None,
    keep: bool = True,
    hostile: bool = True,
    previews: bool = True,
    judges: bool = True,
    audit_rate: float = 0.05,
) -> Config:
    """Write a run of ``shards`` shards with ``rows`` rows each, the first ``finished`` of them committed.

    keep=False: every mask is rejected. judges=False: nothing is scored. Returns the run's configuration.
    """
    rng = np.random.default_rng(seed)
    settings = {"enabled": judges}
    config = Config.model_validate(
        {
            "metadata": _write_metadata(f"{out}-metadata.parquet", shards * rows, hostile, rng),
            "out": out,
            "ingest": {"rows_per_shard": rows, "audit_rate": audit_rate, "filter": {"min_aesthetic": 4.5}},
            "judge": {
                "mask": settings | {"threshold": MASK_THRESHOLD if keep else 1.0},
                "inpainting": settings | {"threshold": INPAINTING_THRESHOLD},
            },
            "previews": {"rejected_per_shard": 60 * previews, "kept_per_shard": 40 * previews},
        }
    )
    planned = plan(config)
    run = RunManifest.of(config, planned.digest, WEIGHTS)
    claim(out, run)
    storage.write_bytes(storage.join(out, "input.json"), planned.to_json())
    for shard in planned.shards[: shards if finished is None else finished]:
        _commit(config, shard, run.digest, np.random.default_rng([seed, shard.number]))
    return config


def planned(out: str) -> InputPlan:
    return InputPlan.from_json(storage.read_bytes(storage.join(out, "input.json")))


def _write_metadata(url: str, rows: int, hostile: bool, rng: np.random.Generator) -> str:
    hosts = [f"img{n}.photos.test" for n in range(30)] + [
        "CDN.Example.test:8080",
        "user:secret@shop.test",
        "[2001:db8::7]",
    ]
    weights = 1 / np.arange(1, len(hosts) + 1)
    chosen = rng.choice(hosts, size=rows, p=weights / weights.sum())
    table = {
        "URL": [f"https://{host}/photo/{i}.jpg?size=large" for i, host in enumerate(chosen)],
        "TEXT": [f"{WORDS[i % len(WORDS)]}, no. {i}" for i in range(rows)],
        "WIDTH": rng.integers(300, 2400, rows),
        "HEIGHT": rng.integers(300, 2400, rows),
        "aesthetic": rng.normal(5.4, 0.6, rows),
        "punsafe": rng.beta(0.3, 20, rows),
    }
    if hostile:
        for i, text in enumerate(HOSTILE * 8):
            table["TEXT"][(i * 13 + 5) % rows] = f"{text} {i}"
        table["URL"][3 % rows] = "javascript:window.hacked=9"
        table["URL"][7 % rows] = "https://<img src=x onerror=window.hacked=10>\u202e.test/a"
    file = io.BytesIO()
    pq.write_table(pa.table(table), file)
    storage.write_bytes(url, file.getvalue())
    return url


def _commit(config: Config, shard: InputShard, run_digest: str, rng: np.random.Generator) -> None:
    rows = read_rows(shard, config)
    batches = []
    for start in range(0, len(rows), BATCH):
        batch = Batch(rows[start : start + BATCH], np.arange(0))
        batch.shard_rows = shard.rows
        for row in batch.rows:
            _live(row, config, rng)
            _draw(batch, row, config, rng)
        scored = sum(row.mask_area != -1 for row in batch.rows)
        inpainted = sum(row.inpainting_score != -1 for row in batch.rows)
        for stage, images, each in (
            ("fetch", len(batch.rows), 0.05),
            ("decode", scored, 0.004),
            ("segment", scored, 0.076),
            ("judge_mask", scored, 0.02),
            ("inpaint", inpainted, 0.61),
            ("judge_inpainting", inpainted, 0.02),
            ("encode", inpainted, 0.03),
        ):
            batch.seconds[stage], batch.images[stage] = images * each * rng.uniform(0.9, 1.1), images
        batches.append(batch)
    stats = {"attempt": 1 + (shard.number == 1), "start_time": 0.0, "end_time": 60.0}
    commit_shard(config.out, shard, config, batches, stats, run_digest)


def _live(row: Row, config: Config, rng: np.random.Generator) -> None:
    """Give a row the life that fetch, decode and models would have given it."""
    dead_host = "img3." in row.url
    for reason, stage, detail, chance in FAILURES:
        if rng.random() < chance * (4 if dead_host and stage == "fetch" else 1) and row.kept:
            row.refuse(reason, stage, detail)
    if not row.kept and row.stage != "inpaint":
        return
    row.status, row.bytes, row.format = 200, int(rng.integers(20_000, 900_000)), "JPEG"
    row.original_width, row.original_height = row.width, row.height
    quality = rng.random()
    row.mask_area = float(np.clip(rng.beta(1.6, 3.2), 0, 1))
    row.hole_area, row.mask_components = min(1.0, row.mask_area * 1.2), int(1 + rng.poisson(2 * (1 - quality)))
    if row.mask_area < config.layers.min_area * 5:
        row.refuse(Reason.MASK_EMPTY, "segment", f"mask covers {row.mask_area:.2%}")
        return
    if not config.judge.mask.enabled:
        return
    row.mask_score = float(np.float32(np.clip(0.75 * quality + 0.35 * rng.beta(2, 2) - 0.08, 0.001, 0.999)))
    row.mask_head = "mask-v1"
    if row.mask_score < config.judge.mask.threshold:
        row.refuse(Reason.MASK_REJECTED, "judge_mask", f"score under {config.judge.mask.threshold:.3f}")
        if not row.audit:
            return
    row.inpainting_score = float(np.float32(np.clip(0.4 * quality + 0.7 * rng.beta(2.5, 2) - 0.1, 0.001, 0.999)))
    row.inpainting_head = "inpainting-v1"
    if row.inpainting_score < config.judge.inpainting.threshold:
        row.refuse(Reason.INPAINTING_REJECTED, "judge_inpainting", f"score under {config.judge.inpainting.threshold}")


def _draw(batch: Batch, row: Row, config: Config, rng: np.random.Generator) -> None:
    """Members as committed (the report never opens them) and the strip of any sample that has a mask."""
    if row.kept or (row.audit and row.inpainting_score != -1):
        batch.triplets[row.key] = dict.fromkeys(MEMBERS, b"-")
    if row.mask_area != -1:
        batch.previews[row.key] = strip(
            int(rng.integers(48)), row.kept or row.inpainting_score != -1, config.previews.side
        )


@cache
def strip(seed: int, inpainted: bool, side: int) -> bytes:
    image, mask, background = picture(seed)
    return make_strip(image, mask, background if inpainted else None, Previews(side=side))


def picture(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A landscape with something round in it: image, soft mask and background, uint8, 192 x 192."""
    rng = np.random.default_rng(seed)
    side = 192
    y, x = np.mgrid[0:side, 0:side] / side
    sky, ground = rng.uniform(120, 240, 3), rng.uniform(40, 150, 3)
    horizon = rng.uniform(0.45, 0.75) + 0.04 * np.sin(x * rng.uniform(4, 12) + rng.uniform(0, 6))
    background = np.where(
        (y < horizon)[..., None], sky * (0.7 + 0.4 * y[..., None]), ground * (0.6 + 0.5 * y[..., None])
    )
    background += cv2.GaussianBlur(rng.normal(0, 60, (side, side, 3)), (0, 0), 1.5)
    centre, radii = rng.uniform(0.35, 0.65, 2), rng.uniform(0.12, 0.3, 2)
    angle = np.arctan2(y - centre[1], x - centre[0])
    bumps = 1 + 0.15 * np.sin(angle * rng.integers(2, 6) + rng.uniform(0, 6))
    distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1]) / bumps
    mask = np.clip((1.05 - distance) * 12, 0, 1)
    shade = np.clip(1.2 - np.hypot(x - centre[0] + 0.08, y - centre[1] + 0.1) * 2.2, 0.2, 1.2)
    thing = rng.uniform(60, 255, 3) * shade[..., None] + cv2.GaussianBlur(rng.normal(0, 40, (side, side, 3)), (0, 0), 2)
    image = mask[..., None] * thing + (1 - mask[..., None]) * background
    return tuple(np.clip(a, 0, 255).astype(np.uint8) for a in (image, mask * 255, background))
