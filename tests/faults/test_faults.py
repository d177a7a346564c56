"""A round of the fault matrix for each kind that ``tests/run`` does not see, and nodes that differ."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from l2i_builder import storage
from l2i_builder.configfile import load_config
from l2i_builder.errors import ClusterError
from l2i_builder.run.connection import check_shared_output, start_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
KINDS = ["commit", "loss of a node", "memory", "pressure", "two drivers", "write", "full disk", "unsteady", "damaged"]


def test_nothing_is_lost_doubled_torn_or_different():
    command = [sys.executable, str(Path(__file__).with_name("matrix.py")), "--rounds", str(len(KINDS))]
    done = subprocess.run([*command, "--seed", "7", "--only", *KINDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(KINDS)
    for kind, *cells in lines:
        if len(cells) == 1:
            assert "namespaces" in cells[0], (kind, cells)  # the one that some machines cannot do
        else:
            assert int(cells[1]) > 0, f"{kind}: nothing was hit"


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster whose second node has no credentials for object stores."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    bare = {name: "" for name in os.environ if name.startswith("AWS_") and "ENDPOINT" not in name}
    cluster.add_node(**options, env_vars=bare)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_cannot_read_the_output_is_named(s3_folder, two_nodes, tmp_path):
    storage.write_bytes(f"{s3_folder}/run.json", b"{}")
    with pytest.raises(ClusterError, match=r"1 of 2 nodes cannot read (?s:.*)credentials"):
        check_shared_output(s3_folder)
    with pytest.raises(ClusterError, match=r"2 of 2 nodes cannot read (?s:.*)no such folder(?s:.*)all nodes share"):
        check_shared_output(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    check_shared_output(str(tmp_path))


def test_a_cluster_that_happens_to_run_here_is_not_joined_unasked(two_nodes):
    ray.shutdown()
    own = start_ray(load_config(None, ["cluster.cpus=3", "cluster.object_store_gb=0.3"]))
    assert own["CPU"] == 3
    assert ray.get_runtime_context().gcs_address != two_nodes.address
