import torch

from model.data import Place
from model.draw import Draw


def test_ranks_together_draw_what_one_process_draws():
    one = Draw(0, 7, 0, Place(0, 1, 4), "cpu")
    whole = one.normal(4, 3), one.uniform(4)
    parts = [Draw(0, 7, 0, Place(rank, 2, 2), "cpu") for rank in range(2)]
    drawn = [(part.normal(2, 3), part.uniform(2)) for part in parts]
    for i in range(2):
        assert torch.equal(torch.cat([each[i] for each in drawn]), whole[i])


def test_steps_parts_and_seeds_differ_and_repeat():
    def numbers(*where: int) -> list[float]:
        return Draw(*where, Place(), "cpu").normal(1, 3).flatten().tolist()

    places = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    assert len({tuple(numbers(*place)) for place in places}) == 4
    assert numbers(0, 3, 0) == numbers(0, 3, 0)


def test_dropout_repeats_and_differs_between_ranks():
    def dropped(rank: int) -> torch.Tensor:
        Draw(0, 0, 0, Place(rank, 2), "cpu")
        return torch.rand(4)

    assert torch.equal(dropped(0), dropped(0))
    assert not torch.equal(dropped(0), dropped(1))
