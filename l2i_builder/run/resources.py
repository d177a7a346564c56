"""From what a cluster has to how many actors of each kind: the defaults of ``cluster.*``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from l2i_builder.config import Config, Group
from l2i_builder.errors import ClusterError

MODEL_STAGES = ["segment", "judge_mask", "inpaint", "judge_inpainting"]
ORDER = [*MODEL_STAGES, "encode"]
ACTOR_GB = 2.2  # memory of a CPU actor with all models loaded, U²-Net on ncnn among them
GPUS_PER_FETCHER = 2  # the slowest rows hold up a shard long after the others: docs/scale.md
CPUS_PER_FETCHER = 16
ENCODERS_PER_GPU = 1


@dataclass(frozen=True)
class Layout:
    """How a run is spread: every count decided."""

    fetchers: int
    fetcher_cpus: float
    groups: list[Group]
    window: int
    shards_in_flight: int

    def describe(self) -> list[tuple[str, int, float, float]]:
        """Return (stages, actors, CPUs each, GPUs each) of every pool, the source first."""
        pools = [("fetch + decode", self.fetchers, self.fetcher_cpus, 0.0)]
        return pools + [(" + ".join(g.stages), g.actors, g.cpus, g.gpus) for g in self.groups]


def plan_layout(config: Config, resources: Mapping[str, float]) -> Layout:
    """Fill in every 0 of ``cluster.*`` from the cluster's ``resources`` ({"CPU", "GPU", "memory" in bytes}).

    With GPUs all models share one actor per GPU (together they need under 3 GB) and encoding runs on CPUs.
    Without, one actor per CPU runs everything. Raises ClusterError where the cluster cannot hold the layout.
    """
    cluster = config.cluster
    cpus, gpus = resources.get("CPU", 0), int(resources.get("GPU", 0))
    fetchers = cluster.fetchers or max(1, -(-gpus // GPUS_PER_FETCHER) if gpus else int(cpus // CPUS_PER_FETCHER))
    groups = [group.model_copy() for group in cluster.groups] or _default_groups(config, cpus, gpus)
    _check_order(groups, config.layers.count)
    left = cpus - fetchers * cluster.fetcher_cpus - sum(group.actors * group.cpus for group in groups)
    undecided = [group for group in groups if not group.actors]
    for group in undecided:
        group.actors = _fit(group, left / len(undecided), gpus, resources)
    _check_fit(groups, fetchers * cluster.fetcher_cpus, cpus, gpus)
    models = max(group.actors for group in groups)
    window = cluster.window or 3 * models
    # A shard that is fetched is still being computed and committed while its fetch actor is at the next one.
    shards = cluster.shards_in_flight or fetchers + max(1, fetchers // 4)
    return Layout(fetchers, cluster.fetcher_cpus, groups, window, shards)


def _default_groups(config: Config, cpus: float, gpus: int) -> list[Group]:
    if gpus and (config.segment.backend == "inspyrenet" or config.inpaint.backend == "lama"):
        encoders = max(1, gpus * ENCODERS_PER_GPU)
        return [Group(stages=MODEL_STAGES, gpus=1, cpus=1), Group(stages=["encode"], actors=encoders, cpus=0.5)]
    # A fetch actor mostly waits for the network, so on a small machine every CPU still gets a model actor.
    share = 1.0 if cpus >= CPUS_PER_FETCHER else round(max(0.1, 1 - config.cluster.fetcher_cpus / max(cpus, 1)), 2)
    return [Group(stages=ORDER, cpus=share)]


def _check_order(groups: list[Group], layers: int) -> None:
    stages = [stage for group in groups for stage in group.stages]
    if stages != ORDER:
        raise ClusterError(f"cluster.groups must name each stage once, in this order: {', '.join(ORDER)}; got {stages}")
    if layers > 2 and not any(set(MODEL_STAGES) <= set(group.stages) for group in groups):
        raise ClusterError(
            "With layers.count above 2 a batch goes through the models several times, so one of cluster.groups must "
            f"hold all of {', '.join(MODEL_STAGES)}. Fuse them, or leave cluster.groups empty."
        )


def _fit(group: Group, cpus: float, gpus: int, resources: Mapping[str, float]) -> int:
    """Return how many actors of a group its share of the cluster allows, at least one."""
    if group.gpus:
        return max(1, int(gpus / group.gpus))
    by_cpu = int(cpus / group.cpus + 1e-6) if group.cpus else 1
    by_memory = resources.get("memory", float("inf")) / ((group.memory_gb or ACTOR_GB) * 2**30)
    return max(1, int(min(by_cpu, by_memory)))


def _check_fit(groups: list[Group], fetch_cpus: float, cpus: float, gpus: int) -> None:
    want_cpus = fetch_cpus + sum(group.actors * group.cpus for group in groups)
    want_gpus = sum(group.actors * group.gpus for group in groups)
    if want_cpus > cpus + 1e-6 or want_gpus > gpus + 1e-6:
        raise ClusterError(
            f"The actors of cluster.groups want {want_cpus:g} CPUs and {want_gpus:g} GPUs; the cluster has {cpus:g} "
            f"and {gpus}. Lower cluster.groups[*].actors or their shares, or leave actors at 0."
        )
