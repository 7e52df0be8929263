"""Flows of zuko, nflows, normflows and FrEIA: taken as they are, or refused with what makes them fit."""

import copy

import FrEIA
import normflows
import pyro.distributions.transforms as pt
import pytest
import torch
import zuko
from nflows.distributions import ConditionalDiagonalNormal, StandardNormal
from nflows.flows import Flow
from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, RandomPermutation
from torch import nn

import flowprior
from flowprior import FlowPrior, InputError

SIZES = {"transforms": 2, "hidden_features": (8,)}
ZUKO = {
    "spline": lambda context: zuko.flows.NSF(4, context, **SIZES),
    "coupling": lambda context: zuko.flows.RealNVP(4, context, **SIZES),
    "autoregressive": lambda context: zuko.flows.MAF(4, context, **SIZES),
    "continuous": lambda context: zuko.flows.CNF(4, context, hidden_features=(8,)),
}


@pytest.mark.parametrize("context_features", [0, 3], ids=["plain", "given"])
@pytest.mark.parametrize("name", ZUKO)
def test_a_zuko_flow_has_its_own_log_prob_and_all_its_parameters(name, context_features):
    flow = ZUKO[name](context_features)
    prior = FlowPrior(4, bijector=flow, context_features=context_features or None)
    assert {id(each) for each in flow.parameters()} <= {id(each) for each in prior.parameters()}
    z = torch.randn(5, 4)
    context = torch.randn(5, context_features) if context_features else None
    expected = flow(context).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z, context), expected)
    torch.testing.assert_close(copy.deepcopy(prior).log_prob(z, context), expected)
    z0, logabsdet = prior.to_base(z, context)
    back = prior.from_base(z0, context)
    torch.testing.assert_close(back, (z, -logabsdet), rtol=1e-3, atol=1e-3)
    prior.log_prob(z, context).sum().backward()
    assert all(each.grad is not None for each in flow.parameters())
    prior.log_prob(z[:0], None if context is None else context[:0]).sum().backward()


def test_a_zuko_flow_that_was_called_is_found_out_and_registered():
    flow = zuko.flows.NSF(4, **SIZES, randperm=True)
    prior = FlowPrior(4, bijector=flow())
    assert {id(each) for each in flow.parameters()} <= {id(each) for each in prior.parameters()}
    z = torch.randn(5, 4)
    torch.testing.assert_close(prior.log_prob(z), flow().log_prob(z))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(prior.log_prob(z), flow().log_prob(z))  # one and the same
    twin = copy.deepcopy(prior)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    assert not torch.allclose(twin.log_prob(z), prior.log_prob(z))
    assert prior.double().log_prob(z.double()).dtype == torch.float64


def test_a_lazy_transform_maps_z_to_z0():
    flow = zuko.flows.MAF(4, 3, **SIZES)
    prior = FlowPrior(4, bijector=flow.transform, context_features=3, base="mixture")
    z, context = torch.randn(5, 4), torch.randn(5, 3)
    torch.testing.assert_close(prior.bijector.to_base(z, context)[0], flow.transform(context)(z))


def test_what_hides_parameters_is_refused():
    flow = zuko.flows.MAF(4, **SIZES)
    hides = r"is no module but reads a Masked.* pass the module that makes it .* not `flow\(\).transform`"
    with pytest.raises(InputError, match=hides):
        FlowPrior(4, bijector=flow().transform)
    with pytest.raises(InputError, match=hides):
        FlowPrior(4, bijector=[torch.distributions.AffineTransform(0.0, 2.0), flow().transform.inv])
    network = nn.Linear(4, 4)
    closes = zuko.transforms.AutoregressiveTransform(lambda z: pt.AffineTransform(network(z), 1.0), passes=4)
    with pytest.raises(InputError, match="reads a Linear which nobody could save"):
        FlowPrior(4, bijector=closes)
    with pytest.raises(InputError, match="reads parameters that it does not hold: pass the lazy flow"):
        FlowPrior(4, bijector=zuko.flows.GF(4, transforms=1)())


