"""Where torch models run: the device, its threads, and the number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2i_builder.errors import ConfigError

if TYPE_CHECKING:
    import torch


def torch_device(device: str, threads: int) -> torch.device:
    """Return torch's device for "cpu", "cuda" or "cuda:1", after setting torch's CPU threads for the process.

    Raises ConfigError for a device that is not there.
    """
    import torch

    torch.set_num_threads(threads)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"there is no device {device!r}; wanted cpu, cuda or cuda:<number>") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"torch sees no device {device!r}; run on the CPU, or install a driver and a CUDA build")
    return chosen


def autocast(dtype: str, device: torch.device) -> torch.autocast:
    """Return the autocast context for a configured dtype: bfloat16 where "auto" meets a GPU that has it."""
    import torch

    wanted = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)
