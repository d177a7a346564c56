"""Image backbones of the judges: any timm model, its weights by registry name, source or path."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2i_builder.device import prepare, torch_device
from l2i_builder.errors import WeightsError
from l2i_builder.weights.registry import file_sha256, resolve

if TYPE_CHECKING:
    import torch

# timm model -> entry of the weights registry
_WEIGHTS = {"tf_efficientnet_lite0": "efficientnet_lite0", "efficientnet_b0": "efficientnet_b0"}


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor and how its input is made.

    ``module`` maps float32 [N, 3, side, side] to pooled features float32 [N, dim]; its input is x / 255 of sRGB,
    minus ``mean``, over ``std``, resized by ``interpolation`` so that the centre ``side`` pixels are ``crop`` of it.
    """

    name: str
    module: torch.nn.Module
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bicubic", "bilinear"
    crop: float  # share of the resized side that the model sees
    dim: int
    digest: str  # SHA-256 of the weights file


def make_backbone(name: str, device: str = "cpu", weights: str = "", sha256: str = "", threads: int = 1) -> Backbone:
    """Load a timm model as a frozen feature extractor.

    ``weights``: name in the registry, source or local path (safetensors, or a pickled state dict, which is read
    with ``weights_only``); empty = the registry's own for this model. Sets torch's CPU threads for the process.
    Raises WeightsError when the model or its weights are not known, cannot be fetched, or do not fit each other,
    ConfigError when the device is not there.
    """
    import timm

    weights = weights or _WEIGHTS.get(name, "")
    if not timm.is_model(name):
        raise WeightsError(f"timm has no model {name!r}; `timm.list_models()` names them")
    if not weights:
        raise WeightsError(f"no weights are known for {name}; give a safetensors file, or a source with its SHA-256")
    path = resolve(weights, sha256)
    chosen = torch_device(device, threads)
    module = timm.create_model(name, pretrained=False, num_classes=0)
    facts = timm.data.resolve_model_data_config(module)
    _load(module, load_state(path), path)
    prepare(module, chosen, channels_last=True)
    if chosen.type == "cpu":
        module = folded(module, facts["input_size"])
    return Backbone(
        name=name,
        module=module,
        side=facts["input_size"][-1],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        interpolation=facts["interpolation"],
        crop=facts["crop_pct"],
        dim=int(module.num_features),  # type: ignore[arg-type]
        digest=file_sha256(path),
    )


def folded(module: torch.nn.Module, size: tuple[int, int, int]) -> torch.nn.Module:
    """Return a frozen network with every norm that follows a convolution multiplied into its weights: a fifth faster.

    Which norm follows which convolution is read off the order in which blocks define them, so the result is tried
    on noise: where its features differ in more than the last digits, ``module`` itself is returned. size: (3, H, W).
    """
    import torch

    faster = copy.deepcopy(module)
    for parent in list(faster.modules()):
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in itertools.pairwise(children):
            if isinstance(convolution, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                _fold(convolution, norm)
                setattr(parent, name, getattr(norm, "act", torch.nn.Identity()))  # timm's norms hold what follows them
    noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = module(noise), faster(noise)
    return faster if torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())) else module


def _fold(convolution: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> None:
    """Give a convolution the weights with which it computes what ``norm`` makes of its output."""
    import torch

    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = convolution.bias.double() if convolution.bias is not None else torch.zeros_like(scale)
    shift = norm.bias.double() + (bias - norm.running_mean.double()) * scale
    weight = (convolution.weight.double() * scale[:, None, None, None]).float()
    convolution.weight = torch.nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    convolution.bias = torch.nn.Parameter(shift.float(), requires_grad=False)


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a safetensors file or a pickled checkpoint, on the CPU.

    Pickles are read with ``weights_only``: one that holds anything but tensors raises WeightsError.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"{path} could not be read as weights: {_first_line(error)}") from error
    except Exception as error:  # pickle.UnpicklingError and what a crafted stream makes of it
        raise WeightsError(f"{path} is not a plain checkpoint of tensors, so it is not loaded") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path} does not hold a state dict: names and tensors")
    return state


def _load(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a state dict, its classifier dropped; by order where the names are another implementation's."""
    wanted = module.state_dict()
    state = {
        key: value for key, value in state.items() if not key.startswith(("classifier.", "head.fc.", "fc.", "_fc."))
    }
    if state.keys() != wanted.keys():
        in_order = zip(wanted.items(), state.values(), strict=False)
        if len(state) != len(wanted) or any(value.shape != other.shape for (_, value), other in in_order):
            raise WeightsError(f"{path} does not fit the model: {len(state)} tensors, {len(wanted)} wanted")
        state = dict(zip(wanted, state.values(), strict=True))
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
