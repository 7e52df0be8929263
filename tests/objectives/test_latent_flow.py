"""GLF: Eq. 5's two disjoint gradients, Eq. 4's joint one, and stages over frozen groups."""

import math

import pytest
import torch

from flowprior.errors import InputError
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP, SmallDecoder, SmallEncoder
from flowprior.objectives import LatentFlow, LatentNLL
from flowprior.priors import FlowPrior, StandardNormal


def glf(context_features=None) -> Autoencoder:
    torch.manual_seed(0)
    prior = FlowPrior(4, hidden_features=(16, 16), context_features=context_features)
    model = Autoencoder(SmallEncoder(1, 4, width=0.25), SmallDecoder(4, 1, width=0.25), prior).double()
    with torch.no_grad():  # off the identity, so that its gradient is not special
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(n=6) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(loss, parameters):
    return torch.autograd.grad(loss, list(parameters), allow_unused=True)


def assert_same(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_equation_5_trains_each_part_on_its_own_term(weight):
    model, x = glf(), images()
    groups = LatentFlow(model).parameter_groups("model")
    loss = LatentFlow(model, reconstruction_weight=weight).losses("model", {"x": x}, 0)["loss"]
    coder, prior = groups["autoencoder"], groups["prior"]
    got = gradients(loss, coder + prior)
    z = model.encoder(x)
    reconstruction = model.likelihood.nll(model.decoder(z), x).mean()
    nll = -model.prior.log_prob(z.detach()).mean()
    assert_same(got, gradients(weight * reconstruction, coder) + gradients(nll, prior))


def test_stop_gradient_keeps_the_nll_from_the_encoder_and_the_reconstruction_from_the_prior():
    model, x = glf(), images()
    encoder, prior = list(model.encoder.parameters()), list(model.prior.parameters())
    loss = LatentFlow(model, reconstruction_weight=0.0).losses("model", {"x": x}, 0)["loss"]
    for gradient in gradients(loss, encoder):
        assert gradient is None or not gradient.any()
    reconstruction = LatentFlow(model, reconstruction_weight=1e6).losses("model", {"x": x}, 0)["loss"]
    assert_same(gradients(reconstruction, prior), gradients(loss, prior))


def test_equation_4_is_the_joint_gradient():
    model, x = glf(), images()
    objective = LatentFlow(model, reconstruction_weight=50.0, stop_gradient=False)
    parameters = list(objective.parameters_of("model"))
    z = model.encoder(x)
    joint = 50.0 * model.likelihood.nll(model.decoder(z), x).mean() - model.prior.log_prob(z).mean()
    assert_same(
        gradients(objective.losses("model", {"x": x}, 0)["loss"], parameters), gradients(joint, parameters)
    )
    encoder = list(model.encoder.parameters())
    alone = LatentFlow(model, 0.0, stop_gradient=False).losses("model", {"x": x}, 0)["loss"]
    assert sum(gradient.abs().sum() for gradient in gradients(alone, encoder)) > 0


def test_terms_are_named_and_add_up():
    model, x = glf().eval(), images()
    terms = LatentFlow(model, reconstruction_weight=3.0).losses("model", {"x": x}, 0)
    assert terms.keys() == {"loss", "reconstruction", "nll"}
    torch.testing.assert_close(terms["loss"], 3.0 * terms["reconstruction"] + terms["nll"])
    torch.testing.assert_close(terms["nll"], -model.prior.log_prob(model.codes(x)).mean().detach())
    assert not terms["reconstruction"].requires_grad
    assert not terms["nll"].requires_grad


def test_with_the_autoencoder_frozen_only_the_prior_moves():
    """The second stage of two-stage GLF by LatentFlow; LatentNLL on the codes gives the same gradient."""
    model, x = glf(), images()
    objective = LatentFlow(model)
    groups = objective.parameter_groups("model")
    for parameter in groups["autoencoder"]:
        parameter.requires_grad_(False)
    model.eval()
    model.prior.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(groups["prior"], lr=0.1)
    objective.losses("model", {"x": x}, 0)["loss"].backward()
    assert all(parameter.grad is None for parameter in groups["autoencoder"])
    joint = [parameter.grad.clone() for parameter in groups["prior"]]
    optimizer.zero_grad()
    alone = LatentNLL(model.prior)
    alone.losses("model", {"z": model.codes(x)}, 0)["loss"].backward()
    assert_same([parameter.grad for parameter in groups["prior"]], joint)
    optimizer.step()
    for name, value in model.state_dict().items():
        if not name.startswith("prior."):
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    assert objective.parameter_groups("model").keys() == {"autoencoder", "prior"}  # frozen, still listed


def test_the_nll_of_codes_with_a_spread_is_the_cross_entropy_of_the_aggregate_posterior():
    """E_N(m, s²)[-log N(z; 0, 1)] = ½ (m² + s² + log 2π)."""
    torch.manual_seed(0)
    mean, std = torch.tensor([1.5, -2.0]), torch.tensor([0.5, 3.0])
    rows = torch.ones(200_000, 1)
    batch = {"z": rows * mean, "std": rows * std}
    expected = 0.5 * (mean**2 + std**2 + math.log(2 * math.pi)).sum().item()
    found = LatentNLL(StandardNormal(2)).losses("model", batch, 0)["nll"].item()
    assert found == pytest.approx(expected, abs=0.1)  # its standard error is 0.02
    batch = {"z": rows * mean, "std": 0 * rows * std}
    point = 0.5 * (mean**2 + math.log(2 * math.pi)).sum().item()
    assert LatentNLL(StandardNormal(2)).losses("model", batch, 0)["nll"].item() == pytest.approx(point)


def test_with_the_prior_frozen_only_the_autoencoder_moves():
    model, x = glf(), images()
    objective = LatentFlow(model)
    model.prior.requires_grad_(False)
    objective.losses("model", {"x": x}, 0)["loss"].backward()
    assert all(parameter.grad is None for parameter in model.prior.parameters())
    assert all(parameter.grad is not None for parameter in objective.parameter_groups("model")["autoencoder"])


def test_training_reduces_both_terms():
    model, x = glf(), images(32)
    objective = LatentFlow(model)
    optimizer = torch.optim.Adam(objective.parameters_of("model"), lr=3e-3)
    history = []
    for step in range(80):
        terms = objective.losses("model", {"x": x}, step)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        history.append((terms["reconstruction"].item(), terms["nll"].item()))
    assert history[-1][0] < history[0][0] - 1
    last = -model.prior.log_prob(model.codes(x)).mean()
    fresh = -StandardNormal(4).double().log_prob(model.codes(x)).mean()
    assert last < fresh


def test_conditional_prior_reads_the_batchs_context():
    model, x = glf(context_features=3), images()
    context = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2]]
    objective = LatentFlow(model.eval())
    nll = objective.losses("model", {"x": x, "context": context}, 0)["nll"]
    torch.testing.assert_close(nll, -model.prior.log_prob(model.codes(x), context).mean().detach())
    with pytest.raises(InputError, match="no 'context'"):
        objective.losses("model", {"x": x}, 0)
    z = model.codes(x)
    terms = LatentNLL(model.prior).losses("model", {"z": z, "context": context}, 0)
    torch.testing.assert_close(terms["nll"], nll)
    with pytest.raises(InputError, match="no 'context'"):
        LatentNLL(model.prior).losses("model", {"z": z}, 0)


