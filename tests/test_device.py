"""Where torch models run."""

from __future__ import annotations

import pytest
import torch

from l2i_builder.device import autocast, torch_device
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
