"""What the study trains: its budget, its rows, and which job waits for which."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from l2i_builder import storage
from l2i_builder.errors import ConfigError
from l2i_builder.output.manifest import pretty
from model.config import ModelConfig, load_model_config

SETTINGS = "study.json"  # in the output folder: the budget
DONE = "done.json"  # in a job's folder: it is finished, and what it cost
JUDGES, LABELS = "judges", "labels"  # jobs that train no model of layers


@dataclass(frozen=True)
class Budget:
    """How much of everything. Two studies with the same budget have the same numbers."""

    seeds: int = 3
    size: int = 24  # side of a scene in pixels
    pool: int = 5000  # scenes of a seed that the weak segmenter masks, before filtering
    kept: int = 2000  # of them in each training set
    samples: int = 200  # captions and images that each row is measured on
    autoencoder_steps: int = 1200
    diffusion_steps: int = 1200
    weak_scenes: int = 150  # with true masks, for the weak segmenter
    weak_steps: int = 500
    judged: int = 1200  # masks of known goodness: two thirds train the judge of masks, the rest set its threshold
    judge_steps: int = 500
    strong_scenes: int = 5000  # of the third segmenter and of the network that reads attributes
    strong_steps: int = 900

    def claim(self, out: Path) -> None:
        """Write the budget into a new folder. Raises ConfigError where the folder's study has another."""
        wanted, url = pretty(asdict(self)), str(out / SETTINGS)
        if not storage.exists(url):
            storage.write_bytes(url, wanted)
        elif storage.read_bytes(url) != wanted:
            raise ConfigError(f"{out} holds a study with another budget (see {url}); choose another --out")


def read_budget(out: Path) -> Budget:
    """Return the budget of the study in a folder."""
    return Budget(**json.loads((out / SETTINGS).read_text()))


@dataclass(frozen=True)
class Arm:
    """A row of the tables that is trained.

    labels: training set, "filtered", "unfiltered" or "true". keys: dotted configuration, in which ``{seed}`` is the
    seed's folder. needs: rows whose models it starts from. share: of the diffusion steps.
    """

    name: str
    title: str
    labels: str = "filtered"
    keys: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    share: float = 1.0


_RGB = ("autoencoder.patch=1", "autoencoder.channels=[16, 32, 32]", "autoencoder.latent_channels=4")
_SEPARATE = ("autoencoder.kind=separate", "autoencoder.source='{seed}/sd-ae-unet/autoencoder'")
IMAGE = "image-only"
ARMS = (  # in the order in which they are begun
    Arm("cat2i", "CaT2I-AE-SD"),
    Arm("unfiltered", "CaT2I-AE-SD, unfiltered masks", "unfiltered"),
    Arm("true-masks", "CaT2I-AE-SD, true masks", "true"),
    Arm("no-sup", "CaT2I-AE-SD (no-sup)", keys=("autoencoder.image_head=false",)),
    Arm("sd-ae-unet", "SD-AE-UNet", keys=("autoencoder.kind=separate", *_RGB)),
    Arm(
        IMAGE,
        "image only (SD-LAION-L2I)",
        keys=("autoencoder.kind=image", "autoencoder.source='{seed}/sd-ae-unet/autoencoder'"),
        needs=("sd-ae-unet",),
    ),
    Arm(
        "sd-ae-unet-ft",
        "SD-AE-UNet (ft)",
        keys=(
            *_SEPARATE,
            "unet.init=sd",
            f"unet.source='{{seed}}/{IMAGE}/pipeline'",
            f"text.encoder='{{seed}}/{IMAGE}/pipeline/text_encoder'",
            "text.trained=true",
        ),
        needs=(IMAGE,),
        share=1 / 3,  # paper: 25 k steps against 75 k
    ),
)
SEGMENTED = "image only, then segmented"  # generate-then-segment: nothing is trained for it
FILTERING = ("cat2i", "unfiltered", "true-masks")  # rows of Table III


@dataclass(frozen=True)
class Job:
    """A process of the study, named as its folder: ``judges``, ``seed-0/labels``, ``seed-0/cat2i``."""

    name: str
    needs: tuple[str, ...] = field(default=())

    def done(self, out: Path) -> bool:
        return (out / self.name / DONE).is_file()


def jobs(budget: Budget) -> list[Job]:
    """Return all jobs in the order in which they are begun: row by row, so that tables so far have all seeds."""
    bases = [f"seed-{seed}" for seed in range(budget.seeds)]
    result = [Job(JUDGES), *(Job(f"{base}/{LABELS}") for base in bases)]
    for arm in ARMS:
        for base in bases:
            needs = (JUDGES, f"{base}/{LABELS}", *(f"{base}/{name}" for name in arm.needs))
            result.append(Job(f"{base}/{arm.name}", needs))
    return result


def arm_config(arm: Arm, budget: Budget, base: Path, seed: int) -> ModelConfig:
    """Return the configuration that trains a row. ``base``: the seed's folder."""
    return load_model_config(
        "study",
        [
            f"seed={seed}",
            f"data.size={budget.size}",
            f"data.shards='{base}/{LABELS}/{arm.labels}'",
            f"train_autoencoder.steps={budget.autoencoder_steps}",
            f"train_diffusion.steps={max(round(arm.share * budget.diffusion_steps), 1)}",
            *(key.format(seed=base) for key in arm.keys),
        ],
        out=str(base / arm.name),
    )
