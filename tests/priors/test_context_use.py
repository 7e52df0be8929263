"""A conditional prior that ignores its context is found out: log-densities at true and shuffled contexts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flowprior.priors import EmbeddedPrior, FlowPrior, GaussianPrior, HierarchicalPrior, Prior
from flowprior.training.fit import fit

SMALL = {"transforms": 2, "hidden_features": (8, 8)}
MAPS: dict[str, Callable[[], Prior]] = {
    "spatial": lambda: FlowPrior((2, 4, 4), recipe="spatial", context_features=(1, 8, 8), **SMALL),
    "flat": lambda: FlowPrior((2, 4, 4), context_features=(1, 8, 8), **SMALL),
    "embedded": lambda: EmbeddedPrior(
        FlowPrior((2, 4, 4), context_features=32, **SMALL),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ELU()),
        (1, 8, 8),
    ),
    "gaussian": lambda: GaussianPrior((2, 4, 4), (1, 8, 8), hidden_features=(8, 8)),
    "groups": lambda: GaussianPrior((2, 4, 4), (1, 8, 8), hidden_features=(8, 8), groups=4),
}


def pairs(rows: int) -> tuple[Tensor, Tensor]:
    """Context maps c (N, 1, 8, 8), and z (N, 2, 4, 4) around their cells."""
    c = torch.randn(rows, 1, 8, 8)
    cells = 2 * nn.functional.avg_pool2d(c, 2)
    return torch.cat((cells, -cells), 1) + 0.3 * torch.randn(rows, 2, 4, 4), c


def gain(prior: Prior, z: Tensor, c: Tensor) -> float:
    """Mean of log p(z | c) - log p(z | c'), c' being the context of another row: nats that it is worth."""
    with torch.no_grad():
        return (prior.log_prob(z, c) - prior.log_prob(z, c.roll(1, 0))).mean().item()


def train(prior: Prior, z: Tensor, c: Tensor) -> None:
    fit(
        prior,
        z,
        c,
        epochs=15,
        batch_size=128,
        lr=1e-2,
        standardize="diagonal",
        progress=False,
        device="cpu",
    )


@pytest.mark.parametrize("kind", MAPS)
def test_a_trained_prior_prefers_the_true_context_and_one_that_ignores_it_does_not(kind):
    z, c = pairs(1500)
    fresh_z, fresh_c = pairs(500)
    prior = MAPS[kind]()
    assert abs(gain(prior, fresh_z, fresh_c)) < 1  # before training it means little
    train(prior, z, c)
    assert gain(prior, fresh_z, fresh_c) > 5
    deaf = MAPS[kind]()
    train(deaf, z, c.roll(1, 0))  # a context of another row says nothing about z
    assert abs(gain(deaf, fresh_z, fresh_c)) < 1


def test_each_scale_of_a_hierarchy_uses_its_own_context():
    fine, maps = pairs(1500)
    first = torch.randn(1500, 1, 2, 2)
    coarse = torch.cat((first, first), 1) + 0.3 * torch.randn(1500, 2, 2, 2)
    z = torch.cat((coarse.flatten(1), fine.flatten(1)), 1)
    cells = nn.functional.avg_pool2d(maps, 2)
    c = torch.cat((first.flatten(1), cells.flatten(1)), 1)
    prior = HierarchicalPrior(
        [
            FlowPrior((2, 2, 2), recipe="spatial", context_features=(1, 2, 2), **SMALL),
            FlowPrior((2, 4, 4), recipe="spatial", context_features=(1 + 2, 4, 4), **SMALL),
        ]
    )
    train(prior, z[:1200], c[:1200])
    z, c = z[1200:], c[1200:]
    other = c.roll(1, 0)
    coarse_only = torch.cat((c[:, :4], other[:, 4:]), 1)
    fine_only = torch.cat((other[:, :4], c[:, 4:]), 1)
    with torch.no_grad():
        true, lost_fine, lost_coarse = (
            prior.log_prob(z, seen).mean().item() for seen in (c, coarse_only, fine_only)
        )
    assert true > lost_fine + 3
    assert true > lost_coarse + 3


@pytest.mark.parametrize("kind", MAPS)
def test_a_prior_whose_context_weights_are_zero_gains_exactly_nothing(kind):
    prior = MAPS[kind]()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    z, c = pairs(50)
    assert gain(prior, z, c) != 0
    seen = {"spatial": 1, "flat": 64, "gaussian": 1, "groups": 4}.get(kind)
    with torch.no_grad():
        if isinstance(prior, EmbeddedPrior):
            prior.embedding[1].weight.zero_()
        elif isinstance(prior, FlowPrior):
            prior.base_mean.weight.zero_()
            for step in prior.bijector.steps:
                for network in getattr(getattr(step, "transform_net", None), "networks", {}).values():
                    network.layers[0].weight[:, -seen:] = 0  # the context comes behind what is passed on
        else:
            for mean in prior.means:
                mean[0].weight[:, :seen] = 0  # the context comes before the groups
    assert gain(prior, z, c) == 0