def test_zuko_flows_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"a NCSF\) has the base BoxUniform.* pass `flow.transform`"):
        FlowPrior(4, bijector=zuko.flows.NCSF(4, **SIZES))
    with pytest.raises(InputError, match=r"a MAF\) cannot map z of shape \(1, 5\) .* build it for these"):
        FlowPrior(5, bijector=zuko.flows.MAF(4, **SIZES))
    with pytest.raises(InputError, match=r"cannot map z of shape \(1, 4\) given a context of \(1, 2\)"):
        FlowPrior(4, bijector=zuko.flows.MAF(4, 3, **SIZES), context_features=2)
    with pytest.raises(InputError, match="has a context in it already"):
        FlowPrior(4, bijector=zuko.flows.MAF(4, 3, **SIZES)(torch.zeros(2, 3)))


def test_an_nflows_flow_is_taken_if_its_transform_is_all_there_is():
    transform = CompositeTransform([MaskedAffineAutoregressiveTransform(4, 8), RandomPermutation(4)])
    flow = Flow(transform, StandardNormal([4])).eval()
    prior, z = FlowPrior(4, bijector=flow), torch.randn(5, 4)
    torch.testing.assert_close(prior.log_prob(z), flow.log_prob(z))
    assert {id(each) for each in flow.parameters()} <= {id(each) for each in prior.parameters()}
    with pytest.raises(InputError, match="base ConditionalDiagonalNormal and embedding net Identity"):
        FlowPrior(4, bijector=Flow(transform, ConditionalDiagonalNormal([4])))
    with pytest.raises(InputError, match=r"embedding net Linear, .* EmbeddedPrior"):
        FlowPrior(4, bijector=Flow(transform, StandardNormal([4]), nn.Linear(2, 2)))


def _normflows():
    layers = [
        layer
        for _ in range(2)
        for layer in (
            normflows.flows.AffineCouplingBlock(normflows.nets.MLP([2, 8, 4], init_zeros=False)),
            normflows.flows.Permute(4, mode="swap"),
        )
    ]
    flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(4, trainable=False), layers)
    return flow, flow.log_prob


def _freia():
    def network(fan_in, fan_out):
        return nn.Sequential(nn.Linear(fan_in, 8), nn.Tanh(), nn.Linear(8, fan_out))

    flow = FrEIA.framework.SequenceINN(4)
    for _ in range(2):
        flow.append(FrEIA.modules.RNVPCouplingBlock, subnet_constructor=network)

    def log_prob(z):
        z0, logabsdet = flow(z)
        return torch.distributions.Normal(0.0, 1.0).log_prob(z0).sum(-1) + logabsdet

    return flow, log_prob


@pytest.mark.parametrize("make", [_normflows, _freia], ids=["normflows", "FrEIA"])
def test_the_three_lines_of_a_refusal_wrap_the_flow(make):
    flow, log_prob = make()
    with pytest.raises(InputError, match="must be wrapped") as refused:
        FlowPrior(4, bijector=flow)
    sentence, _, lines = str(refused.value).partition(":\n")
    assert len(lines.splitlines()) == 3
    names = {"flowprior": flowprior}
    exec(lines, names)
    bijector = names["Wrapped"](4)
    bijector.flow = flow
    assert "`bijector = Wrapped(features)` and `bijector.flow = flow`" in sentence
    prior, z = FlowPrior(4, bijector=bijector), torch.randn(5, 4)
    torch.testing.assert_close(prior.log_prob(z), log_prob(z))
    z0, logabsdet = prior.to_base(z)
    torch.testing.assert_close(prior.from_base(z0), (z, -logabsdet), rtol=1e-4, atol=1e-4)
    assert {id(each) for each in flow.parameters()} <= {id(each) for each in prior.parameters()}


def test_pyro_spline_couplings_can_be_copied_after_use():
    prior, z = FlowPrior(4, bijector=pt.spline_coupling(4, hidden_dims=[8])), torch.randn(5, 4)
    before = prior.log_prob(z)
    prior.sample(3)
    torch.testing.assert_close(copy.deepcopy(prior).log_prob(z), before)
