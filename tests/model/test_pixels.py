import json

import numpy as np
import pytest
from samples import fill_of, row_of, scene, soft_mask

from l2i_builder.config import Config
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.shards import decode_triplet, encode_members
from model.config import Data
from model.pixels import Batch, View, decode, draw_view, pad_colours

SIZE = 64


@pytest.fixture
def members() -> dict[str, bytes]:
    config = Config(image={"size": SIZE})
    image, mask = scene(0, SIZE), soft_mask(0, SIZE)
    return encode_members(row_of(), image, mask, fill_of(image, mask, config), config)


def test_a_stored_sample_comes_out_as_its_layers(members):
    planes = decode("key", members, Data(size=SIZE), View())
    triplet = decode_triplet("key", members, "")
    expected = (triplet.foreground, triplet.background, triplet.mask[..., None], triplet.image)
    assert np.array_equal(planes.transpose(1, 2, 0), np.concatenate(expected, 2))


def test_the_stored_foreground_can_be_used(members):
    cut, stored = (decode("key", members, Data(size=SIZE, foreground=how), View()) for how in ("cut", "stored"))
    assert np.array_equal(cut, stored)  # as stored, F is cut from I


def test_scaled_down_the_foreground_is_cut_anew(members):
    planes = decode("key", members, Data(size=32, fill=(9, 8, 7)), View())
    foreground, mask, image = planes[:3], planes[6], planes[7:]
    inside = mask > 0.1 * 255
    assert np.array_equal(foreground[:, inside], image[:, inside])
    assert (foreground[:, ~inside] == np.array([[9], [8], [7]])).all()


def test_one_view_for_all_members(members):
    view = View(top=0.3, left=0.8, side=0.5)
    crop, mirrored = (decode("key", members, Data(size=32), View(0.3, 0.8, 0.5, flip)) for flip in (False, True))
    assert np.array_equal(crop[:, :, ::-1], mirrored)
    whole = decode("key", members, Data(size=SIZE), View())
    top, left = round(view.top * 32), round(view.left * 32)
    assert np.array_equal(crop, whole[:, top : top + 32, left : left + 32])


def test_views_follow_from_key_epoch_and_seed():
    data = Data(crop=0.5)
    views = [draw_view(f"key{i}", 0, 0, data) for i in range(200)]
    assert views == [draw_view(f"key{i}", 0, 0, data) for i in range(200)]
    assert all(0.5 <= view.side <= 1 and 0 <= view.top <= 1 for view in views)
    assert 70 < sum(view.mirrored for view in views) < 130
    assert draw_view("key0", 1, 0, data) != views[0] != draw_view("key0", 0, 1, data)
    assert draw_view("key0", 0, 0, Data(flip=False)) == View()


def test_padding_continues_the_colours_and_keeps_the_inside():
    image, inside = np.full((32, 32, 3), 200, np.uint8), np.zeros((32, 32), bool)
    image[:, :16], image[:, 16:] = (200, 0, 0), (0, 0, 200)
    inside[8:24, 8:24] = True
    image[~inside] = 77
    padded = pad_colours(image, inside)
    assert np.array_equal(padded[inside], image[inside])
    assert padded[16, 2, 0] > 120 > padded[16, 2, 2]  # red continues to the left, blue to the right
    assert padded[16, 29, 2] > 120 > padded[16, 29, 0]
    assert (pad_colours(image, np.zeros((32, 32), bool)) == 0).all()


def test_padded_foregrounds_agree_with_the_image_inside(members):
    planes = decode("key", members, Data(size=32, foreground="padded"), View())
    inside = planes[6] > 0.1 * 255
    assert np.array_equal(planes[:3, inside], planes[7:, inside])
    assert planes[:3, ~inside].min(axis=1).max() > 0  # no black fill


def test_shards_smaller_than_the_configuration_are_refused(members):
    with pytest.raises(ConfigError, match=r"64x64 pixels, data.size is 128; lower data.size, or build"):
        decode("key", members, Data(size=128), View(), "a.tar")


@pytest.mark.parametrize("lost", ["jpg", "bg.jpg", "mask.png", "txt"])
def test_a_missing_member_is_named(members, lost):
    del members[lost]
    with pytest.raises(OutputError, match=f"a.tar: sample key lacks {lost}"):
        decode("key", members, Data(size=SIZE), View(), "a.tar")


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_damaged_member_is_named(members, content):
    members["bg.jpg"] = content
    with pytest.raises(OutputError, match=r"a.tar: key.bg.jpg does not decode"):
        decode("key", members, Data(size=SIZE), View(), "a.tar")


def test_the_threshold_is_the_one_it_was_stored_with(members):
    facts = json.loads(members["json"]) | {"foreground_threshold": 0.6}
    planes = decode("key", members | {"json": json.dumps(facts).encode()}, Data(size=SIZE), View())
    assert (planes[:3, planes[6] < 150] == 0).all()


def test_a_batch_has_layers_and_image_in_their_ranges(members):
    import torch

    planes = decode("key", members, Data(size=SIZE), View())
    batch = Batch(["key"], [""], torch.from_numpy(planes)[None])
    layers, image = batch.layers(), batch.image()
    assert layers.shape == (1, 7, SIZE, SIZE)
    assert layers[:, :6].min() == -1  # black fill
    assert layers[:, 6].min() == 0
    assert layers[:, 6].max() == 1
    torch.testing.assert_close((image + 1) * 127.5, batch.pixels[:, 7:].float())
