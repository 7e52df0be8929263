"""A batch of one row, as the last of a validation may be, is finite in objectives that compare rows."""

import math

import pytest
import torch

from flowprior import FlowPrior
from flowprior.models import Autoencoder
from flowprior.models.posteriors import GaussianPosterior
from flowprior.networks import MLP
from flowprior.objectives import BetaTCVAE, InfoVAE, MomentMatching


def _model():
    prior = FlowPrior(2, transforms=2, hidden_features=(8,))
    return Autoencoder(MLP(6, 4), MLP(2, 6), prior, posterior=GaussianPosterior())


MAKE = {
    "moment matching": lambda: MomentMatching(_model()),
    "moment matching, unbiased": lambda: MomentMatching(_model(), unbiased=True),
    "total correlation": lambda: BetaTCVAE(_model(), 100),
    "total correlation, legacy": lambda: BetaTCVAE(_model(), 100, legacy=True),
    "total correlation, weighted": lambda: BetaTCVAE(_model(), 100, sampling="weighted"),
    "info": lambda: InfoVAE(_model()),
    "info, unbiased": lambda: InfoVAE(_model(), unbiased=True),
}


@pytest.mark.parametrize("name", MAKE)
def test_every_term_and_gradient_of_one_row_is_finite(name):
    objective = MAKE[name]()
    losses = objective.losses("model", {"x": torch.rand(1, 6)}, 0)
    assert all(math.isfinite(value.item()) for value in losses.values()), losses
    losses["loss"].backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in objective.parameters())


def test_one_example_is_all_of_the_aggregate_that_it_knows():
    """MI and TC are zero, so that what is left is the KL sample by sample."""
    losses = BetaTCVAE(_model(), 100).losses("model", {"x": torch.rand(1, 6)}, 0)
    assert losses["mutual_information"] == 0
    assert losses["total_correlation"].abs() < 1e-6
    torch.testing.assert_close(losses["dimension_kl"], losses["kl"])


def test_one_row_is_as_far_from_the_draw_as_the_unit_of_distance():
    """Both are points at distance 1 in that unit: MMD² = 2 - 2 mean exp(-1 / scale)."""
    losses = MomentMatching(_model(), scale=(0.5, 2.0), unbiased=True).losses(
        "model", {"x": torch.rand(1, 6)}, 0
    )
    expected = 2 - (math.exp(-2) + math.exp(-0.5))
    assert losses["mmd"].item() == pytest.approx(expected, rel=1e-4)
