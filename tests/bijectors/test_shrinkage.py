"""The shrunk Gaussian: its score against leaving rows out by hand, its choice against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch.distributions import MultivariateNormal

from flowprior.bijectors import Whitening
from flowprior.bijectors.shrinkage import _left_out


def _correlated(rows: int, features: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    mix *= torch.exp(-torch.arange(features) / 8)
    return torch.randn(rows, features, generator=generator, dtype=torch.float64) @ mix.T


def _nll(whitening: Whitening, z: torch.Tensor) -> float:
    z0, logabsdet = whitening.to_base(z)
    return -(logabsdet - 0.5 * z0.square().sum(1)).mean().item() / z.shape[1]


def test_the_closed_form_is_that_of_leaving_each_row_out():
    z = _correlated(12, 5)
    alphas = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)
    centered = z - z.mean(0)
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(z))
    got = _left_out((centered @ vectors).square(), values, len(z), alphas)
    for alpha, score in zip(alphas.tolist(), got.tolist(), strict=True):
        logs = []
        for row in range(len(z)):
            rest = torch.cat((z[:row], z[row + 1 :]))
            covariance = (1 - alpha) * rest.T.cov(correction=0) + alpha * torch.eye(5).double()
            logs.append(MultivariateNormal(rest.mean(0), covariance).log_prob(z[row]).item())
        assert score == pytest.approx(np.mean(logs) + 2.5 * np.log(2 * np.pi), rel=1e-9)


@pytest.mark.parametrize("rows", [40, 100, 400])
def test_few_rows_are_no_worse_than_ledoit_wolf_and_many_are_exact(rows):
    z, fresh = _correlated(rows, 64), _correlated(2_000, 64, seed=1)
    theirs = -LedoitWolf().fit(z).score(fresh) / 64 - 0.5 * np.log(2 * np.pi)
    assert _nll(Whitening.from_data(z), fresh) < theirs
    many = _correlated(20_000, 8)
    factor = Whitening.from_data(many).scale_tril
    torch.testing.assert_close(factor @ factor.T, many.T.cov(correction=0))


def test_double_data_keep_double_limits():
    z = _correlated(2_000, 4)
    z[:, 3] = z[:, 0] + 1e-5 * z[:, 3]  # float32 would take it for exact low rank
    for offset, columns in ((0.0, 4), (1e9, 3)):  # and what varies about 1e9 for constant
        moved = z[:, :columns] + offset
        z0, _ = Whitening.from_data(moved).to_base(moved)
        torch.testing.assert_close(z0.T.cov(correction=0), torch.eye(columns).double(), rtol=0, atol=1e-3)
