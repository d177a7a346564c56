"""Where torch models run, and how pixels get there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from l2i_builder import device as devices
from l2i_builder.device import at_once, autocast, compiled, prepare, torch_device, uploads
from l2i_builder.errors import ConfigError


@pytest.fixture(autouse=True)
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_cpu_gets_the_threads_it_is_given() -> None:
    assert torch_device("cpu", 1) == torch.device("cpu")
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("device", ["cuda:63", "toaster"])
def test_a_device_that_is_not_there_is_told(device: str) -> None:
    with pytest.raises(ConfigError, match="no device"):
        torch_device(device, 1)


@pytest.mark.parametrize(
    ("dtype", "result"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_cpu_computes_in_bfloat16_only_when_asked(dtype: str, result: torch.dtype) -> None:
    x = torch.eye(4)
    with autocast(dtype, torch.device("cpu")):
        assert (x @ x).dtype == result


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def network() -> torch.nn.Module:
    """Convolutions, a depthwise one among them, and a norm: random, small."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU6(),
        torch.nn.Conv2d(16, 16, 3, stride=2, groups=16),
        torch.nn.Conv2d(16, 8, 1),
    )


class TestPreparing:
    def test_a_network_is_frozen_and_keeps_its_layout_on_the_cpu(self) -> None:
        module = prepare(network(), CPU)
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert module[0].weight.is_contiguous()

    def test_channels_last_computes_the_same(self) -> None:
        x = torch.rand(3, 3, 33, 40)
        plain, last = prepare(network(), CPU), prepare(network(), CPU, channels_last=True)
        assert last[0].weight.is_contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected, found = plain(x), last(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_what_knows_devices_only_is_moved_too(self) -> None:
        class Stubborn(torch.nn.Conv2d):
            def to(self, device: torch.device) -> Any:  # type: ignore[override]
                return super().to(device)

        module = prepare(Stubborn(3, 4, 3), CPU, channels_last=True)
        assert module.weight.is_contiguous(memory_format=torch.channels_last)

    def test_nothing_is_compiled_unasked(self) -> None:
        module = network()
        assert compiled(module, False) is module

    def test_compiled_computes_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Traced and lowered as everywhere, then run by torch itself: no C++ compiler is needed, nor minutes."""
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        module, x = prepare(network(), CPU), torch.rand(2, 3, 32, 32)
        faster = compiled(module, True)
        assert faster is not module
        with torch.inference_mode():
            torch.testing.assert_close(faster(x), module(x), rtol=1e-5, atol=1e-5)


class TestUploads:
    CHUNKS = tuple((np.full((2, 3), number, np.uint8), np.array([number > 1])) for number in range(4))

    def test_on_the_cpu_the_arrays_themselves_come_in_order(self) -> None:
        found = list(uploads(self.CHUNKS, CPU))
        assert len(found) == len(self.CHUNKS)
        for chunk, tensors in zip(self.CHUNKS, found, strict=True):
            for array, tensor in zip(chunk, tensors, strict=True):
                np.testing.assert_array_equal(tensor.numpy(), array)
                assert tensor.data_ptr() == array.ctypes.data

    def test_on_the_cpu_nothing_is_made_ahead_of_time(self) -> None:
        made = []

        def chunks() -> Iterator[tuple[np.ndarray, ...]]:
            for chunk in self.CHUNKS:
                made.append(chunk)
                yield chunk

        for number, _ in enumerate(uploads(chunks(), CPU), start=1):
            assert len(made) == number

    @pytest.mark.parametrize("count", range(5))
    def test_on_a_gpu_the_next_chunk_is_on_its_way_before_one_is_handed_out(
        self, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[tuple[str, int]] = []

        def copied(chunk: Any, *_: Any) -> tuple[Any, int]:
            events.append(("copy", int(chunk[0][0, 0])))
            return chunk, events[-1][1]

        def arrived(chunk: Any, done: int) -> Any:
            events.append(("wait", done))
            return chunk

        monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
        monkeypatch.setattr(devices, "_copied", copied)
        monkeypatch.setattr(devices, "_arrived", arrived)
        for number, (pixels, _) in enumerate(uploads(self.CHUNKS[:count], CUDA)):
            assert (pixels == number).all()
            events.append(("compute", number))
        for number in range(count):
            order = [events.index((what, number)) for what in ("copy", "wait", "compute")]
            assert order == sorted(order)
            if number + 1 < count:
                assert events.index(("copy", number + 1)) < events.index(("compute", number))
        assert len(events) == 3 * count

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="runs where there is a GPU")
    def test_a_gpu_gets_the_same_pixels(self) -> None:
        for chunk, tensors in zip(self.CHUNKS, uploads(self.CHUNKS, CUDA), strict=True):
            for array, tensor in zip(chunk, tensors, strict=True):
                np.testing.assert_array_equal(tensor.cpu().numpy(), array)

    def test_a_gpu_is_given_several_passes_at_once(self) -> None:
        assert at_once(8, CPU) == 8
        assert at_once(8, CUDA) > 8
