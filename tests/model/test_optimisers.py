import importlib.util

import pytest
from torch import nn

from l2i_builder.errors import ConfigError
from model.config import Training
from model.optimisers import learning_rate_factor, make_optimiser


def test_the_rate_warms_up_and_stays():
    config = Training(warmup=4, steps=100)
    assert [learning_rate_factor(step, config) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]


def test_a_cosine_ends_at_nothing():
    config = Training(warmup=10, steps=110, schedule="cosine")
    assert learning_rate_factor(60, config) == pytest.approx(0.5)
    assert learning_rate_factor(110, config) == pytest.approx(0, abs=1e-9)


def test_only_trained_parameters_are_optimised():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = make_optimiser(model, Training(betas=(0.5, 0.9), weight_decay=0.1)).param_groups
    assert len(group["params"]) == 1
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.9), 0.1)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="shows what happens without it")
def test_without_bitsandbytes_eight_bits_are_refused():
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        make_optimiser(nn.Linear(1, 1), Training(optimiser="adamw8bit"))
