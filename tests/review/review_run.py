"""An output folder whose samples have real layers, committed as a build commits them; scores are drawn by a seed."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from samples import fill_of, scene, soft_mask

from l2i_builder import storage
from l2i_builder.config import Config, Previews
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.output.shards import encode_members
from l2i_builder.report.strip import make_strip
from l2i_builder.sample import Batch, Reason, Row

MASK, INPAINTING = 0.4, 0.5  # thresholds
HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    '"><svg onload="window.hacked = 3">',
    "abc \u202egnp.exe\u202c \x1b[31mred\x1b[0m nul \x00 \ufeff",
    "javascript:window.hacked=4 ${window.hacked=5} {{7*7}}",
    "wide" * 800,
    "../../../../etc/passwd",
)
DETAIL = "<img src=x onerror='window.hacked = 6'> \x1b[31m"


def write_run(
    out: str,
    shards: int = 2,
    rows: int = 40,
    finished: int | None = None,
    audit_rate: float = 0.25,
    size: int = 64,
    judges: bool = True,
    previews: bool = True,
) -> Config:
    """Write a run, the first ``finished`` shards of which are committed (None = all); return its configuration."""
    config = Config.model_validate(
        {
            "metadata": _write_metadata(f"{out}-metadata.parquet", shards * rows),
            "out": out,
            "image": {"size": size},
            "ingest": {"rows_per_shard": rows, "audit_rate": audit_rate},
            "judge": {
                "mask": {"enabled": judges, "threshold": MASK},
                "inpainting": {"enabled": judges, "threshold": INPAINTING},
            },
            "previews": {"side": 48, "rejected_per_shard": 400 * previews, "kept_per_shard": 100 * previews},
        }
    )
    plan = planning.plan(config)
    run = RunManifest.of(config, plan.digest, {})
    claim(config.out, run)
    storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
    for shard in plan.shards[:finished]:
        commit(config, shard, run.digest)
    return config


def commit(config: Config, shard: InputShard, run_digest: str) -> None:
    """Commit one shard: six in ten masks are good, two in three of their backgrounds."""
    rows = planning.read_rows(shard, config)
    batch = Batch(rows, np.empty(0, np.int64), shard.rows)
    rng = np.random.default_rng(shard.number)
    for row in rows:
        _live(batch, row, config, rng)
    commit_shard(config.out, shard, config, [batch], {"attempt": 1, "start_time": 1.0}, run_digest)


def _live(batch: Batch, row: Row, config: Config, rng: np.random.Generator) -> None:
    draw, seed = rng.random(), int(rng.integers(1 << 20))
    if not row.kept:
        return
    if draw < 0.1:
        row.refuse(Reason.HTTP_4XX, "fetch", "404")
        return
    size = config.image.size
    image, mask = scene(seed, size), soft_mask(seed, size)
    row.mask_area, row.mask_components = float((mask > 127).mean()), 1
    if draw < 0.15:
        row.refuse(Reason.MASK_EMPTY, "segment", DETAIL)
    elif config.judge.mask.enabled:
        row.mask_score, row.mask_head = float(np.float32(rng.random())), "mask-v7"
        if row.mask_score < MASK:
            row.refuse(Reason.MASK_REJECTED, "judge_mask", f"score under {MASK} {DETAIL}")
    background = None
    if row.kept or (row.audit and row.stage == "judge_mask"):
        background = fill_of(image, mask, config)
        if config.judge.inpainting.enabled:
            row.inpainting_score, row.inpainting_head = float(np.float32(rng.random())), "inpainting-v7"
            if row.inpainting_score < INPAINTING:
                row.refuse(Reason.INPAINTING_REJECTED, "judge_inpainting", f"score under {INPAINTING}")
        batch.triplets[row.key] = encode_members(row, image, mask, background, config)
    if config.previews.rejected_per_shard:
        batch.previews[row.key] = make_strip(image, mask, background, Previews(side=config.previews.side))
    if not row.kept and not row.audit:
        batch.triplets.pop(row.key, None)


def _write_metadata(url: str, rows: int) -> str:
    table = {
        "URL": [
            f"https://<b>host{i}</b>.test/{i}.jpg" if i % 7 == 3 else f"https://a.test/{i}.jpg" for i in range(rows)
        ],
        "TEXT": [f"{HOSTILE[i // 2 % len(HOSTILE)]} {i}" if i % 2 else f"a harbour, no. {i}" for i in range(rows)],
        "punsafe": [0.9 if i % 19 == 18 else 0.01 for i in range(rows)],
    }
    file = io.BytesIO()
    pq.write_table(pa.table(table), file)
    storage.write_bytes(url, file.getvalue())
    return url
