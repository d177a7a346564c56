"""Where torch models run: the device, its threads, the number format, and how pixels get there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from l2i_builder.errors import ConfigError

if TYPE_CHECKING:
    import torch

PASSES = 4  # forward passes in one call of a model on a GPU

Arrays = tuple[np.ndarray, ...]


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


def at_once(batch: int, device: torch.device) -> int:
    """Return how many images a model wants in one call: on a GPU several forward passes of ``batch``, so that the
    pixels of the next one are uploaded while one computes."""
    return batch * PASSES if device.type == "cuda" else batch


def prepare(module: Any, device: torch.device, channels_last: bool | None = None) -> Any:
    """Freeze a network, move it to ``device`` and return it; its convolutions channels-last, by default on GPUs.

    Tensor cores want that layout; it changes the order of sums, and so the last bits.
    """
    import torch

    module.eval()
    for parameter in module.parameters():  # TorchScript has no ``requires_grad_`` of its own
        parameter.requires_grad_(False)
    module.to(device)
    if channels_last or (channels_last is None and device.type == "cuda"):
        torch.nn.Module.to(module, memory_format=torch.channels_last)  # some networks' own ``to`` knows devices only
    return module


def compiled(function: Callable, wanted: bool) -> Callable:
    """Return ``function`` of tensors, where ``wanted`` through ``torch.compile``: minutes at the first call."""
    import torch

    return torch.compile(function) if wanted else function


def uploads(chunks: Iterable[Arrays], device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield chunks of arrays as tensors on ``device``, in order; on a GPU the next chunk is copied meanwhile.

    The copy goes from pinned memory on a stream of its own, beside the kernels of the chunk that was yielded. On
    the CPU tensors share their arrays' memory.
    """
    import torch

    if device.type != "cuda":
        for chunk in chunks:
            yield tuple(torch.from_numpy(array) for array in chunk)
        return
    stream = torch.cuda.Stream(device)
    coming = None
    for chunk in chunks:
        following = _copied(chunk, device, stream)
        if coming is not None:
            yield _arrived(*coming)
        coming = following
    if coming is not None:
        yield _arrived(*coming)


def _copied(
    chunk: Arrays, device: torch.device, stream: torch.cuda.Stream
) -> tuple[tuple[torch.Tensor, ...], torch.cuda.Event]:
    """Begin to copy a chunk on ``stream``; return its tensors and the event after which they hold it."""
    import torch

    with torch.cuda.stream(stream):
        tensors = tuple(torch.from_numpy(array).pin_memory().to(device, non_blocking=True) for array in chunk)
        return tensors, stream.record_event()


def _arrived(tensors: tuple[torch.Tensor, ...], done: torch.cuda.Event) -> tuple[torch.Tensor, ...]:
    """Make the current stream wait for a copy, and its memory live until that stream is through with it."""
    import torch

    for tensor in tensors:
        current = torch.cuda.current_stream(tensor.device)
        current.wait_event(done)
        tensor.record_stream(current)
    return tensors
