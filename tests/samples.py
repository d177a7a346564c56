"""Samples and output folders for tests: pictures, soft masks, batches, and a folder as a finished run leaves it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from laion import laion, write
from toy import KIND

from l2i_builder import layers, storage
from l2i_builder.config import Config
from l2i_builder.ingest import planning
from l2i_builder.output.commit import commit_shard
from l2i_builder.output.manifest import RunManifest, claim
from l2i_builder.output.shards import encode_members, wids_index
from l2i_builder.report.strip import make_strip
from l2i_builder.sample import Batch, Reason, Row, sample_key

SHARED_DATA = Path(os.environ.get("L2I_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def noise(seed: int, size: int = 64) -> np.ndarray:
    """uint8 [size, size, 3], every pixel random: the hardest picture for a JPEG."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def scene(seed: int, size: int = 64) -> np.ndarray:
    """uint8 [size, size, 3], smooth shapes with grain, like a photo."""
    random = np.random.default_rng(seed)
    coarse = cv2.resize(random.uniform(0, 255, (5, 5, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + random.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)


def soft_mask(seed: int, size: int = 64) -> np.ndarray:
    """uint8 [size, size], blobs with soft edges."""
    coarse = np.random.default_rng(seed).uniform(-1, 1, (4, 4))
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(127 + 400 * smooth, 0, 255).astype(np.uint8)


def photos(count: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos and masks of the shared data (see ``L2I_SHARED_DATA``); skips the test where there are none."""
    folder = SHARED_DATA / "ecssd-300"
    if not (folder / "images").is_dir():
        pytest.skip("runs where L2I_SHARED_DATA points to a folder with ecssd-300/images and ecssd-300/masks")
    pairs = []
    for path in sorted((folder / "images").iterdir())[:count]:
        mask = next((folder / "masks").glob(f"{path.stem}.*"))
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        soft = cv2.GaussianBlur(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), (0, 0), 3)
        pairs.append((cv2.resize(image, (size, size)), cv2.resize(soft, (size, size))))
    return pairs


def fill_of(image: np.ndarray, mask: np.ndarray, config: Config) -> np.ndarray:
    """A background: the image, and something else in the hole."""
    hole = layers.hole(mask, config.layers.foreground_threshold, config.layers.dilate)
    return np.where(hole[..., None], 255 - image, image)


def row_of(index: int = 0, shard: int = 0, **fields: Any) -> Row:
    url, caption = f"http://a.test/{shard}/{index}.jpg", f"caption {shard}/{index}"
    return Row(sample_key(url, caption), url, caption, shard, index, punsafe=0.01, **fields)


def members_of(row: Row, config: Config, seed: int = 0) -> dict[str, bytes]:
    image, mask = scene(seed, config.image.size), soft_mask(seed, config.image.size)
    return encode_members(row, image, mask, fill_of(image, mask, config), config)


def describe_mask(row: Row, mask: np.ndarray, config: Config) -> None:
    """Enter what the segment stage measures of a mask."""
    rule = config.layers
    row.mask_area, row.mask_components = float((mask > 127).mean()), layers.components(mask)
    row.hole_area = float(layers.hole(mask, rule.foreground_threshold, rule.dilate).mean())


def small(metadata: Path | str, out: Path | str, **keys: Any) -> Config:
    """A configuration with 64-pixel images and ten rows a shard."""
    return Config(
        metadata=str(metadata),
        out=str(out),
        image={"size": 64},
        ingest={"rows_per_shard": 10, "audit_rate": 0},
        **{"previews": {"side": 32}, **keys},
    )


def preview(seed: int) -> bytes:
    return bytes(cv2.imencode(".webp", scene(seed, 16))[1])


def strip_of(seed: int, config: Config) -> bytes:
    """The preview of the sample of that seed."""
    image, mask = scene(seed, config.image.size), soft_mask(seed, config.image.size)
    return make_strip(image, mask, fill_of(image, mask, config), config.previews)


def processed(rows: Sequence[Row], config: Config, batch_rows: int = 4) -> list[Batch]:
    """Batches as the last stage leaves them. Of ten rows, 3 is a bad mask, 5 a 404, 7 an audited bad inpainting."""
    batches = []
    for start in range(0, len(rows), batch_rows):
        batch = Batch(list(rows[start : start + batch_rows]), np.empty(0, np.int64), len(rows))
        batch.seconds, batch.images = {"segment": 0.5}, {"segment": 3}
        for row in batch.rows:
            seed = row.shard * 1000 + row.index
            row.audit = row.index % 10 == 7
            if row.index % 10 == 5:
                row.refuse(Reason.HTTP_4XX, "fetch", "404")
                continue
            row.mask_score, row.mask_head = 0.25 if row.index % 10 == 3 else 0.75, "toy-1"
            describe_mask(row, soft_mask(seed, config.image.size), config)
            batch.features.setdefault("mask", {})[row.key] = np.array([row.mask_score, seed], np.float32)
            batch.feature_kinds = {"mask": KIND, "inpainting": KIND}
            batch.previews[row.key] = strip_of(seed, config)
            if row.index % 10 == 3:
                row.refuse(Reason.MASK_REJECTED, "judge_mask")
                continue
            row.inpainting_score, row.inpainting_head = 0.8, "toy-1"
            if row.index % 10 == 7:
                row.inpainting_score = 0.1
                row.refuse(Reason.INPAINTING_REJECTED, "judge_inpainting")
            batch.features.setdefault("inpainting", {})[row.key] = np.array([row.inpainting_score, 0], np.float32)
            batch.triplets[row.key] = members_of(row, config, seed)
        batches.append(batch)
    return batches


def finished_run(metadata: Path | str, out: Path | str, rows: int = 25, **keys: Any) -> Config:
    """Write metadata of ``rows`` rows and the output folder of a finished run over them; return its configuration."""
    write(storage.join(str(metadata), "a.parquet"), laion(rows))
    config = small(metadata, out, **keys)
    plan = planning.plan(config)
    run = RunManifest.of(config, plan.digest, {"u2net": "0" * 64})
    claim(config.out, run)
    storage.write_bytes(storage.join(config.out, "input.json"), plan.to_json())
    for shard in plan.shards:
        batches = processed(planning.read_rows(shard, config), config)
        commit_shard(config.out, shard, config, batches, {"attempt": 1, "start_time": 1.0}, run.digest)
    storage.write_bytes(storage.join(config.out, "index.json"), wids_index(config.out))
    return config
