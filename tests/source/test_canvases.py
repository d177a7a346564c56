import random

import numpy as np
import pytest

from l2i_builder.source.canvases import Canvas, Canvases


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_nobody_holds_it():
    canvases = Canvases((4, 8, 8, 3))
    first = canvases.take()
    assert (first.shape, first.dtype) == ((4, 8, 8, 3), np.uint8)
    place = address(first)
    del first
    assert address(canvases.take()) == place


@pytest.mark.parametrize("view", [lambda a: a[1:3], lambda a: a[2][:, ::2], lambda a: memoryview(a), lambda a: a.T[0]])
def test_memory_is_left_alone_as_long_as_a_view_of_it_lives(view):
    canvases = Canvases((4, 8, 8, 3))
    array = canvases.take()
    array[:] = 7
    held = view(array)
    del array
    for _ in range(3):
        canvases.take()[:] = 0
    assert (np.asarray(held) == 7).all()


def test_arrays_that_are_held_are_different_ones():
    canvases = Canvases((2, 4, 4, 3))
    held = [canvases.take() for _ in range(20)]
    for number, array in enumerate(held):
        array[:] = number
    assert [int(array.max()) for array in held] == list(range(20))


@pytest.mark.parametrize("seed", range(20))
def test_images_come_in_the_order_of_rows_whatever_the_order_of_decoding_and_whoever_is_refused(seed):
    chance = random.Random(seed)
    canvas = Canvas(Canvases((32, 2, 2, 3)))
    rows = chance.sample(range(100, 132), chance.randint(1, 32))
    for row in rows:
        canvas.place(row)[:] = row
    kept = sorted(chance.sample(rows, chance.randint(0, len(rows))))
    images = canvas.images(kept)
    assert images.shape == (len(kept), 2, 2, 3)
    assert images.flags.c_contiguous
    assert (images == np.array(kept, np.uint8).reshape(-1, 1, 1, 1)).all()


def test_a_batch_without_images_takes_no_memory():
    canvases = Canvases((32, 4, 4, 3))
    assert Canvas(canvases).images([]).shape == (0, 4, 4, 3)
