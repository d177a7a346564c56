"""The losses of CaT2I-AE (paper, section 4.1, equations 2 to 4), each term a function.

Unless it says otherwise a term is a mean over samples, channels and pixels. The paper and latent diffusion write sums;
dividing all of them by the number of pixels leaves their proportions as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from l2i_builder.errors import WeightsError
from model.autoencoder import Layers, Reconstruction
from model.config import Losses
from model.messages import said

INSIDE = 0.1  # m above it is foreground (paper, section 3)
VGG16 = (
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)

Perceptual = Callable[[Tensor, Tensor], Tensor]  # two images [N, 3, H, W] in -1..1 -> distance [N]


def l1(predicted: Tensor, true: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of weight * |predicted - true|; weight [N, 1, H, W] has mean 1 in each sample."""
    distance = (predicted - true).abs()
    return (distance if weight is None else weight * distance).mean()


def area_weight(mask: Tensor) -> Tensor:
    """Return weights [N, 1, H, W], mean 1 in each sample, of which half lie inside m > 0.1 (mask [N, 1, H, W]).

    With uniform weights a flat fill around the foreground outweighs it, and foregrounds come out grey.
    """
    inside = (mask > INSIDE).to(mask.dtype)
    share = inside.mean(dim=(2, 3), keepdim=True)
    weight = 0.5 * inside / share.clamp(min=1e-6) + 0.5 * (1 - inside) / (1 - share).clamp(min=1e-6)
    return torch.where((share > 0) & (share < 1), weight, torch.ones_like(weight))


def kl(moments: Tensor, pixels: int) -> Tensor:
    """Return KL(posterior || N(0, 1)), summed over a sample's latent and divided by ``pixels``, its 3HW values.

    moments [N, 2C, h, w]: means, then log variances. Latent diffusion (Rombach et al. 2022, appendix G) adds the sum
    of the KL to the sum of |x - x'|; with means the same proportion needs this division.
    """
    mean, logvar = moments.float().chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    summed = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))
    return summed.mean() / pixels


