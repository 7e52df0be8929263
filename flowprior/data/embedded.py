"""Data sets without files: scikit-learn's digits, and toy densities in the plane."""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from flowprior.data.dataset import Loaded, split_rows

TOY_TRAIN, TOY_TEST = 20_000, 5_000


def digits(train: bool) -> Loaded:
    """The 1797 real 8x8 digits of scikit-learn: x (N, 1, 8, 8), gray levels 0..16 scaled to 0..255.

    A fifth of each class, always the same, is the test set.
    """
    from sklearn.datasets import load_digits

    images, label = load_digits(return_X_y=True)
    x = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    target = torch.from_numpy(label).long()
    rows = split_rows(len(x), train, 0.2, target)
    return Loaded(x[rows], target[rows], tuple(str(digit) for digit in range(10)))


def toy(name: str, train: bool) -> Loaded:
    """Draws from the toy density `name` of `TOYS`: x (N, 2) float32, the label is the mode or branch."""
    seed = hashlib.sha256(f"{name}/{'train' if train else 'test'}".encode()).digest()[:4]
    generator = Generator().manual_seed(int.from_bytes(seed, "little"))
    x, label = TOYS[name](TOY_TRAIN if train else TOY_TEST, generator)
    return Loaded(x, label)


def _branches(n: int, branches: int, generator: Generator) -> Tensor:
    return torch.arange(n)[torch.randperm(n, generator=generator)] % branches


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def moons(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles of radius 1 with noise 0.1."""
    label = _branches(n, 2, generator)
    arc = _polar(torch.ones(n), math.pi * torch.rand(n, generator=generator))
    lower = torch.tensor([1.0, 0.5]) - arc
    x = torch.where(label[:, None] == 0, arc, lower)
    return x + 0.1 * torch.randn(n, 2, generator=generator), label


def circles(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two rings of radius 1 and 2 with noise 0.1."""
    label = _branches(n, 2, generator)
    ring = _polar(1.0 + label, 2 * math.pi * torch.rand(n, generator=generator))
    return ring + 0.1 * torch.randn(n, 2, generator=generator), label


def checkerboard(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Uniform on the eight dark squares, of side 1, of a 4 x 4 board."""
    label = _branches(n, 8, generator)
    row = label // 2
    column = 2 * (label % 2) + row % 2
    return torch.stack([column, row], -1) - 2.0 + torch.rand(n, 2, generator=generator), label


def eight_gaussians(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Eight normals of scale 0.2 on a circle of radius 2."""
    label = _branches(n, 8, generator)
    centers = _polar(torch.full((n,), 2.0), label * (math.pi / 4))
    return centers + 0.2 * torch.randn(n, 2, generator=generator), label


def spirals(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two spiral arms of one and a half turns with noise 0.1, as far as radius 3."""
    label = _branches(n, 2, generator)
    turn = torch.rand(n, generator=generator).sqrt()  # uniform along the arm, nearly
    arm = _polar(3 * turn, 3 * math.pi * turn + math.pi * label)
    return arm + 0.1 * torch.randn(n, 2, generator=generator), label


def pinwheel(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Five arms, normal across and along, twisted by exp(radius) (Johnson et al. 2016)."""
    label = _branches(n, 5, generator)
    along, across = torch.randn(2, n, generator=generator)
    radius, across = 1 + 0.3 * along, 0.05 * across
    angle = label * (2 * math.pi / 5) + 0.25 * radius.exp()
    offset = torch.stack([-angle.sin(), angle.cos()], -1) * across[:, None]
    return 2 * (_polar(radius, angle) + offset), label


TOYS: dict[str, Callable[[int, Generator], tuple[Tensor, Tensor]]] = {
    "moons": moons,
    "circles": circles,
    "checkerboard": checkerboard,
    "eight_gaussians": eight_gaussians,
    "spirals": spirals,
    "pinwheel": pinwheel,
}
