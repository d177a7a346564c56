"""The trainers of toy scenes, on shards that a whole build wrote: fetched, segmented, judged, inpainted, encoded."""

from pathlib import Path

import pytest
from finished_toy import toy_run
from toy_training import quiet, tiny_config

from model.baselines import load_pipeline
from model.shard_set import find_shards
from model.train_autoencoder import train_autoencoder
from model.train_diffusion import train_diffusion


@pytest.mark.slow
def test_both_trainers_read_what_a_build_wrote(tmp_path: Path) -> None:
    out = tmp_path / "build"
    toy_run(tmp_path, out)
    assert sum(shard.samples for shard in find_shards(str(out))) >= 8
    config = tiny_config(str(out), tmp_path / "model", data={"holdout": 0.3})
    train_autoencoder(config, quiet())
    made = load_pipeline(train_diffusion(config, quiet()))(
        "a photograph", num_inference_steps=2, guidance_scale=1.0, images_per_prompt=2
    )
    assert made.composite.shape == (2, 3, 16, 16)
    assert made.mask is not None
    assert made.mask.shape == (2, 1, 16, 16)
