"""Scores and dependence of trained models' codes, by name, on models whose codes are known."""

import math

import pytest
import torch
from torch import nn

from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation import disentanglement, measure
from flowprior.metrics import AggregatePosterior, dimension_kl, mapped_total_correlation, total_correlation
from flowprior.models import Autoencoder, GaussianPosterior
from flowprior.networks import MLP
from flowprior.priors import DecoupledPrior, FlowPrior, StandardNormal

RHO = 0.8
TRUTH = -0.5 * math.log(1 - RHO**2)


def correlated(n: int = 3000) -> AggregatePosterior:
    """Codes of covariance (1, ρ; ρ, 1) exactly: q(z) is nearly N(0, that)."""
    torch.manual_seed(0)
    noise = 0.3
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]]) - noise**2 * torch.eye(2)
    loc = torch.randn(n, 2)
    loc = (loc - loc.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(loc.T.cov()).T)
    loc = loc @ torch.linalg.cholesky(covariance).T
    return AggregatePosterior(loc, torch.full_like(loc, noise))


def test_total_correlation_of_a_gaussian():
    aggregate = correlated()
    found = total_correlation(aggregate, aggregate.sample(4000))
    assert abs(found.value - TRUTH) < 4 * found.standard_error + 0.02
    assert found.standard_error < 0.03


def test_total_correlation_where_the_map_takes_the_dependence_away_or_brings_it():
    """z0 = L⁻¹ z is white: TC 0. Of z0 = z in other units and shifted it is that of z."""
    aggregate = correlated()
    z = aggregate.sample(10_000)
    factor = torch.linalg.inv(torch.linalg.cholesky(torch.tensor([[1.0, RHO], [RHO, 1.0]])))

    def white(z):
        return z @ factor.T, torch.logdet(factor).expand(len(z))

    def scaled(z):
        return 3 * z + 1, torch.full((len(z),), 2 * math.log(3))

    assert mapped_total_correlation(aggregate, white, z).value == pytest.approx(0.0, abs=0.03)
    assert mapped_total_correlation(aggregate, scaled, z).value == pytest.approx(TRUTH, abs=0.04)


def test_each_dimensions_kl_of_normals():
    torch.manual_seed(1)
    q = torch.randn(3000, 2) * torch.tensor([0.5, 1.0])
    narrow, same = dimension_kl(q, torch.randn(3000, 2))
    assert narrow == pytest.approx(math.log(2) + 0.125 - 0.5, abs=0.06)
    assert same == pytest.approx(0.0, abs=0.06)


class Center(nn.Module):
    """Where the picture is bright, x and y, and how bright: codes that tell position and scale."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(3))

    def forward(self, x):
        mass = x.sum((1, 2, 3))
        place = torch.arange(x.shape[-1]).to(x)
        u, v = (x.sum((1, dims)) @ place / mass for dims in (2, 3))
        return torch.cat([torch.stack([u, v, mass], 1) * self.unit, torch.full((len(x), 3), -3.0)], 1)


def sprites_model(prior) -> Autoencoder:
    return Autoencoder(Center(), MLP(3, 4), prior, posterior=GaussianPosterior()).eval()


def test_scores_of_both_spaces_on_sprites(monkeypatch):
    from nflows.transforms import LULinear

    monkeypatch.setattr("flowprior.metrics.disentanglement.VOTES", 300)
    source = Source("sprites", limit=1500, size=16)
    names = ("mig", "modularity", "dci")
    plain = measure(sprites_model(StandardNormal(3)), source, names)
    assert plain.values.keys() >= {"mig_z", "modularity_z", "dci_disentanglement_z", "dci_informativeness_z"}
    assert not any(name.endswith("z0") for name in plain.values)
    assert plain.facts["mig"]["factors"] == 5
    torch.manual_seed(0)
    turn = LULinear(3)
    with torch.no_grad():
        turn.lower_entries.fill_(0.9)
        turn.upper_entries.fill_(0.9)
    mixed = measure(sprites_model(DecoupledPrior(FlowPrior(3, bijector=turn))), source, names).values
    for name in ("mig", "modularity", "dci_disentanglement"):
        assert mixed[f"{name}_z"] == pytest.approx(plain.values[f"{name}_z"])
        assert mixed[f"{name}_z0"] < mixed[f"{name}_z"] - 0.02


def test_dependence_is_measured_in_both_spaces(monkeypatch):
    monkeypatch.setattr(disentanglement, "MAPPED", 3000)
    source = Source("moons", limit=500)
    model = Autoencoder(MLP(2, 4), MLP(2, 2), FlowPrior(2), posterior=GaussianPosterior()).eval()
    found = measure(model, source, ["total_correlation"])
    spaces = [f"{name}_{space}" for name in ("total_correlation", "dimension_kl") for space in ("z", "z0")]
    assert set(found.values) == set(spaces)
    assert len(found.facts["total_correlation"]["z0"]["dimension_kl"]) == 2
    assert all(math.isfinite(value) for value in found.values.values())


def test_data_without_numbered_factors_is_refused():
    model = Autoencoder(MLP(2, 4), MLP(2, 2), StandardNormal(2), posterior=GaussianPosterior()).eval()
    with pytest.raises(InputError, match="'mig' needs factors known by number, as those of sprites"):
        measure(model, Source("moons", limit=50), ["mig"])
