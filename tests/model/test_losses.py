import pytest
import torch
import torchvision
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from l2i_builder.errors import WeightsError
from model import losses
from model.autoencoder import Layers, Reconstruction
from model.config import Losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def soft_masks(seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.interpolate(random(2, 1, 4, 4, seed=seed), 32, mode="bilinear")


def targets_of(n: int = 2, size: int = 16) -> losses.Targets:
    layers = torch.cat([2 * random(n, 6, size, size) - 1, (random(n, 1, size, size, seed=1) > 0.7).float()], 1)
    m = layers[:, 6:]
    return losses.Targets(layers, m * layers[:, :3] + (1 - m) * layers[:, 3:6])


@pytest.fixture(scope="module")
def vgg() -> dict[str, torch.Tensor]:
    """VGG16's convolutions with random weights, under torchvision's names."""
    torch.manual_seed(0)
    features = torchvision.models.vgg16(weights=None).features
    return {f"features.{name}": value for name, value in features.state_dict().items()}


def test_area_weights_give_half_to_the_foreground_however_small():
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :2, :2] = 1.0
    weight = losses.area_weight(mask)
    assert weight[0, mask[0] > 0.1].sum() == pytest.approx(32)  # half of 64 pixels
    assert weight.mean(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1])
    assert (weight[1] == 1).all()  # nothing selected: uniform


def test_l1_is_weighted_by_area():
    predicted, true, mask = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., :1, :1] = 1.0
    predicted[..., :1, :1] = 1.0  # wrong in the one foreground pixel
    assert losses.l1(predicted, true) == pytest.approx(1 / 64)
    assert losses.l1(predicted, true, losses.area_weight(mask)) == pytest.approx(0.5)


def test_kl_is_that_of_the_posterior():
    moments = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = DiagonalGaussianDistribution(moments).kl().mean() / 192
    torch.testing.assert_close(losses.kl(moments, 192), expected)
    assert losses.kl(torch.zeros(1, 8, 4, 4), 192) == 0


def test_composition_is_smallest_at_the_true_mask():
    targets = targets_of()
    at_truth = losses.composition(targets.layers.mask, targets.layers, targets.layers.composite())
    assert at_truth == pytest.approx(1e-6, rel=1e-2)  # epsilon
    off = losses.composition(1 - targets.layers.mask, targets.layers, targets.layers.composite())
    difference = (targets.layers.foreground - targets.layers.background).abs().mean()
    assert off == pytest.approx(float(difference), rel=1e-4)


def test_laplacian_sums_weighted_pyramid_levels():
    a, b = soft_masks(0), soft_masks(1)
    pyramids = zip(losses.laplacian_pyramid(a, 3), losses.laplacian_pyramid(b, 3), strict=True)
    expected = sum(2**j * (x - y).abs().sum() for j, (x, y) in enumerate(pyramids)) / a.numel()
    torch.testing.assert_close(losses.laplacian(a, b), expected)
    assert losses.laplacian(a, a) == 0
    shapes = [tuple(band.shape[-2:]) for band in losses.laplacian_pyramid(a, 3)]
    assert shapes == [(32, 32), (16, 16), (8, 8)]


def test_laplacian_sees_edges_and_not_levels():
    mask = soft_masks()
    assert losses.laplacian(mask + 0.2, mask) < 1e-6
    edge = mask.clone()
    edge[:, :, :, 16:] += 0.2
    assert losses.laplacian(edge, mask) > 0.01


def test_hinge_rewards_only_up_to_the_margin():
    assert losses.discriminator_hinge(torch.tensor([2.0]), torch.tensor([-3.0])) == 0
    assert losses.discriminator_hinge(torch.tensor([0.0]), torch.tensor([0.0])) == 1
    assert losses.generator_hinge(torch.tensor([2.0, 4.0])) == -3


def test_the_adaptive_weight_is_the_ratio_of_gradients():
    last = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight = losses.adaptive_weight((6 * last).sum(), (2 * last).sum(), last)
    assert weight == pytest.approx(3, rel=1e-3)
    assert not weight.requires_grad
    assert losses.adaptive_weight((6e9 * last).sum(), (2 * last).sum(), last) == 1e4


