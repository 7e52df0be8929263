"""A Variational U-net from a config: its parts agree on sizes, with one prior or one a scale."""

import pytest
import torch

from flowprior.errors import InputError
from flowprior.experiments import builders
from flowprior.experiments.config import load
from flowprior.models import GaussianPosterior, LaplaceLikelihood, UnitGaussianPosterior, VariationalUnet
from flowprior.objectives import ELBO, LinearAnnealing
from flowprior.priors import EmbeddedPrior, FlowPrior, StandardNormal

TEXT = """
experiment.source = @Source()
Source.name = 'digits'
Source.limit = 64
experiment.model = @variational_unet
variational_unet.size = 32
variational_unet.channels = 3
variational_unet.context_channels = 1
variational_unet.latent_channels = 2
variational_unet.filters = 2
variational_unet.max_filters = 4
variational_unet.blocks = 1
variational_unet.posterior = @UnitGaussianPosterior()
variational_unet.likelihood = @LaplaceLikelihood()
LaplaceLikelihood.scale = 'learned'
variational_unet.prior = @concatenated_prior
concatenated_prior.prior = @FlowPrior
FlowPrior.transforms = 2
FlowPrior.hidden_features = (4,)
experiment.stages = [@joint_stage]
joint_stage.objective = @ELBO
joint_stage.optimizers = @OptimizerSettings()
OptimizerSettings.schedule = 'linear'
OptimizerSettings.linear_after = 0.01
ELBO.kl_weight = @LinearAnnealing()
LinearAnnealing.steps = 25000
LinearAnnealing.after = 50000
LinearAnnealing.start = 1e-6
"""


def test_a_config_builds_and_takes_a_step(tmp_path):
    path = tmp_path / "unet.gin"
    path.write_text(TEXT)
    loaded = load([str(path)])
    model = loaded.experiment.model
    assert isinstance(model, VariationalUnet)
    assert isinstance(model.posterior, UnitGaussianPosterior)
    assert isinstance(model.likelihood, LaplaceLikelihood)
    assert (model.prior.event_shape, model.prior.context_features) == ((2 * 80,), 4 * 80)
    (stage,) = loaded.experiment.stages
    assert isinstance(stage.objective, ELBO)
    assert stage.objective.kl_weight == LinearAnnealing(25_000, 1e-6, after=50_000)
    assert stage.settings("prior").linear_after == 0.01
    batch = {"x": torch.rand(4, 3, 32, 32), "context": torch.rand(4, 1, 32, 32)}
    assert stage.objective.losses("model", batch, 0)["loss"].isfinite()


def test_a_prior_with_a_shape_branch_of_its_own(tmp_path):
    path = tmp_path / "unet.gin"
    path.write_text(TEXT + "variational_unet.prior_branch = True\n")
    loaded = load([str(path)])
    prior = loaded.experiment.model.prior
    assert isinstance(prior, EmbeddedPrior)
    assert (prior.event_shape, prior.context_features) == ((2 * 80,), (1, 32, 32))
    assert prior.prior.context_features == 4 * 80
    (stage,) = loaded.experiment.stages
    batch = {"x": torch.rand(4, 3, 32, 32), "context": torch.rand(4, 1, 32, 32)}
    assert stage.objective.losses("model", batch, 0)["loss"].isfinite()


def test_a_prior_that_cannot_be_conditioned_is_one_sentence(tmp_path):
    path = tmp_path / "unet.gin"
    path.write_text(TEXT + "variational_unet.prior = @StandardNormal\n")
    with pytest.raises(InputError, match="`StandardNormal` stands where it is given `context_features`"):
        load([str(path)])


def test_the_encoder_gives_what_the_posterior_reads():
    model = builders.variational_unet(
        32,
        3,
        1,
        lambda features, context_features: StandardNormal(2 * 80),
        latent_channels=2,
        filters=2,
        max_filters=4,
        blocks=1,
        posterior=GaussianPosterior(),
    )
    q = model.encode(torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32))
    assert (q.batch_shape, q.event_shape) == ((2,), (160,))


def test_a_hierarchical_prior_has_a_child_a_scale_and_the_finer_sees_the_coarser(monkeypatch):
    monkeypatch.setattr(builders, "HierarchicalPrior", lambda priors: priors)  # what it is given is tested
    seen = []

    def child(name):
        return lambda features, context_features: seen.append((name, features, context_features)) or name

    shapes = {"features": ((2, 4, 4), (2, 8, 8)), "context_features": ((5, 4, 4), (6, 8, 8))}
    assert builders.hierarchical_prior(**shapes, prior=child("a"), fine=child("b")) == ["a", "b"]
    assert seen == [("a", (2, 4, 4), (5, 4, 4)), ("b", (2, 8, 8), (6 + 2, 8, 8))]
    assert builders.hierarchical_prior(**shapes, prior=child("a")) == ["a", "a"]
    three = {name: (*value, (3, 16, 16)) for name, value in shapes.items()}
    builders.hierarchical_prior(**three, prior=child("a"))
    assert seen[-1] == ("a", (3, 16, 16), (3 + 2 + 2, 16, 16))


@pytest.mark.parametrize("shapes", [((2, 4, 4), (2, 8, 8)), ((2, 2, 2),)])
def test_a_concatenated_prior_is_one_over_all_of_them(shapes):
    prior = builders.concatenated_prior(shapes, [(3, *sides) for _, *sides in shapes], FlowPrior)
    total = sum(c * h * w for c, h, w in shapes)
    assert (prior.event_shape, prior.context_features) == ((total,), total * 3 // 2)
