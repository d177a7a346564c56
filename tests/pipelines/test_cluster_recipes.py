"""The cluster recipes, checked without a cluster: schemas, and whether the pools hold what a build would put there."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from l2i_builder.config import Config
from l2i_builder.configfile import changed_keys, load_config
from l2i_builder.run.resources import Layout, plan_layout

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "pipelines/clusters"
KUBERNETES = "1.30"

# Fields of ray.io/v1 (KubeRay's CRD reference), as far as the recipe could need them.
RAY_JOB = {"entrypoint", "backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
RAY_JOB |= {"rayClusterSpec", "submissionMode", "submitterPodTemplate", "runtimeEnvYAML", "suspend"}
RAY_CLUSTER = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
HEAD = {"rayStartParams", "template", "serviceType"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "numOfHosts"}


@pytest.fixture(scope="module")
def documents() -> dict[str, dict]:
    """kind -> document of the KubeRay recipe and its secret."""
    files = [CLUSTERS / "kuberay-secret.yaml", CLUSTERS / "kuberay-rayjob.yaml"]
    found = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return {document["kind"]: document for document in found}


@pytest.fixture(scope="module")
def job(documents) -> dict:
    return documents["RayJob"]["spec"]


def pods(job: dict) -> dict[str, dict]:
    """Group -> pod template; the head's group is "head"."""
    cluster = job["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}


def offered(job: dict) -> list[dict[str, float]]:
    """What each pod offers Ray: {"CPU", "GPU", "memory" in bytes}. The head first."""
    cluster = job["rayClusterSpec"]
    groups = [(cluster["headGroupSpec"], 1), *((group, group["replicas"]) for group in cluster["workerGroupSpecs"])]
    nodes = []
    for group, count in groups:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        asked, parameters = resources["requests"], group["rayStartParams"]
        cpus = float(parameters.get("num-cpus", asked["cpu"]))
        gpus = float(parameters.get("num-gpus", asked.get("nvidia.com/gpu", 0)))
        memory = 0.7 * float(asked["memory"].removesuffix("Gi")) * 2**30
        nodes += [{"CPU": cpus, "GPU": gpus, "memory": memory} for _ in range(count)]
    return nodes


def layout_on(config: Config, nodes: list[dict[str, float]]) -> Layout:
    """What a build would put on these nodes."""
    return plan_layout(config, {name: sum(node[name] for node in nodes) for name in ("CPU", "GPU", "memory")})


def assert_fits(layout: Layout, nodes: list[dict[str, float]]) -> None:
    """Every actor finds a node, those with GPUs first; none is split over two."""
    left = copy.deepcopy(nodes)
    actors = [(gpus, cpus) for _, count, cpus, gpus in layout.describe() for _ in range(count)]
    for gpus, cpus in sorted(actors, reverse=True):
        room = [node for node in left if node["GPU"] >= gpus and node["CPU"] >= cpus - 1e-9]
        assert room, f"no node for an actor of {cpus} CPUs and {gpus} GPUs"
        node = min(room, key=lambda node: node["GPU"])  # Ray, too, keeps work without GPUs off nodes that have some
        node["GPU"], node["CPU"] = node["GPU"] - gpus, node["CPU"] - cpus


def recipe_config(documents: dict, tmp_path: Path) -> Config:
    (tmp_path / "cluster.yaml").write_text(documents["ConfigMap"]["data"]["cluster.yaml"])
    return load_config(tmp_path / "cluster.yaml")


# --- KubeRay


def test_secret_and_configuration_are_valid_kubernetes_objects(documents):
    for kind in ("Secret", "ConfigMap"):
        kubernetes_validate.validate(documents[kind], KUBERNETES, strict=True)


@pytest.mark.parametrize("group", ["head", "cpu", "gpu"])
def test_every_pod_template_is_a_valid_pod(job, group):
    template = copy.deepcopy(pods(job)[group])
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group} | template.get("metadata", {})}
    kubernetes_validate.validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)


