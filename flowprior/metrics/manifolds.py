"""Precision, recall, density and coverage by nearest neighbors, and how near samples lie to training data."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite, check_shapes

_CHUNK = 2**24  # distances held at a time


@dataclass(frozen=True)
class Manifolds:
    """What `manifolds` returns, each in [0, 1], density excepted."""

    precision: float
    recall: float
    density: float
    coverage: float
    neighbors: int
    samples: int
    real: int


def manifolds(samples: Tensor, real: Tensor, *, neighbors: int = 5) -> Manifolds:
    """How features (N, F) and (M, F) lie in one another's balls, of radius the k-th neighbor in their set.

    precision   share of samples within the ball of a real one
    recall      share of real ones within the ball of a sample
    density     mean number of real balls around a sample, divided by k: 1 in the mean at equality
    coverage    share of real ones whose ball holds a sample

    Source: Kynkäänniemi et al. 2019 (precision and recall), Naeem et al. 2020 (density and coverage, Eq. 4
    and 5; k = 5).

    Raises:
        InputError: if the features differ in number, are not finite, or a set has no more rows than k.

    >>> line = torch.arange(20.0)[:, None]
    >>> manifolds(line + 100, line).precision, manifolds(line, line).coverage
    (0.0, 1.0)
    """
    check_shapes("pass features of one network", samples=(samples, "N F"), real=(real, "M F"))
    fix = "the smaller set must hold more rows"
    check_count("neighbors", neighbors, most=min(len(samples), len(real)) - 1, fix=fix)
    for name, features in (("samples", samples), ("real", real)):
        check_finite(name, features, "check the images and the network")
    ours, theirs = samples.double(), real.double()
    radii, own_radii = (_kth_nearest(x, x, neighbors + 1) for x in (theirs, ours))  # itself is the first
    inside = torch.zeros(len(ours), dtype=torch.long, device=ours.device)
    recalled = torch.zeros(len(theirs), dtype=torch.bool, device=ours.device)
    covered = torch.zeros_like(recalled)
    for rows, distances in _distances(theirs, ours):  # (n, N)
        within = distances <= radii[rows, None]
        inside += within.sum(0)
        covered[rows] = within.any(1)
        recalled[rows] = (distances <= own_radii).any(1)
    precision, density = (inside > 0).double().mean(), inside.double().mean() / neighbors
    return Manifolds(
        precision=precision.item(),
        recall=recalled.double().mean().item(),
        density=density.item(),
        coverage=covered.double().mean().item(),
        neighbors=neighbors,
        samples=len(ours),
        real=len(theirs),
    )


def nearest_ratio(samples: Tensor, train: Tensor, test: Tensor) -> float:
    """The median distance of samples (N, F) to their nearest of `train` (M, F), over that of `test` (K, F).

    1 where samples are as new as test data; clearly below it, they are copies of training examples. It is
    the two-sample idea of Meehan et al. 2020 in one number.

    Raises:
        InputError: if the features differ in number, or a set is empty.
    """
    shapes = {"samples": (samples, "N>0 F"), "train": (train, "M>0 F"), "test": (test, "K>0 F")}
    check_shapes("pass features of one network", **shapes)
    ours, theirs = (_kth_nearest(x.double(), train.double(), 1).median() for x in (samples, test))
    return (ours / theirs).item()


def _kth_nearest(x: Tensor, y: Tensor, k: int) -> Tensor:
    """The distance of each row of x (N, F) to its k-th nearest in y (M, F): (N,)."""
    return torch.cat([distances.kthvalue(k, 1).values for _, distances in _distances(x, y)])


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows of x and their distances to all of y."""
    size = max(1, _CHUNK // len(y))
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        yield rows, torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist")
