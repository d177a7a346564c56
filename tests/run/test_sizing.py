"""The sizing page's numbers are the dry run's."""

import pytest

from l2i_builder.configfile import load_config
from l2i_builder.run.costmodel import assumed_rates, estimate
from l2i_builder.run.resources import ORDER, plan_layout
from l2i_builder.run.sizing import CPU_PRICE, GPU_PRICE, ON_GPUS, ROWS, on_cpus, on_gpus


def test_a_gpu_cluster_costs_what_the_dry_run_says():
    (size,) = on_gpus([8])
    config = load_config(None, ON_GPUS)
    layout = plan_layout(config, {"GPU": 8, "CPU": size.cpus})
    told = estimate(ROWS, assumed_rates(config, True), layout, GPU_PRICE, CPU_PRICE)
    assert (size.estimate.hours, size.estimate.dollars) == (told.hours, told.dollars)
    assert size.speed * told.hours * 3600 == pytest.approx(ROWS)


def test_every_gpu_has_a_model_actor_and_every_actor_a_place():
    for size in on_gpus():
        models, encoders = size.layout.groups
        assert models.actors == encoders.actors == size.gpus
        reserved = size.layout.fetchers * size.layout.fetcher_cpus + sum(g.actors * g.cpus for g in size.layout.groups)
        assert reserved <= size.cpus < reserved + 1


def test_on_cpus_one_actor_does_everything():
    for size in on_cpus():
        assert [group.stages for group in size.layout.groups] == [ORDER]
        assert size.layout.groups[0].actors >= size.cpus * 0.9


def test_more_machines_take_less_time_for_the_same_money():
    for sizes in (list(on_gpus([4, 8, 64])), list(on_cpus([16, 64, 1024]))):
        hours = [size.estimate.hours for size in sizes]
        assert hours == sorted(hours, reverse=True)
        dollars = [size.estimate.dollars for size in sizes]
        assert max(dollars) < 1.05 * min(dollars)
