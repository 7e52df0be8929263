"""Perceptual distances: squared differences of a network's normalized feature maps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowprior.checks import check_one_of, check_shapes
from flowprior.errors import InputError

Maps = Callable[[Tensor], Sequence[Tensor]]
"""Images (N, C, H, W) in [0, 1] to feature maps (N, C_l, H_l, W_l) of several layers."""

_SMALL = 1e-8  # beneath the root of LPIPS's norm


class PerceptualDistance:
    """d(a, b) = Σ_l 1/(H_l W_l) Σ_hw Σ_c w_lc (a_lchw / |a_lhw| - b_lchw / |b_lhw|)²

    a_l and b_l are the feature maps of two images at layer l, brought to unit length over the channels. With
    weights of 1 it is the uncalibrated baseline of LPIPS; with `lpips_weights` and VGG-16 it is LPIPS.
    `maps` are such as `VGGFeatures`, `weights` one (C_l,) for each layer, by default 1.
    Source: Zhang et al. 2018 (arXiv:1801.03924), Eq. 1.
    """

    def __init__(self, maps: Maps, weights: Sequence[Tensor] | None = None) -> None:
        self.maps, self.weights = maps, weights

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] twice -> (N,) float64 on the CPU.

        Raises:
            InputError: if the shapes differ, or there are not as many weights as layers.
        """
        check_shapes("pass images of one shape", a=(a, "N C H W"), b=(b, "N C H W"))
        both = self.maps(torch.cat([a, b]))
        weights = [torch.ones(1)] * len(both) if self.weights is None else self.weights
        if len(weights) != len(both):
            raise InputError(f"`weights` holds {len(weights)} layers but `maps` gives {len(both)}.")
        total = torch.zeros(len(a), dtype=torch.float64)
        for features, weight in zip(both, weights, strict=True):
            unit = features * (features.square().sum(1, keepdim=True) + _SMALL).rsqrt()
            first, second = unit.chunk(2)
            squares = (first - second).square().mean((2, 3))  # (N, C_l)
            total += (squares * weight.to(squares)).sum(1).cpu()
        return total


def lpips_weights(network: str = "vgg") -> list[Tensor]:
    """The layer weights of LPIPS 0.1 that torchmetrics carries: five of (C_l,) for "vgg".

    They belong to torchvision's VGG-16 at relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 ("vgg"), or to its
    AlexNet ("alex") and SqueezeNet 1.1 ("squeeze"); features of other networks take no part of them.

    Raises:
        InputError: if `network` is another.
    """
    from importlib.util import find_spec
    from pathlib import Path

    check_one_of("network", network, ("vgg", "alex", "squeeze"))
    spec = find_spec("torchmetrics")
    folder = Path(str(spec.origin)).parent if spec else Path()
    path = folder / "functional" / "image" / "lpips_models" / f"{network}.pth"
    if not path.is_file():
        raise InputError(f"`network` (={network!r}) is missing at {path}: install torchmetrics 1.9.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [weight.flatten() for _, weight in sorted(state.items())]  # lin0, lin1, ...
