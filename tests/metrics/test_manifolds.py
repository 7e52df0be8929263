"""Precision, recall, density, coverage and copies, by double loops and where the answer is known."""

import math

import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import manifolds, nearest_ratio
from flowprior.metrics import manifolds as shares


def by_hand(ours, theirs, k):
    """The definitions, point by point."""
    ours, theirs = ours.tolist(), theirs.tolist()

    def radius(points, i):
        return sorted(math.dist(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    real = [radius(theirs, i) for i in range(len(theirs))]
    fake = [radius(ours, j) for j in range(len(ours))]
    inside = [[math.dist(o, t) <= r for t, r in zip(theirs, real, strict=True)] for o in ours]
    recalled = [any(math.dist(o, t) <= r for o, r in zip(ours, fake, strict=True)) for t in theirs]
    return (
        sum(map(any, inside)) / len(ours),
        sum(recalled) / len(theirs),
        sum(map(sum, inside)) / k / len(ours),
        sum(map(any, zip(*inside, strict=True))) / len(theirs),
    )


@pytest.mark.parametrize("k", [1, 3])
def test_all_four_are_their_definitions(k):
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(30, 3, generator=generator, dtype=torch.float64) * 0.7 + 0.3
    theirs = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    found = manifolds(ours, theirs, neighbors=k)
    expected = by_hand(ours, theirs, k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)
    assert (found.samples, found.real, found.neighbors) == (30, 40, k)


def test_one_law_has_density_one_and_the_coverage_that_naeem_derives():
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (torch.randn(2000, 8, generator=generator) for _ in range(2))
    found = shares(ours, theirs)
    assert found.density == pytest.approx(1, abs=0.04)
    assert found.coverage == pytest.approx(1 - 0.5**5, abs=0.02)  # at equal numbers, section 3.3.2


def test_a_dropped_mode_costs_recall_and_coverage_but_not_precision():
    generator = torch.Generator().manual_seed(2)
    theirs = torch.randn(400, 2, generator=generator)
    theirs[200:] += 50
    ours = torch.randn(400, 2, generator=generator)
    found = shares(ours, theirs)
    assert found.precision > 0.95
    assert found.recall < 0.55
    assert found.coverage < 0.55


def test_copies_are_seen():
    generator = torch.Generator().manual_seed(3)
    train, test, new = (torch.randn(300, 4, generator=generator) for _ in range(3))
    assert nearest_ratio(new, train, test) == pytest.approx(1, abs=0.15)
    assert nearest_ratio(train + 1e-3, train, test) < 0.02


def test_too_few_rows_and_numbers_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="neighbors"):
        manifolds(torch.zeros(5, 2), torch.zeros(9, 2), neighbors=5)
    with pytest.raises(InputError, match="samples"):
        manifolds(torch.full((9, 2), math.nan), torch.zeros(9, 2))
