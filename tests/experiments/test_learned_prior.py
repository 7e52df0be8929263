"""The learned-prior study at the paper's size is appendix A's, for each data set."""

import pytest
import torch
from torch import nn

from flowprior.bijectors.conditioner import AffineConditioner
from flowprior.experiments.config import load
from flowprior.models import GaussianPosterior
from flowprior.objectives import AdversarialAutoencoder, Bilevel, LinearAnnealing, MomentMatching
from flowprior.priors import FlowPrior, ImplicitPrior, StandardNormal

A3 = {  # couplings, width, epochs of the whole model, then of the flow; epochs of the AAE
    "mnist": (24, 1024, 200, 100, 200),
    "fashion_mnist": (24, 1024, 300, 100, 300),
    "cifar10": (16, 256, 500, 100, 300),
    "celeba": (30, 1024, 200, 50, 200),
}


def paper(config: str, data: str, *more: str):
    small = ("WIDTH = 0.02",) if config.endswith("flow") else ()
    loaded = load([config], ["SIZE = 'paper'", f"DATA = {data!r}", *small, *more])
    return loaded.experiment, loaded.experiment.stages


@pytest.mark.parametrize("data", A3)
def test_flow_of_appendix_a(data):
    couplings, width, epochs, alone, _ = A3[data]
    # Narrow networks, so that a flow of 50 million weights need not be built.
    experiment, stages = paper("learned_prior/flow", data, "FlowPrior.hidden_features = (2, 2)")
    prior = experiment.model.prior
    assert sum(isinstance(module, AffineConditioner) for module in prior.modules()) == couplings
    actnorms = [name for name, _ in prior.named_parameters() if name.endswith("log_scale")]
    assert len(actnorms) == couplings // 2
    assert experiment.model.prior.event_shape == (64,)
    assert isinstance(experiment.model.posterior, GaussianPosterior)
    wide = load(["learned_prior/flow"], ["SIZE = 'paper'", f"DATA = {data!r}", "FlowPrior.transforms = 1"])
    widths = [m.out_features for m in wide.experiment.model.prior.modules() if isinstance(m, nn.Linear)]
    assert widths == [width, width, 64]  # mu and sigma of 32 features each
    joint, prior = stages
    assert (joint.epochs, prior.epochs) == (epochs, alone)
    assert (joint.batch_size, prior.batch_size) == (100, 100)
    assert (joint.frozen, prior.frozen) == ((), ("autoencoder",))
    assert all(isinstance(stage.objective, Bilevel) for stage in stages)
    for group in ("autoencoder", "prior"):
        adam = joint.settings(group)
        assert (adam.kind, adam.betas, adam.eps, adam.weight_decay) == ("adam", (0.9, 0.999), 1e-8, 0.0)
        rates = [adam.rate(epoch, epochs, 1) for epoch in (0, 249, 250, 499)]
        halved = 5e-5 if data == "cifar10" else 1e-4
        assert rates == [1e-4, 1e-4, halved, halved]
    # 600 epochs of CIFAR-10 with a halving every 250: the last hundred are at a quarter.
    assert prior.settings("prior").rate(alone - 1, alone, 1) == (2.5e-5 if data == "cifar10" else 1e-4)


@pytest.mark.parametrize("data", A3)
def test_adversarial_prior_of_appendix_a(data):
    experiment, (stage,) = paper("learned_prior/aae", data, "WIDTH = 0.02")
    assert (stage.epochs, stage.batch_size) == (A3[data][4], 100)
    prior, objective = experiment.model.prior, stage.objective
    assert isinstance(prior, ImplicitPrior)
    assert isinstance(objective, AdversarialAutoencoder)
    assert [m.out_features for m in prior.layers if isinstance(m, nn.Linear)] == [1024, 1024, 1024, 64]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in prior.layers) == 3
    critic = [m for m in objective.critic.modules() if not isinstance(m, nn.Sequential)][1:]
    assert [type(m) for m in critic] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [m.out_features for m in critic if isinstance(m, nn.Linear)] == [1024, 1024, 1]
    for group in ("autoencoder", "prior", "critic"):
        assert stage.settings(group).rate(0, 1, 1) == 1e-4


def test_the_default_critic_is_the_papers():
    model = load(["learned_prior/aae"], ["WIDTH = 0.02"]).experiment.model
    critic = AdversarialAutoencoder(model).critic
    assert [m.out_features for m in critic.layers if isinstance(m, nn.Linear)] == [1024, 1024, 1]


@pytest.mark.parametrize(
    ("config", "bindings", "check"),
    [
        ("flow", ("BETA = 0.5",), lambda model, objective: objective.beta.at(0) == 0.5),
        (
            "flow",
            ("BETA = @LinearAnnealing()", "LinearAnnealing.steps = 100"),
            lambda model, objective: objective.beta.value == LinearAnnealing(100),
        ),
        ("flow", ("GAMMA = 'learned'",), lambda model, _: len(model.likelihood.learned_parameters()) == 1),
        (
            "flow",
            ("Bilevel.free_bits = 2.0", "Bilevel.latent_weight = 0.5"),
            lambda _, objective: (objective.free_bits, objective.latent_weight) == (2.0, 0.5),
        ),
        (
            "aae",
            ("BETA = 1.0", "autoencoder.prior = @StandardNormal"),
            lambda model, objective: isinstance(model.prior, StandardNormal) and not objective.learned,
        ),
        (
            "aae",
            ("AdversarialAutoencoder.gradient_penalty = 10.0", "AdversarialAutoencoder.saturating = False"),
            lambda _, objective: objective.gradient_penalty == 10 and not objective.saturating,
        ),
        (
            "aae",
            ("autoencoder.prior = @FlowPrior", "FlowPrior.transforms = 2"),
            lambda model, _: isinstance(model.prior, FlowPrior),
        ),
        (
            "gmmn",
            ("BETA = 1.0", "MomentMatching.scale = (1.0, 2.0)"),
            lambda _, objective: isinstance(objective, MomentMatching) and objective.scale == (1.0, 2.0),
        ),
    ],
)
def test_rows_are_one_or_two_bindings(config, bindings, check):
    loaded = load([f"learned_prior/{config}"], ["WIDTH = 0.02", "FEATURES = 4", *bindings])
    stages = loaded.experiment.stages
    assert check(loaded.experiment.model, stages[0].objective)


def test_a_critics_first_weights_follow_from_the_seed():
    def first(seed: int) -> torch.Tensor:
        loaded = load(["learned_prior/aae"], ["WIDTH = 0.02", f"experiment.seed = {seed}"])
        return loaded.experiment.stages[0].objective.critic.layers[0].weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
