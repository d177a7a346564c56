import pytest

from l2i_builder.configfile import load_config
from l2i_builder.errors import ClusterError
from l2i_builder.run.resources import MODEL_STAGES, ORDER, plan_layout

GPU_RUN = ["segment.backend=inspyrenet", "inpaint.backend=lama"]


def layout(resources, *overrides):
    return plan_layout(load_config(None, overrides), resources)


def test_a_laptop_gets_one_actor_a_cpu_that_runs_everything():
    result = layout({"CPU": 2, "memory": 16 * 2**30})
    assert [(g.stages, g.actors) for g in result.groups] == [(ORDER, 2)]
    assert result.fetchers == 1
    assert sum(g.actors * g.cpus for g in result.groups) + result.fetcher_cpus <= 2


def test_one_cpu_is_enough():
    assert layout({"CPU": 1}).groups[0].actors == 1


def test_memory_limits_the_actors_of_a_wide_machine():
    assert layout({"CPU": 64, "memory": 34 * 2**30}).groups[0].actors == 15


def test_gpus_get_one_fused_actor_each_and_cpus_encode():
    result = layout({"CPU": 96, "GPU": 8, "memory": 700 * 2**30}, *GPU_RUN)
    models, encode = result.groups
    assert (models.stages, models.actors, models.gpus) == (MODEL_STAGES, 8, 1)
    assert encode.stages == ["encode"]
    assert result.fetchers == 4
    assert result.window == 24
    assert result.shards_in_flight == 5


def test_gpus_stay_free_when_no_model_can_use_them():
    assert layout({"CPU": 8, "GPU": 1}).groups[0].gpus == 0


def test_groups_from_the_configuration_are_kept_and_zeros_filled_in():
    groups = (
        "cluster.groups=[{stages: [segment, judge_mask], actors: 3}, {stages: [inpaint, judge_inpainting, encode]}]"
    )
    first, second = layout({"CPU": 8}, groups).groups
    assert (first.actors, second.actors) == (3, 4)


def test_further_layers_need_the_models_in_one_actor():
    split = "cluster.groups=[{stages: [segment, judge_mask], actors: 3}, {stages: [inpaint, judge_inpainting, encode]}]"
    with pytest.raises(ClusterError, match=r"one of cluster\.groups must hold all of segment, judge_mask"):
        layout({"CPU": 8}, "layers.count=3", split)
    assert layout({"CPU": 8}, "layers.count=3").groups
    assert layout({"CPU": 96, "GPU": 8}, "layers.count=3", *GPU_RUN).groups[0].stages == MODEL_STAGES


def test_undecided_groups_share_the_cpus():
    groups = "cluster.groups=[{stages: [segment, judge_mask]}, {stages: [inpaint, judge_inpainting, encode]}]"
    assert [group.actors for group in layout({"CPU": 8.5}, groups).groups] == [4, 4]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.groups=[{stages: [inpaint, segment]}]", "in this order"),
        ("cluster.groups=[{stages: [segment, judge_mask, inpaint, judge_inpainting]}]", "each stage once"),
        (f"cluster.groups=[{{stages: [{', '.join(ORDER)}], actors: 9}}]", "want 9.5 CPUs"),
        (f"cluster.groups=[{{stages: [{', '.join(ORDER)}], actors: 1, gpus: 1}}]", "1 GPUs; the cluster has 8 and 0"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_in_words(override, words):
    with pytest.raises(ClusterError, match=words):
        layout({"CPU": 8}, override)