def composition(mask: Tensor, layers: Layers, target: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Return l_comp, the mean of sqrt((C - C')^2 + epsilon^2): C' composes ``layers`` with the predicted ``mask``.

    Paper, section 4.1; Deep Image Matting (Xu et al. 2017, eq. 2). target C [N, 3, H, W], mask [N, 1, H, W].
    """
    composed = mask * layers.foreground + (1 - mask) * layers.background
    return ((target - composed).square() + epsilon**2).sqrt().mean()


def laplacian(predicted: Tensor, true: Tensor, levels: int = 3) -> Tensor:
    """Return l_lap = sum over j = 1..levels of 2^(j-1) * |phi_j(m') - phi_j(m)|_1, divided by the mask's pixels.

    phi_j is level j of the Laplacian pyramid (paper, eq. 4; Hou and Liu 2019, eq. 3). Masks [N, 1, H, W].
    """
    # Each level is linear in the mask: the pyramid of the difference is the difference of the pyramids.
    total = predicted.new_zeros(())
    for j, band in enumerate(laplacian_pyramid(predicted - true, levels)):
        total = total + 2**j * band.abs().sum()
    return total / predicted.numel()


def laplacian_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Return the bands of [N, 1, H, W], finest first, each half the size of the one before (Burt and Adelson 1983)."""
    bands = []
    for _ in range(levels):
        if min(image.shape[-2:]) < 4:  # nothing left to blur
            break
        smaller = _blur(image)[:, :, ::2, ::2]
        bands.append(
            image - functional.interpolate(smaller, size=image.shape[-2:], mode="bilinear", align_corners=False)
        )
        image = smaller
    return bands


def _blur(image: Tensor) -> Tensor:
    row = image.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = torch.outer(row, row).expand(image.shape[1], 1, 5, 5)
    return functional.conv2d(functional.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, groups=image.shape[1])


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's hinge loss on patch logits (Lim and Ye 2017): real ones above 1, fake below -1."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def generator_hinge(fake: Tensor) -> Tensor:
    """Return the generator's side of the hinge loss: the logits of its pictures, negated."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter, limit: float = 1e4) -> Tensor:
    """Return |grad of reconstruction| / |grad of adversarial| at a head's last convolution, detached, 0..limit.

    Esser et al. 2021 (VQGAN, eq. 7), as in latent diffusion: neither loss drowns the other.
    """
    (of_reconstruction,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    ratio = of_reconstruction.norm() / (of_adversarial.norm() + 1e-4)
    return ratio.clamp(0, limit).detach()


class PatchDiscriminator(nn.Sequential):
    """Image [N, 3, H, W] -> logits of patches [N, 1, h, w] (PatchGAN, Isola et al. 2017).

    Group norm where the original has batch norm: real and decoded images then never meet in one statistic, and ranks
    agree without synchronising.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        width = channels
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer in range(1, layers + 1):
            wider = channels * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            blocks.append(nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False))
            blocks += [nn.GroupNorm(min(8, wider), wider), nn.LeakyReLU(0.2)]
            width = wider
        blocks.append(nn.Conv2d(width, 1, 4, padding=1))
        super().__init__(*blocks)
        for block in blocks:
            if isinstance(block, nn.Conv2d):
                nn.init.normal_(block.weight, 0.0, 0.02)


class Discriminators(nn.Module):
    """A discriminator for each decoded image, run by one ``forward`` so that DDP's hooks fire once."""

    def __init__(self, names: Sequence[str], channels: int, layers: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: PatchDiscriminator(channels, layers) for name in names})

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of each named image [N, 3, H, W]."""
        return {name: part(images[name]) for name, part in self.parts.items()}


class Targets:
    """The true layers of a batch: F, B [N, 3, H, W] in -1..1, m [N, 1, H, W] in 0..1, and the image I as F."""

    def __init__(self, layers: Tensor, image: Tensor) -> None:
        self.stacked = layers  # [N, 7, H, W]
        self.layers = Layers(layers[:, :3], layers[:, 3:6], layers[:, 6:], image)
        self.images = {"foreground": layers[:, :3], "background": layers[:, 3:6], "image": image}


def reconstruction_losses(
    reconstruction: Reconstruction, targets: Targets, config: Losses, perceptual: Perceptual | None
) -> dict[str, Tensor]:
    """Return l1 + LPIPS, weighted, of each decoded image, by its head's name."""
    mask = targets.layers.mask
    area = area_weight(mask) if config.weighting == "area" else None
    result = {}
    for name, image in decoded_images(reconstruction.layers).items():
        true = targets.images[name]
        loss = config.l1 * l1(image, true, None if name == "background" else area)
        if perceptual is not None and config.perceptual_weight:
            loss = loss + config.perceptual_weight * perceptual(image, true).mean()
        result[name] = loss
    return result


def mask_losses(reconstruction: Reconstruction, targets: Targets, config: Losses) -> dict[str, Tensor]:
    """Return the terms of L_mask (paper, eq. 3), weighted: l1 + 2 * composition + 3 * Laplacian."""
    decoded, true = reconstruction.layers, targets.layers
    layers = true if config.composition_layers == "true" else decoded
    return {
        "mask_l1": l1(decoded.mask, true.mask),
        "mask_composition": config.composition * composition(decoded.mask, layers, true.composite()),
        "mask_laplacian": config.laplacian * laplacian(decoded.mask, true.mask),
    }


def decoded_images(layers: Layers) -> dict[str, Tensor]:
    """Return the images among decoded layers by their heads' names; "image" only where there is that head."""
    images = {"foreground": layers.foreground, "background": layers.background}
    return images if layers.image is None else images | {"image": layers.image}


def make_perceptual(config: Losses) -> nn.Module | None:
    """Return LPIPS on VGG16 (Zhang et al. 2018), frozen; None where the configuration wants none.

    VGG16's weights come from torchvision's host, pinned by digest, or from the file that ``config.perceptual`` names;
    LPIPS's own from the ``lpips`` package. Its parameters are frozen, gradients to the images flow.
    Raises WeightsError when the weights cannot be had or do not fit.
    """
    if config.perceptual == "none":
        return None
    from l2i_builder.weights import registry

    path = _vgg16() if config.perceptual == "lpips" else registry.resolve(config.perceptual)
    try:
        return lpips_vgg(_state(path))
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path} holds no VGG16 with torchvision's names ({said(error)}); give another file, or "
            "set losses.perceptual=none"
        ) from error


def _vgg16() -> Path:
    """Return torchvision's file of VGG16. Raises WeightsError, with what to do offline."""
    from l2i_builder.weights import registry

    try:
        return registry.resolve(*VGG16)
    except WeightsError as error:
        raise WeightsError(
            f"{error}. Offline, name a file that holds them: losses.perceptual=vgg16.pth; or leave LPIPS out, which is "
            "not the paper's loss any more: losses.perceptual=none"
        ) from error


def lpips_vgg(state: Mapping[str, Tensor]) -> nn.Module:
    """Return LPIPS with VGG16 weights under torchvision's names (``features.0.weight`` ...)."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by an old signature
        net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    with torch.no_grad():
        for name, parameter in net.net.named_parameters():
            # lpips keeps torchvision's numbering inside its slices: slice2.5.weight is features.5.weight
            number, kind = name.split(".")[1:]
            if parameter.shape != state[f"features.{number}.{kind}"].shape:
                raise ValueError(f"features.{number}.{kind} has another shape")
            parameter.copy_(state[f"features.{number}.{kind}"])
    return net.requires_grad_(False).eval()


def _state(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