def test_latent_nll_of_a_normal_prior_is_torchs():
    torch.manual_seed(0)
    z = torch.randn(9, 4)
    objective = LatentNLL(StandardNormal(4))
    expected = -torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1).mean()
    terms = objective.losses("model", {"z": z}, 0)
    assert terms.keys() == {"loss", "nll"}
    torch.testing.assert_close(terms["loss"], expected)
    assert objective.parameter_groups("model") == {}
    assert list(objective.parameters_of("model")) == []


def test_learned_variance_trains_with_the_autoencoder():
    torch.manual_seed(0)
    likelihood = GaussianLikelihood("learned", "identity")
    model = Autoencoder(MLP(5, 2), MLP(2, 5), StandardNormal(2), likelihood=likelihood)
    objective = LatentFlow(model)
    assert any(
        parameter is likelihood.log_variance
        for parameter in objective.parameter_groups("model")["autoencoder"]
    )
    objective.losses("model", {"x": torch.rand(4, 5)}, 0)["loss"].backward()
    assert likelihood.log_variance.grad.abs() > 0


def test_bad_use_is_named():
    model = Autoencoder(MLP(5, 4), MLP(2, 5), StandardNormal(2), posterior=GaussianPosterior())
    with pytest.raises(InputError, match="GaussianPosterior"):
        LatentFlow(model)
    with pytest.raises(InputError, match="`reconstruction_weight` \\(='high'\\)"):
        LatentFlow(glf(), reconstruction_weight="high")
    with pytest.raises(InputError, match=r"no 'z'.*only 'x'"):
        LatentNLL(StandardNormal(2)).losses("model", {"x": torch.zeros(2, 2)}, 0)
    with pytest.raises(InputError, match="`player`"):
        LatentNLL(StandardNormal(2)).parameter_groups("critic")
