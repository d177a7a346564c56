"""A local Ray is quiet, and what cannot be joined or shared is said."""

import time

import psutil
import pytest
import ray

from l2i_builder.configfile import load_config
from l2i_builder.errors import ClusterError
from l2i_builder.run.connection import check_shared_output, start_ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    start_ray(load_config(None, ["cluster.cpus=2", "cluster.object_store_gb=0.3"]))
    yield
    ray.shutdown()


def test_a_local_ray_has_no_process_that_reads_the_workers_logs():
    def runs(name):
        living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        return any(name in " ".join(child.cmdline()) for child in living)

    deadline = time.monotonic() + 30
    while runs("log_monitor.py") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs("log_monitor.py")
    assert runs("gcs_server")


def test_one_node_needs_no_shared_folder(tmp_path):
    check_shared_output(str(tmp_path))


def test_a_client_address_is_refused_with_the_way_out():
    with pytest.raises(ClusterError, match="ray job submit"):
        start_ray(load_config(None, ["cluster.address='ray://head:10001'"]))
