"""How long things take on the simulated cluster: drawn around the cost model's seconds, by a seeded generator."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from l2i_builder.config import Config
from l2i_builder.run.costmodel import Rates

DRAWS = 4096  # of batches and of waits, drawn once and used in turn
PROFILES = 64  # of a shard's fetching
SPREAD = 0.3  # sigma of the logarithm of a model's seconds for a batch of ``Timing.batch_rows``
TAKEN_FROM = 64  # rows to which SPREAD belongs: larger batches vary less

# The web: share of rows, median seconds, sigma of their logarithm. Assumed; a row that gives no connection or no
# complete answer takes every attempt to its time limit.
ANSWERED = (0.60, 0.6, 0.8)
REFUSED = (0.37, 0.35, 0.8)
NO_CONNECTION, NO_END = 0.025, 0.005
BACKOFF = 3.0  # seconds between the attempts at a row, in all

METADATA_SECONDS = 2.0  # until a shard's rows are read
GPU_LOAD, CPU_LOAD = 60.0, 4.0  # median seconds until a model actor, another actor is ready
COMMIT_SECONDS = 12.0  # median: tars of 1 GB at 100 MB/s, and a little


@dataclass(frozen=True)
class Rate:
    """How often things go wrong; per hour, or as a share."""

    actor_deaths: float = 0.01  # of the actors, an hour
    hangs: float = 0.02  # of those: they never answer again, until they are killed
    for_good: float = 0.02  # of those: Ray does not bring them back
    evictions: float = 1 / 24  # of the GPU nodes, an hour
    cpu_evictions: float = 0.0  # of the CPU nodes, an hour: on demand by default
    bad_streams: float = 0.002  # attempts whose source raises what may pass
    bad_batches: float = 1e-5  # calls to a model actor that raise
    bad_commits: float = 0.003  # commits that storage refuses


CALM = Rate(0, 0, 0, 0, 0, 0, 0, 0)


@dataclass
class Timing:
    """Draws of everything that takes time. seconds: group of stages -> seconds of a batch, kept: rows kept of it;
    fetched: seconds after a shard's start at which the rows of each batch are there, a list a profile; decode:
    seconds between two batches, at least."""

    seconds: dict[str, list[float]]
    kept: list[int]
    fetched: list[list[float]]
    decode: float
    restart: list[float]
    gpu_load: list[float]
    cpu_load: list[float]
    commit: list[float]
    absence: list[float]  # of an evicted node
    batch_rows: int

    @classmethod
    def of(cls, config: Config, rates: Rates, groups: list[list[str]], seed: int, shard_rows: int) -> Timing:
        """Draw for batches of ``cluster.batch_rows``; groups: the stages of each pool."""
        random, rows = np.random.default_rng(seed), config.cluster.batch_rows
        reaching = {stage: random.binomial(rows, min(share, 1.0), DRAWS) for stage, share in rates.reach.items()}
        sigma = SPREAD * (TAKEN_FROM / max(rows, TAKEN_FROM)) ** 0.5
        noise = random.lognormal(-(sigma**2) / 2, sigma, (len(groups), DRAWS))  # mean 1
        seconds = {
            "+".join(stages): (sum(reaching[s] * rates.seconds[s] for s in stages) * noise[place]).tolist()
            for place, stages in enumerate(groups)
        }
        profiles = [_fetching(random, config, shard_rows) for _ in range(PROFILES)]

        def wait(median: float, sigma: float = 0.3) -> list[float]:
            return random.lognormal(np.log(median), sigma, DRAWS).tolist()

        return cls(
            seconds,
            reaching["encode"].tolist(),
            profiles,
            rows * rates.reach["decode"] * rates.seconds["decode"],
            *(wait(5.0), wait(GPU_LOAD), wait(CPU_LOAD), wait(COMMIT_SECONDS), wait(300.0, 0.6)),
            rows,
        )


def _fetching(random: np.random.Generator, config: Config, rows: int) -> list[float]:
    """Return when each batch of a shard has all its bodies, and those of all earlier ones: rows are begun in order,
    ``fetch.concurrency`` at a time."""
    fetch = config.fetch
    kind = random.random(rows)
    ok, refused = (random.lognormal(np.log(median), sigma, rows) for _, median, sigma in (ANSWERED, REFUSED))
    attempts = fetch.retries + 1
    seconds = np.where(kind < ANSWERED[0], np.minimum(ok, fetch.timeout), np.minimum(refused, fetch.timeout))
    hopeless = 1 - NO_CONNECTION - NO_END
    seconds = np.where(kind >= hopeless, attempts * fetch.connect_timeout + BACKOFF, seconds)
    seconds = np.where(kind >= hopeless + NO_CONNECTION, attempts * fetch.timeout + BACKOFF, seconds)
    slots = [METADATA_SECONDS] * fetch.concurrency
    ends = [heapq.heapreplace(slots, slots[0] + one) + one for one in seconds.tolist()]
    arrived = np.maximum.accumulate(np.array(ends))
    last = np.minimum(np.arange(1, -(-rows // config.cluster.batch_rows) + 1) * config.cluster.batch_rows, rows) - 1
    return arrived[last].tolist()
