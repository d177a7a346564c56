import pytest
import torch
from torch import nn

from model.ema import Averaged


def module() -> nn.Module:
    made = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.zeros_(made[0].weight)
    return made


def test_it_averages_with_a_decay_that_rises():
    made = module()
    averaged = Averaged(made, 0.9)
    expected = 0.0
    for n in range(200):
        nn.init.constant_(made[0].weight, 1.0)
        averaged.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay)
        assert float(averaged.values[0]) == pytest.approx(expected, rel=1e-5)


def test_it_is_put_in_place_and_taken_out_again():
    made = module()
    averaged = Averaged(made, 0.5)
    nn.init.constant_(made[0].weight, 1.0)
    averaged.update()
    with averaged.applied():
        assert made[0].weight.item() == pytest.approx(0.9)  # the first decay is 1 / 10
    assert made[0].weight.item() == 1.0


def test_running_statistics_are_averaged_with_the_weights():
    made = module()
    averaged = Averaged(made, 0.5)
    made[1].running_mean.fill_(1.0)
    averaged.update()
    with averaged.applied():
        assert float(made[1].running_mean) == pytest.approx(0.9)


def test_frozen_parameters_are_left_out():
    made = module()
    made[0].weight.requires_grad_(False)
    assert len(Averaged(made, 0.5).values) == 4  # weight and bias of the norm, its mean and variance


def test_its_state_survives():
    made = module()
    first = Averaged(made, 0.5)
    nn.init.constant_(made[0].weight, 1.0)
    first.update()
    second = Averaged(module(), 0.5)
    second.load_state_dict(first.state_dict())
    assert second.updates == 1
    assert torch.equal(second.values[0], first.values[0])
