"""Wait until the Ray cluster at RAY_ADDRESS has so many nodes: ``python -m pipelines.clusters.wait 3``.

A build decides its layout once, from the nodes it finds; what starts one waits for its workers first.
"""

from __future__ import annotations

import argparse
import sys
import time

from l2i_builder.config import Config
from l2i_builder.errors import ClusterError

PAUSE = 2.0  # seconds between two looks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", type=int)
    parser.add_argument("--timeout", type=float, default=600, help="seconds; then exit status 8")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.timeout
    found = -1
    while found < arguments.nodes and time.monotonic() < end:
        time.sleep(PAUSE if found >= 0 else 0)
        found = nodes(end)
    sys.stderr.write(f"{found} of {arguments.nodes} nodes are there\n")
    return 0 if found >= arguments.nodes else ClusterError.exit_code


def nodes(end: float) -> int:
    """Return how many nodes are alive; waits for the head until ``end`` (monotonic seconds)."""
    import ray

    from l2i_builder.run.connection import start_ray

    while True:
        try:
            start_ray(Config())
        except ClusterError:
            if time.monotonic() > end:
                raise
            time.sleep(PAUSE)
        else:
            break
    try:
        return sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
