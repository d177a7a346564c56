import torch

from model.autoencoder import Layers
from model.sheets import planes_of, sheet


def test_columns_are_pictures_and_rows_are_samples():
    red, grey = torch.full((2, 3, 4, 4), -1.0), torch.zeros(2, 3, 4, 4)
    red[:, 0] = 1.0
    pixels = sheet([red, grey], gap=1, least=8)
    assert pixels.shape == (2 * 9, 2 * 9, 3)
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[17 - 1, 9].tolist() == [128, 128, 128]
    assert pixels[8].min() == pixels[:, 8].min() == 255  # white between


def test_layers_are_shown_with_their_composite():
    layers = Layers(torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2), torch.full((1, 1, 2, 2), 0.25))
    composite, _, _, mask = planes_of(layers)
    assert (composite == -0.5).all()
    assert mask.shape == (1, 3, 2, 2)
    assert (mask == -0.5).all()