@pytest.mark.parametrize("config", [Losses(perceptual="none"), Losses(perceptual="none", weighting="area")])
def test_the_papers_proportions(config):
    targets = targets_of()
    off = Layers(*(layer + 0.1 for layer in targets.layers))
    made = Reconstruction(off, torch.zeros(2, 8, 4, 4))
    images = losses.reconstruction_losses(made, targets, config, None)
    assert {name: round(float(value), 5) for name, value in images.items()} == {
        "foreground": 0.1,
        "background": 0.1,
        "image": 0.1,
    }
    masks = losses.mask_losses(made, targets, config)
    m, layers, true = off.mask, targets.layers, targets.layers
    assert masks["mask_l1"] == pytest.approx(0.1, rel=1e-4)
    assert masks["mask_composition"] == pytest.approx(float(2 * losses.composition(m, layers, true.composite())))
    assert masks["mask_laplacian"] == pytest.approx(float(3 * losses.laplacian(m, true.mask)))


def test_composition_may_use_the_decoded_layers():
    targets = targets_of()
    made = Reconstruction(Layers(*(layer + 0.1 for layer in targets.layers)), torch.zeros(2, 8, 4, 4))
    true, decoded = (
        losses.mask_losses(made, targets, Losses(composition_layers=which))["mask_composition"]
        for which in ("true", "decoded")
    )
    assert abs(float(true - decoded)) > 1e-3


def test_no_sup_has_no_image_term():
    targets = targets_of()
    made = Reconstruction(targets.layers._replace(image=None), torch.zeros(2, 8, 4, 4))
    assert set(losses.reconstruction_losses(made, targets, Losses(), None)) == {"foreground", "background"}


def test_lpips_is_zero_for_equal_images_and_passes_gradients(vgg):
    perceptual = losses.lpips_vgg(vgg)
    image, other = random(1, 3, 32, 32), random(1, 3, 32, 32, seed=1).requires_grad_()
    assert perceptual(image, image).abs().max() == 0
    perceptual(other, image).mean().backward()
    assert other.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())


def test_lpips_takes_vgg_from_a_file(vgg, tmp_path):
    file = tmp_path / "vgg16.pth"
    torch.save(vgg, file)
    perceptual = losses.make_perceptual(Losses(perceptual=str(file)))
    expected = losses.lpips_vgg(vgg)
    a, b = random(1, 3, 32, 32), random(1, 3, 32, 32, seed=1)
    assert torch.equal(perceptual(a, b), expected(a, b))


def test_lpips_by_name_is_pinned_to_a_digest(vgg, tmp_path, monkeypatch):
    asked = []
    file = tmp_path / "vgg16.pth"
    torch.save(vgg, file)
    monkeypatch.setattr("l2i_builder.weights.registry.pull", lambda *given: asked.append(given) or file)
    assert losses.make_perceptual(Losses()) is not None
    ((url, digest),) = asked
    assert url.startswith("https://download.pytorch.org/models/vgg16-")
    assert len(digest) == 64
    assert digest.startswith(url[-12:-4])  # torchvision names its files by the first eight digits


def test_offline_lpips_says_what_else_there_is(monkeypatch):
    def unreachable(*_):
        raise WeightsError("https://download.pytorch.org/models/vgg16.pth could not be fetched")

    monkeypatch.setattr("l2i_builder.weights.registry.pull", unreachable)
    with pytest.raises(WeightsError, match=r"could not be fetched.*perceptual=vgg16\.pth.*perceptual=none"):
        losses.make_perceptual(Losses())


def test_a_file_that_is_no_vgg_is_named(tmp_path):
    file = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"holds no VGG16.*perceptual=none"):
        losses.make_perceptual(Losses(perceptual=str(file)))


def test_discriminators_judge_patches_of_each_image():
    model = losses.Discriminators(["foreground", "image"], 8, 2)
    logits = model({name: random(2, 3, 32, 32) for name in ("foreground", "image")})
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "foreground": (2, 1, 6, 6),
        "image": (2, 1, 6, 6),
    }
    alone = model({name: random(2, 3, 32, 32)[:1] for name in ("foreground", "image")})
    torch.testing.assert_close(alone["image"], logits["image"][:1])  # no statistic over the batch
