"""Data sets without files: scikit-learn's digits, and toy densities in the plane."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from flowprior.data.dataset import Split, seeded, split_rows
from flowprior.registry import dataset

TOY_TRAIN, TOY_TEST = 20_000, 5_000
DIGITS = tuple(str(digit) for digit in range(10))
Draws = Callable[[Tensor, Generator], Tensor]


@dataset("digits", shape=(1, 8, 8), classes=DIGITS)
def digits(source: Any, train: bool) -> Split:
    """The 1797 real 8x8 digits of scikit-learn: x (N, 1, 8, 8), gray levels 0..16 scaled to 0..255.

    A fifth of each class, always the same, is the test set.
    """
    from sklearn.datasets import load_digits

    images, label = map(torch.from_numpy, load_digits(return_X_y=True))
    x = images.mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    return Split(x, label.long(), DIGITS).rows(split_rows(len(x), train, 0.2, label))


def _toy(branches: int) -> Callable[[Draws], Draws]:
    """Make draws of a density, x (n, 2) float32 given the mode or branch of each, a data set of its name."""

    def enter(draw: Draws) -> Draws:
        @functools.wraps(draw)
        def read(source: Any, train: bool) -> Split:
            generator = seeded(f"{draw.__name__}/{'train' if train else 'test'}")
            label = torch.randperm(TOY_TRAIN if train else TOY_TEST, generator=generator) % branches
            return Split(draw(label, generator), label)

        classes = tuple(map(str, range(branches)))
        dataset(draw.__name__, shape=(2,), classes=classes, shaped_by=(), because="is a set of vectors")(read)
        return draw

    return enter


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


@_toy(2)
def moons(label: Tensor, generator: Generator) -> Tensor:
    """Two interleaved half circles of radius 1 with noise 0.1."""
    arc = _polar(torch.ones(len(label)), math.pi * torch.rand(len(label), generator=generator))
    x = torch.where(label[:, None] == 0, arc, torch.tensor([1.0, 0.5]) - arc)
    return x + 0.1 * torch.randn(len(label), 2, generator=generator)


@_toy(2)
def circles(label: Tensor, generator: Generator) -> Tensor:
    """Two rings of radius 1 and 2 with noise 0.1."""
    ring = _polar(1.0 + label, 2 * math.pi * torch.rand(len(label), generator=generator))
    return ring + 0.1 * torch.randn(len(label), 2, generator=generator)


@_toy(8)
def checkerboard(label: Tensor, generator: Generator) -> Tensor:
    """Uniform on the eight dark squares, of side 1, of a 4 x 4 board."""
    row = label // 2
    corner = torch.stack([2 * (label % 2) + row % 2, row], -1) - 2.0
    return corner + torch.rand(len(label), 2, generator=generator)


@_toy(8)
def eight_gaussians(label: Tensor, generator: Generator) -> Tensor:
    """Eight normals of scale 0.2 on a circle of radius 2."""
    centers = _polar(torch.full_like(label, 2.0, dtype=torch.float), label * (math.pi / 4))
    return centers + 0.2 * torch.randn(len(label), 2, generator=generator)


@_toy(2)
def spirals(label: Tensor, generator: Generator) -> Tensor:
    """Two spiral arms of one and a half turns with noise 0.1, as far as radius 3."""
    turn = torch.rand(len(label), generator=generator).sqrt()  # uniform along the arm, nearly
    arm = _polar(3 * turn, 3 * math.pi * turn + math.pi * label)
    return arm + 0.1 * torch.randn(len(label), 2, generator=generator)


@_toy(5)
def pinwheel(label: Tensor, generator: Generator) -> Tensor:
    """Five arms, normal across and along, twisted by exp(radius) (Johnson et al. 2016)."""
    along, across = torch.randn(2, len(label), generator=generator)
    radius, across = 1 + 0.3 * along, 0.05 * across
    angle = label * (2 * math.pi / 5) + 0.25 * radius.exp()
    offset = torch.stack([-angle.sin(), angle.cos()], -1) * across[:, None]
    return 2 * (_polar(radius, angle) + offset)
