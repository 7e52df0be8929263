"""Data sets without files: scikit-learn's digits, and toy densities in the plane."""

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from flowprior.data.dataset import Split, split_rows
from flowprior.registry import dataset

TOY_TRAIN, TOY_TEST = 20_000, 5_000
DIGITS = tuple(str(digit) for digit in range(10))
Draws = Callable[[int, Generator], tuple[Tensor, Tensor]]


@dataset("digits", shape=(1, 8, 8), classes=DIGITS)
def digits(source: Any, train: bool) -> Split:
    """The 1797 real 8x8 digits of scikit-learn: x (N, 1, 8, 8), gray levels 0..16 scaled to 0..255.

    A fifth of each class, always the same, is the test set.
    """
    from sklearn.datasets import load_digits

    images, label = load_digits(return_X_y=True)
    x = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    target = torch.from_numpy(label).long()
    return Split(x, target, DIGITS).rows(split_rows(len(x), train, 0.2, target))


def _toy(branches: int) -> Callable[[Draws], Draws]:
    """Make n draws of a density, x (n, 2) float32 and the mode or branch of each, a data set of its name."""

    def enter(draw: Draws) -> Draws:
        name = draw.__name__

        @functools.wraps(draw)
        def read(source: Any, train: bool) -> Split:
            seed = hashlib.sha256(f"{name}/{'train' if train else 'test'}".encode()).digest()[:4]
            generator = Generator().manual_seed(int.from_bytes(seed, "little"))
            return Split(*draw(TOY_TRAIN if train else TOY_TEST, generator))

        classes = tuple(str(branch) for branch in range(branches))
        dataset(name, shape=(2,), classes=classes, shaped_by=(), because="is a set of vectors")(read)
        return draw

    return enter


def _branches(n: int, branches: int, generator: Generator) -> Tensor:
    return torch.arange(n)[torch.randperm(n, generator=generator)] % branches


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


@_toy(2)
def moons(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles of radius 1 with noise 0.1."""
    label = _branches(n, 2, generator)
    arc = _polar(torch.ones(n), math.pi * torch.rand(n, generator=generator))
    lower = torch.tensor([1.0, 0.5]) - arc
    x = torch.where(label[:, None] == 0, arc, lower)
    return x + 0.1 * torch.randn(n, 2, generator=generator), label


@_toy(2)
def circles(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two rings of radius 1 and 2 with noise 0.1."""
    label = _branches(n, 2, generator)
    ring = _polar(1.0 + label, 2 * math.pi * torch.rand(n, generator=generator))
    return ring + 0.1 * torch.randn(n, 2, generator=generator), label


@_toy(8)
def checkerboard(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Uniform on the eight dark squares, of side 1, of a 4 x 4 board."""
    label = _branches(n, 8, generator)
    row = label // 2
    column = 2 * (label % 2) + row % 2
    return torch.stack([column, row], -1) - 2.0 + torch.rand(n, 2, generator=generator), label


@_toy(8)
def eight_gaussians(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Eight normals of scale 0.2 on a circle of radius 2."""
    label = _branches(n, 8, generator)
    centers = _polar(torch.full((n,), 2.0), label * (math.pi / 4))
    return centers + 0.2 * torch.randn(n, 2, generator=generator), label


@_toy(2)
def spirals(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two spiral arms of one and a half turns with noise 0.1, as far as radius 3."""
    label = _branches(n, 2, generator)
    turn = torch.rand(n, generator=generator).sqrt()  # uniform along the arm, nearly
    arm = _polar(3 * turn, 3 * math.pi * turn + math.pi * label)
    return arm + 0.1 * torch.randn(n, 2, generator=generator), label


@_toy(5)
def pinwheel(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Five arms, normal across and along, twisted by exp(radius) (Johnson et al. 2016)."""
    label = _branches(n, 5, generator)
    along, across = torch.randn(2, n, generator=generator)
    radius, across = 1 + 0.3 * along, 0.05 * across
    angle = label * (2 * math.pi / 5) + 0.25 * radius.exp()
    offset = torch.stack([-angle.sin(), angle.cos()], -1) * across[:, None]
    return 2 * (_polar(radius, angle) + offset), label
