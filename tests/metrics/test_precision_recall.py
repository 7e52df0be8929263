"""PRD on mixtures whose histograms are known, so that the whole curve is."""

import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import prd


def modes(*counts: int, seed: int = 0) -> torch.Tensor:
    """Tight blobs 100 apart on a line, with so many points each: their clusters are certain."""
    centres = 100 * torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return centres[:, None] + torch.rand(sum(counts), 2, generator=torch.Generator().manual_seed(seed))


def test_equal_sets_are_precise_and_complete():
    found = prd(modes(50, 50, seed=0), modes(50, 50, seed=1), clusters=2)
    assert found.f8 == pytest.approx(1, abs=1e-6)
    assert found.f1_8 == pytest.approx(1, abs=1e-6)
    assert found.samples == 100
    smooth = torch.randn(2, 2000, 4, generator=torch.Generator().manual_seed(0))
    close = prd(smooth[0], smooth[1], runs=3)  # 20 clusters of one Gaussian: only sampling noise
    assert 0.93 < close.f8 < 1
    assert 0.93 < close.f1_8 < 1


def test_disjoint_sets_share_nothing():
    found = prd(modes(100, 0), modes(0, 100), clusters=2)
    assert (found.f8, found.f1_8) == (0, 0)


def test_dropped_modes_cost_recall_alone_and_invented_ones_precision_alone():
    real = modes(25, 25, 25, 25)
    dropped = prd(modes(50, 50, 0, 0, seed=1), real, clusters=4)
    assert dropped.recall.max() == pytest.approx(0.5, abs=1e-6)
    assert dropped.precision.max() == pytest.approx(1, abs=1e-6)
    assert dropped.f8 == pytest.approx(65 * 0.5 / (64 + 0.5), abs=1e-2)  # at (1, 1/2), nearly
    assert dropped.f1_8 > 0.95
    invented = prd(real, modes(50, 50, 0, 0, seed=1), clusters=4)
    assert (invented.f8, invented.f1_8) == pytest.approx((dropped.f1_8, dropped.f8), abs=1e-3)


def test_the_curve_follows_its_definition():
    q, p = np.array([60, 30, 10, 0]) / 100, np.array([10, 40, 20, 30]) / 100
    found = prd(modes(60, 30, 10, 0), modes(10, 40, 20, 30, seed=1), clusters=4, angles=11, runs=2)
    slopes = np.tan(np.linspace(1e-10, np.pi / 2 - 1e-10, 11))
    precision = np.array([np.minimum(slope * p, q).sum() for slope in slopes])
    np.testing.assert_allclose(found.precision, precision, atol=1e-9)
    np.testing.assert_allclose(found.recall, precision / slopes, atol=1e-9)
    for value, beta in ((found.f8, 8), (found.f1_8, 1 / 8)):
        recall = precision / slopes
        scores = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
        assert value == pytest.approx(scores.max(), abs=1e-9)


def test_a_seed_decides_and_the_global_state_is_left_alone():
    real, samples = torch.randn(2, 300, 3, generator=torch.Generator().manual_seed(3))
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global one is the point
    first, again = prd(samples, real, runs=2), prd(samples, real, runs=2)
    assert (first.f8, first.f1_8) == (again.f8, again.f1_8)
    assert first.f8 != prd(samples, real, runs=2, seed=7).f8
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("samples", "real", "options", "message"),
    [
        (torch.zeros(30, 2), torch.zeros(31, 2), {}, "must be \\(N, F\\) and \\(N, F\\)"),
        (torch.zeros(30, 2), torch.zeros(30, 3), {}, "must be \\(N, F\\) and \\(N, F\\)"),
        (torch.zeros(30), torch.zeros(30), {}, "must be \\(N, F\\) and \\(N, F\\)"),
        (torch.zeros(19, 2), torch.zeros(19, 2), {}, r"`clusters` \(=20\) must be an int from 1 to 19"),
        (torch.full((30, 2), torch.nan), torch.zeros(30, 2), {}, "holds NaN or infinity in 30 of 30 rows"),
        (torch.zeros(30, 2), torch.zeros(30, 2), {"runs": 0}, r"`runs` \(=0\)"),
    ],
)
def test_wrong_input_is_named(samples, real, options, message):
    with pytest.raises(InputError, match=message):
        prd(samples, real, **options)
