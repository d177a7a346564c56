from dataclasses import replace

import pytest

from l2i_builder.errors import ConfigError
from model.study.plan import ARMS, DONE, IMAGE, Budget, Job, arm_config, jobs, read_budget


def test_a_job_never_begins_before_what_it_needs():
    begun = set()
    for job in jobs(Budget(seeds=3)):
        assert begun.issuperset(job.needs)
        begun.add(job.name)
    assert len(begun) == 1 + 3 * (len(ARMS) + 1)


def test_a_folder_keeps_its_budget(tmp_path):
    Budget(seeds=2).claim(tmp_path)
    Budget(seeds=2).claim(tmp_path)
    assert read_budget(tmp_path) == Budget(seeds=2)
    with pytest.raises(ConfigError, match="another budget"):
        Budget(seeds=3).claim(tmp_path)


def test_every_row_differs_from_the_first_in_one_thing(tmp_path):
    configs = {arm.name: arm_config(arm, Budget(), tmp_path / "seed-1", 1) for arm in ARMS}
    whole = configs["cat2i"]
    assert whole.data.shards.endswith("seed-1/labels/filtered")
    assert configs["unfiltered"].data.shards.endswith("seed-1/labels/unfiltered")
    assert configs["true-masks"].data.shards.endswith("seed-1/labels/true")
    for name in ("unfiltered", "true-masks"):
        assert configs[name].model_copy(update={"data": whole.data, "out": whole.out}) == whole
    assert not configs["no-sup"].autoencoder.image_head
    one = configs["no-sup"].autoencoder.model_copy(update={"image_head": True})
    assert one == whole.autoencoder
    for config in configs.values():
        assert (config.seed, config.noise, config.losses) == (1, whole.noise, whole.losses)


def test_the_fine_tuned_row_starts_from_the_image_model_and_takes_a_third_of_the_steps(tmp_path):
    arm = next(arm for arm in ARMS if arm.name == "sd-ae-unet-ft")
    config = arm_config(arm, replace(Budget(), diffusion_steps=900), tmp_path, 0)
    assert config.unet.init == "sd"
    assert config.unet.source == f"{tmp_path}/{IMAGE}/pipeline"
    assert config.text.encoder == f"{tmp_path}/{IMAGE}/pipeline/text_encoder"
    assert config.train_diffusion.steps == 300


def test_a_job_is_done_when_it_says_so(tmp_path):
    job = Job("seed-0/cat2i")
    assert not job.done(tmp_path)
    (tmp_path / job.name).mkdir(parents=True)
    (tmp_path / job.name / DONE).write_text("{}")
    assert job.done(tmp_path)