def test_a_pod_with_a_misspelt_field_would_be_found(job):
    template = copy.deepcopy(pods(job)["gpu"])
    template["spec"]["tolerationss"] = template["spec"].pop("tolerations")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_job_uses_fields_that_kuberay_has(documents, job):
    assert documents["RayJob"]["apiVersion"] == "ray.io/v1"
    cluster = job["rayClusterSpec"]
    assert job.keys() <= RAY_JOB
    assert cluster.keys() <= RAY_CLUSTER
    assert cluster["headGroupSpec"].keys() <= HEAD
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(text, str) for text in group["rayStartParams"].values())
    assert all(isinstance(text, str) for text in cluster["headGroupSpec"]["rayStartParams"].values())


def test_the_cluster_wants_a_token_and_is_the_locked_ray(job):
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"\nray=={cluster['rayVersion']} " in (ROOT / "requirements/lock.txt").read_text()


def test_the_pools_hold_the_layout_that_a_build_chooses(documents, job, tmp_path):
    nodes = offered(job)
    layout = layout_on(recipe_config(documents, tmp_path), nodes)
    models, encoders = layout.groups
    gpus = next(group["replicas"] for group in job["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
    assert models.actors == encoders.actors == gpus
    assert models.gpus == 1
    assert_fits(layout, nodes)


def test_the_model_actors_leave_no_cpu_of_the_gpu_pool_to_others(documents, job, tmp_path):
    models = layout_on(recipe_config(documents, tmp_path), offered(job)).groups[0]
    pool = [node for node in offered(job) if node["GPU"]]
    assert all((node["CPU"], node["GPU"]) == (models.cpus, models.gpus) for node in pool)


def test_the_configuration_is_that_of_the_repository_with_metrics_and_json(documents, tmp_path):
    ours = dict(changed_keys(recipe_config(documents, tmp_path)))
    theirs = dict(changed_keys(load_config(ROOT / "pipelines/cluster.yaml")))
    added = {key: value for key, value in ours.items() if key not in theirs}
    assert {key: ours[key] for key in theirs} == theirs
    assert added.keys() == {"observe.log_format", "observe.metrics_port", "observe.metrics_address"}
    port = added["observe.metrics_port"]
    head = documents["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert head["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert port in [one["containerPort"] for one in head["spec"]["containers"][0]["ports"]]


def test_the_entrypoint_is_a_build_with_the_mounted_configuration(documents, job):
    words = job["entrypoint"].split()
    assert words[:4] == ["l2i", "build", "-c", "/config/cluster.yaml"]
    assert {"--metadata", "--out"} < set(words)
    head = pods(job)["head"]["spec"]
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    assert volumes[mounts["/config"]]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]


def test_every_pod_has_the_credentials_no_root_and_the_same_image(documents, job):
    images = set()
    for template in pods(job).values():
        (container,) = template["spec"]["containers"]
        images.add(container["image"])
        assert container["envFrom"] == [{"secretRef": {"name": documents["Secret"]["metadata"]["name"]}}]
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert "/cache" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert len(images) == 1


def test_every_pod_has_probes_of_its_own_since_the_image_has_no_wget(job):
    ports = {"head": (8265, 6379), "cpu": (52365, 52365), "gpu": (52365, 52365)}
    for group, template in pods(job).items():
        (container,) = template["spec"]["containers"]
        probes = (container["readinessProbe"], container["livenessProbe"])
        assert tuple(probe["tcpSocket"]["port"] for probe in probes) == ports[group]
    assert "wget" not in (ROOT / "docker/Dockerfile").read_text()


def test_no_real_secret_is_in_the_recipe(documents):
    values = {name: value for name, value in documents["Secret"]["stringData"].items() if "KEY" in name}
    assert set(values.values()) == {"REPLACE_ME"}


def test_workers_may_be_on_spot_nodes_and_the_head_may_not(job):
    found = pods(job)
    clouds = {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type", "kubernetes.azure.com/scalesetpriority"}
    for group in ("cpu", "gpu"):
        assert clouds <= {one["key"] for one in found[group]["spec"]["tolerations"]}
    assert "nvidia.com/gpu" in {one["key"] for one in found["gpu"]["spec"]["tolerations"]}
    assert "tolerations" not in found["head"]["spec"]
    affinity = found["head"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = affinity["nodeSelectorTerms"]
    assert clouds <= {rule["key"] for rule in term["matchExpressions"]}
    assert {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn"}


# --- ray up


@pytest.fixture(scope="module")
def launcher() -> dict:
    return yaml.safe_load((CLUSTERS / "ray-up-aws.yaml").read_text())


def prepared(launcher: dict) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(launcher))
    validate_config(config)
    return config


def test_ray_accepts_the_launchers_file(launcher):
    config = prepared(launcher)
    assert set(config["available_node_types"]) == {"head", "cpu", "gpu"}


def test_ray_would_find_a_misspelt_key(launcher):
    with pytest.raises(Exception, match="max_workrs"):
        prepared(launcher | {"max_workrs": 3})


def test_the_launchers_nodes_hold_the_layout_that_a_build_chooses(launcher):
    types = launcher["available_node_types"]
    nodes = [
        {"CPU": kind["resources"]["CPU"], "GPU": kind["resources"]["GPU"], "memory": 2**36}
        for kind in types.values()
        for _ in range(kind.get("min_workers", 1))
    ]
    layout = layout_on(load_config(ROOT / "pipelines/cluster.yaml"), nodes)
    assert layout.groups[0].actors == types["gpu"]["min_workers"]
    assert_fits(layout, nodes)
    assert sum(kind.get("max_workers", 0) for kind in types.values()) == launcher["max_workers"]
    assert f"wait {len(nodes)}" in (CLUSTERS / "ray-up-aws.yaml").read_text()


def test_the_launchers_nodes_share_a_token_that_is_not_in_the_file(launcher):
    environment = [option for option in launcher["docker"]["run_options"] if option.startswith("--env")]
    assert "--env RAY_AUTH_MODE=token" in environment
    (path,) = [option.partition("RAY_AUTH_TOKEN_PATH=")[2] for option in environment if "TOKEN_PATH" in option]
    assert launcher["file_mounts"][path] == "~/.ray/auth_token"
    assert not any("RAY_AUTH_TOKEN=" in option for option in environment)


def test_only_the_gpu_pool_is_on_spot_instances(launcher):
    spot = {
        name: "InstanceMarketOptions" in kind["node_config"] for name, kind in launcher["available_node_types"].items()
    }
    assert spot == {"head": False, "cpu": False, "gpu": True}


# --- Slurm: run in test_slurm_recipe.py


def test_the_slurm_jobs_nodes_hold_the_layout_that_a_build_chooses():
    text = (CLUSTERS / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    node = {"CPU": float(asked["cpus-per-task"]), "GPU": float(asked["gpus-per-node"]), "memory": 2**36}
    nodes = [dict(node) for _ in range(int(asked["nodes"]))]
    layout = layout_on(load_config(ROOT / "pipelines/cluster.yaml"), nodes)
    assert layout.groups[0].actors == sum(one["GPU"] for one in nodes)
    assert_fits(layout, nodes)
    assert asked["signal"].startswith("B:USR1@")
    assert asked["open-mode"] == "append", "a requeued job goes on in the same log"


# --- docker compose: tests/docker/test_compose.py · ray job submit: test_ray_job.py


def test_the_guide_names_every_recipe():
    guide = (ROOT / "docs/clusters.md").read_text()
    for file in CLUSTERS.iterdir():
        if file.suffix in {".yaml", ".sbatch"}:
            assert file.name in guide
