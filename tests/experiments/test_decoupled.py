"""Every regularized VAE from a config; its decoupled twin differs in one binding."""

import pytest
import torch

from flowprior import objectives
from flowprior.errors import InputError
from flowprior.experiments.config import load
from flowprior.priors import DecoupledPrior, StandardNormal

TEXT = """
experiment.source = @Source()
Source.name = 'moons'
Source.limit = 64
experiment.model = @autoencoder
autoencoder.features = 2
autoencoder.encoder = @encoder/MLP
encoder/MLP.in_features = 2
encoder/MLP.hidden = (8,)
autoencoder.decoder = @decoder/MLP
decoder/MLP.out_features = 2
decoder/MLP.hidden = (8,)
autoencoder.posterior = @GaussianPosterior()
autoencoder.likelihood = @GaussianLikelihood()
GaussianLikelihood.activation = 'identity'
autoencoder.prior = @StandardNormal
decoupled_prior.prior = @FlowPrior
FlowPrior.recipe = 'masked'
FlowPrior.transforms = 3
FlowPrior.hidden_features = (4,)
experiment.stages = [@joint_stage]
joint_stage.objective = @{objective}
{settings}
joint_stage.batch_size = 16
"""
OBJECTIVES = {
    "ELBO": "ELBO.kl_weight = 4.0",
    "CapacityELBO": "CapacityELBO.gamma = 15.0\nCapacityELBO.capacity_steps = 100",
    "BetaTCVAE": "BetaTCVAE.dataset_size = 64\nBetaTCVAE.sampling = 'weighted'",
    "FactorVAE": "FactorVAE.critic = @LatentCritic\nLatentCritic.hidden = (4,)",
    "InfoVAE": "InfoVAE.kernel = 'imq'\nInfoVAE.block = 8",
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_twins_differ_in_one_binding(objective, tmp_path):
    path = tmp_path / "row.gin"
    path.write_text(TEXT.format(objective=objective, settings=OBJECTIVES[objective]))
    twins = [load([str(path)]), load([str(path)], ["autoencoder.prior = @decoupled_prior"])]
    for loaded, kind in zip(twins, (StandardNormal, DecoupledPrior), strict=True):
        (stage,) = loaded.experiment.stages
        prior = stage.objective.model.prior
        assert type(prior) is kind
        assert isinstance(stage.objective, getattr(objectives, objective))
        assert torch.isfinite(stage.objective.losses("model", {"x": torch.rand(16, 2)}, 1)["loss"])
        if objective == "FactorVAE":
            assert [value.shape[0] for value in stage.objective.critic.parameters()] == [4, 4, 2, 2]
    first, second = (each.settings for each in twins)
    changed = {key for key in first.keys() & second.keys() if repr(first[key]) != repr(second[key])}
    assert changed == {"autoencoder.prior"}
    flow = twins[1].experiment.model.prior.prior
    assert len([name for name, _ in flow.named_parameters()]) > 0


def test_a_prior_that_cannot_be_decoupled_is_named(tmp_path):
    path = tmp_path / "row.gin"
    path.write_text(TEXT.format(objective="ELBO", settings=""))
    bindings = ["autoencoder.prior = @decoupled_prior", "decoupled_prior.prior = @MixturePrior"]
    with pytest.raises(InputError, match=r"`prior` \(a MixturePrior\) must be invertible"):
        load([str(path)], bindings)
