"""Ray itself: joining a cluster or starting a local one, and whether all its nodes can read the output folder."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.errors import ClusterError, L2IError

IDLE_MS = 600_000  # milliseconds a worker of a local Ray may wait for the next commit
# What a local Ray gathers for a dashboard that is not there: on two cores half a percent of all CPU time.
UNWATCHED = {
    "enable_metrics_collection": False,
    "event_stats": False,
    "task_events_report_interval_ms": 0,
    "debug_dump_period_milliseconds": 0,
}
NODE_SECONDS = 60.0  # in which a node has to say whether it can read the output folder


def start_ray(config: Config) -> dict[str, float]:
    """Connect to ``cluster.address`` or RAY_ADDRESS, or start a local Ray. Returns the cluster's resources.

    Raises ClusterError where none can be reached. Quiet: the driver draws what there is to see.
    """
    address = config.cluster.address or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise ClusterError(
            f"{address} is a Ray Client address, which cannot stream. Run the build on the cluster: `ray job submit -- "
            "l2i build ...`, or on its head node with RAY_ADDRESS=auto."
        )
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    if address:
        quiet.pop("include_dashboard")
        quiet["address"] = address
    else:
        store = config.cluster.object_store_gb * 2**30 or min(4 * 2**30, 0.15 * psutil.virtual_memory().total)
        # "local": a Ray that somebody else runs on this machine is not ours to join.
        quiet |= {"address": "local", "num_cpus": config.cluster.cpus or None}
        quiet["object_store_memory"] = int(max(store, 2**28))
        # Actors count as workers: with more of them than CPUs Ray ends an idle worker after a second, and each commit
        # starts another one, which imports everything again.
        quiet["_system_config"] = {"idle_worker_killing_time_threshold_ms": IDLE_MS, **UNWATCHED}
    try:
        ray.init(**quiet)
    except Exception as error:  # Ray also raises bare ones, as where a busy machine takes too long
        if not address:
            raise ClusterError(f"Cannot start a local Ray: {error}") from error
        raise ClusterError(
            f"Cannot reach the Ray cluster at {address}: {error}\n"
            "Is it running (`ray start --head` on its first machine)? Clusters ask for a token since Ray 2.60: set "
            "RAY_AUTH_MODE=token here too, with the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token."
        ) from error
    if not address:
        _end_log_monitor()
    return ray.cluster_resources()


def _end_log_monitor() -> None:
    """End the local Ray's process that looks into each worker's log ten times a second, to print it: ours are quiet."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(part.endswith("log_monitor.py") for part in child.cmdline()):
                child.terminate()


def check_shared_output(out: str) -> None:
    """Raise ClusterError where a node of the cluster cannot read the output folder, which must hold run.json."""
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(_trouble_reading)
    asked = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in nodes]
    answers = [ask.remote(storage.join(out, "run.json")) for ask in asked]
    troubles = []
    for address, answer in zip(nodes.values(), answers, strict=True):
        with suppress(RayError):  # a node that is going, or too busy to say: its actors will tell
            if trouble := ray.get(answer, timeout=NODE_SECONDS):
                troubles.append(f"{address}: {trouble}")
    if troubles:
        advice = (
            "Give every node its credentials (AWS_* variables, or a role) before `ray start`."
            if "://" in out
            else "Give OUT as a URL (s3://...), or on a file system that all nodes share."
        )
        listed = "\n  ".join(troubles[:5])
        raise ClusterError(f"{len(troubles)} of {len(nodes)} nodes cannot read {out}:\n  {listed}\n{advice}")


def _trouble_reading(url: str) -> str:
    try:
        return "" if storage.exists(url) else "there is no such folder"
    except L2IError as error:
        return str(error)
