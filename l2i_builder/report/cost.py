"""What a run took: busy seconds, bytes and dollars, of each stage and for each kept sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2i_builder.report.aggregate import Aggregate
from l2i_builder.report.options import Prices
from l2i_builder.run.resources import MODEL_STAGES

STAGES = ("fetch", "decode", "segment", "judge_mask", "inpaint", "judge_inpainting", "encode")
FOLDERS = ("shards", "audit", "previews", "features", "ledger")  # that are counted as stored


def summarize_cost(counted: Aggregate, stored: Mapping[str, int], prices: Prices) -> dict[str, Any]:
    """Return seconds, bytes and dollars. stored: folder -> bytes of the finished shards.

    An hour of a stage is an hour in which one of its actors was busy: of a GPU for the models where ``prices.gpu``
    is given, else of a CPU. Waiting and start-up are not in it.
    """
    kept = counted.counts["", ""]
    moved = {"fetch": counted.fetched_bytes, "encode": sum(stored.values())}
    stages: list[dict[str, Any]] = []
    for stage in [*STAGES, *sorted(set(counted.seconds) - set(STAGES))]:
        if stage not in counted.seconds and not moved.get(stage):
            continue
        seconds, images = counted.seconds[stage], counted.images[stage]
        on_gpu = stage in MODEL_STAGES and prices.gpu is not None
        dollars = seconds / 3600 * (prices.gpu if on_gpu and prices.gpu is not None else prices.cpu)
        stages.append(
            {
                "stage": stage,
                "seconds": seconds,
                "share": _ratio(seconds, sum(counted.seconds.values())),
                "images": images,
                "per_image": _ratio(seconds, images),
                "per_kept": _ratio(seconds, kept),
                "bytes": moved.get(stage, 0),
                "bytes_per_kept": _ratio(moved.get(stage, 0), kept),
                "gpu": on_gpu,
                "dollars": dollars,
                "dollars_per_kept": _ratio(dollars, kept),
            }
        )
    dollars = sum(line["dollars"] for line in stages)
    total, size = sum(counted.seconds.values()), sum(stored.values())
    return {
        "stages": stages,
        "seconds": total,
        "per_kept": _ratio(total, kept),
        "dollars": dollars,
        "dollars_per_kept": _ratio(dollars, kept),
        "prices": {"cpu_hour": prices.cpu, "gpu_hour": prices.gpu, "gb_month": prices.storage},
        "fetched": {
            "bytes": counted.fetched_bytes,
            "bodies": counted.fetched_rows,
            "per_body": _ratio(counted.fetched_bytes, counted.fetched_rows),
            "per_kept": _ratio(counted.fetched_bytes, kept),
        },
        "stored": {folder: count for folder, count in stored.items() if count},
        "stored_per_kept": _ratio(stored.get("shards", 0), kept),
        "storage_month": size / 1e9 * prices.storage,
    }


def _ratio(part: float, whole: float) -> float:
    """Return part / whole, 0 where there is no whole."""
    return part / whole if whole else 0.0
