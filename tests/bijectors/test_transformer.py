"""Flows over tokens: against autograd, a loop over tokens, a known Gaussian, and by other roads."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from flowprior import FlowPrior
from flowprior.bijectors import RECIPES, Bijector, Whitening, build_bijector
from flowprior.bijectors.shrinkage import limit_of, scales, shrunk_factor
from flowprior.bijectors.tokens import Tokens
from flowprior.bijectors.transformer import CausalBlock, Transformer, guided
from flowprior.errors import InputError

EVENT = (2, 2, 4)
CONTEXTS = [None, 3, (5, 3), (3, 2, 2)]  # none, a vector, a sequence, maps
SMALL = {"hidden_features": (8, 8), "deep_layers": 2}


def recipe(name: str, **settings: object):
    return replace(RECIPES[name], **(SMALL | settings))


def build(
    name: str = "transformer", context: object = None, event: object = EVENT, noise: float = 0.2, **settings
) -> Bijector:
    """A small float64 bijector with its parameters moved off their start by that much noise."""
    torch.manual_seed(0)
    settings = {"transforms": 3 if name == "transformer" else 6} | settings
    bijector = build_bijector(event, recipe(name, **settings), context_features=context).double()
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return bijector


def given(bijector: Bijector, *batch: int) -> tuple[Tensor, Tensor | None]:
    z = torch.randn(*batch, *bijector.event_shape, dtype=torch.float64)
    if bijector.context_shape is None:
        return z, None
    return z, torch.randn(*batch, *bijector.context_shape, dtype=torch.float64)


@pytest.mark.parametrize("event", [(4, 4, 6), (6, 3), (12,)], ids=str)
@pytest.mark.parametrize("patch", [1, 2])
def test_tokens_come_back_and_neighbors_share_one(event: tuple[int, ...], patch: int) -> None:
    tokens = Tokens(event, patch)
    z = torch.arange(2.0 * math.prod(event)).reshape(2, *event)
    split = tokens.split(z)
    assert split.shape == (2, tokens.count, tokens.width)
    assert torch.equal(tokens.join(split), z)
    first = z[0, :, :patch, :patch] if len(event) == 3 else z[0, :patch]
    assert sorted(split[0, 0].tolist()) == sorted(first.flatten().tolist())


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize(("name", "patch"), [("transformer", 1), ("transformer", 2), ("jet", 1), ("jet", 2)])
def test_invertible_with_the_jacobian_it_reports(name: str, patch: int, context: object) -> None:
    bijector = build(name, context, patch=patch)
    z, seen = given(bijector, 3)
    z0, logabsdet = bijector.to_base(z, seen)
    back, inverse = bijector.from_base(z0, seen)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse, -logabsdet, rtol=0, atol=1e-10)
    own = None if seen is None else seen[1]
    jacobian = torch.autograd.functional.jacobian(lambda x: bijector.to_base(x, own)[0], z[1])
    expected = torch.linalg.slogdet(jacobian.reshape(16, 16)).logabsdet
    torch.testing.assert_close(logabsdet[1], expected, rtol=0, atol=1e-8)
    (z0.square().sum() - logabsdet.sum()).backward()
    for parameter_name, parameter in bijector.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name


def test_one_block_is_triangular_in_the_order_of_its_tokens() -> None:
    for backward in (False, True):
        torch.manual_seed(0)
        tokens = Tokens((5, 2))
        block = CausalBlock(tokens, 2, None, recipe("transformer"), backward=backward, recompute=False)
        block.double().network.head.weight.data.normal_()
        z = torch.randn(1, 5, 2, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x: block(x, None)[0], z)  # noqa: B023
        jacobian = jacobian.reshape(5, 2, 5, 2)
        strength = jacobian.abs().amax((1, 3))  # token by token
        later = strength.tril(-1) if backward else strength.triu(1)
        assert later.max() == 0
        earlier = strength.triu(1) if backward else strength.tril(-1)
        assert (earlier > 0).sum() == 10
        within = jacobian[2, :, 2]
        torch.testing.assert_close(within, within.diagonal().diag(), rtol=0, atol=0)


def test_one_block_written_out_token_by_token() -> None:
    """z0_t = (z_t - 4 tanh(m / 4)) / softplus(4 tanh(a / 4) + log(e - 1)), asked again for each prefix."""
    torch.manual_seed(0)
    block = CausalBlock(Tokens((4, 3)), 2, None, recipe("transformer"), backward=False, recompute=False)
    block.double().network.head.weight.data.normal_()
    z = torch.randn(2, 4, 3, dtype=torch.float64)
    z0, log_scale = block(z, None)
    for t in range(4):
        outputs = block.network(z[:, :t], None, start=True)[:, -1]
        mean, raw = (4 * (outputs / 4).tanh()).chunk(2, -1)
        scale = softplus(raw + math.log(math.e - 1))
        torch.testing.assert_close(z0[:, t], (z[:, t] - mean) / scale)
        torch.testing.assert_close(log_scale[:, t], scale.log())


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_jacobi_iteration_gives_what_sequential_sampling_gives_in_fewer_passes(context: object) -> None:
    bijector = build(context=context, event=(2, 4, 4), noise=0.05).float()
    assert isinstance(bijector, Transformer)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    for block in bijector.blocks:
        block.network.norm.register_forward_hook(count)
    z0, seen = (each if each is None else each.float() for each in given(bijector, 8))
    with torch.no_grad():
        expected, logabsdet = bijector.from_base(z0, seen)
        assert passes == 3 * 16
        for together in (3, 8, 16):
            passes, bijector.sampling_block = 0, together
            z, other = bijector.from_base(z0, seen)
            torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(other, logabsdet, rtol=1e-5, atol=1e-5)
            assert passes <= 3 * 16 if together == 3 else passes < 3 * 16


def test_only_the_deep_block_sees_the_context() -> None:
    bijector = build(context=3)
    assert isinstance(bijector, Transformer)
    *shallow, deep = bijector.blocks
    assert [len(block.network.layers) for block in bijector.blocks] == [2, 2, 2]
    assert all(block.network.context_embedding is None for block in shallow)
    assert deep.network.context_embedding is not None
    assert len(build(deep_layers=5).blocks[-1].network.layers) == 5


@pytest.mark.parametrize("name", ["transformer", "jet"])
def test_starts_at_the_shrunk_gaussian_of_the_codes(name: str) -> None:
    """Before the first step log p is that of the shrunk Gaussian, whatever the order of its features."""
    torch.manual_seed(0)
    mix = torch.randn(16, 16, dtype=torch.float64)
    rows = torch.randn(60, 16, dtype=torch.float64) @ mix + 3
    prior = FlowPrior(EVENT, recipe=recipe(name, patch=2)).double()
    prior.initialize(rows.reshape(60, *EVENT))
    mean, std, varies = scales(rows, limit_of(rows.dtype))
    factor = shrunk_factor(rows, mean, std, varies, limit_of(rows.dtype))
    unshrunk = torch.cov(rows.T, correction=0)
    assert not torch.allclose(factor @ factor.T, unshrunk, rtol=1e-3)
    gaussian = torch.distributions.MultivariateNormal(mean, scale_tril=factor)
    z = torch.randn(5, 16, dtype=torch.float64)
    expected = gaussian.log_prob(z)
    torch.testing.assert_close(prior.log_prob(z.reshape(5, *EVENT)), expected)


def test_whitening_keeps_to_the_order_of_the_tokens() -> None:
    """z0 of a token is a function of the tokens before it and its own."""
    tokens = Tokens(EVENT)
    whitening = Whitening(EVENT, "full", tokens).double()
    torch.manual_seed(0)
    whitening.initialize(torch.randn(50, 16, dtype=torch.float64).cumsum(1).reshape(50, *EVENT))
    jacobian = torch.autograd.functional.jacobian(
        lambda t: tokens.split(whitening.to_base(tokens.join(t))[0]),
        torch.zeros(1, 8, 2, dtype=torch.float64),
    )
    strength = jacobian.reshape(8, 2, 8, 2).abs().amax((1, 3))
    assert strength.triu(1).max() < 1e-12
    assert strength.tril(-1).max() > 1e-3
    z = torch.randn(3, *EVENT, dtype=torch.float64)
    torch.testing.assert_close(whitening.from_base(whitening.to_base(z)[0])[0], z)


def test_guided_gaussian_is_the_normalized_product() -> None:
    """p_c^(1 + w) / p_u^w on a grid, for σc below σu."""
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    for mean, free, scale, wide, weight in [(1.0, -0.5, 0.6, 1.5, 2.0), (-2.0, 0.0, 1.0, 1.1, 0.7)]:
        log_density = (1 + weight) * Normal(mean, scale).log_prob(x) - weight * Normal(free, wide).log_prob(x)
        density = log_density.exp() / torch.trapezoid(log_density.exp(), x)
        moments = torch.trapezoid(density * x, x), torch.trapezoid(density * x.square(), x)
        got, width = guided(
            *(torch.tensor(v, dtype=torch.float64) for v in (mean, free, scale, wide)), weight
        )
        torch.testing.assert_close(got, moments[0])
        torch.testing.assert_close(width, (moments[1] - moments[0] ** 2).sqrt())


@pytest.mark.parametrize("name", ["transformer", "jet"])
def test_recomputing_changes_no_gradient(name: str) -> None:
    gradients = []
    for reversible in (False, True):
        torch.manual_seed(0)
        bijector = build_bijector(EVENT, recipe(name), transforms=2, reversible=reversible).double()
        for parameter in bijector.parameters():
            parameter.data.normal_(std=0.3)
        z0, logabsdet = bijector.to_base(torch.randn(4, *EVENT, dtype=torch.float64))
        (z0.square().sum() - logabsdet.sum()).backward()
        gradients.append([parameter.grad for parameter in bijector.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", ["transformer", "jet"])
def test_bfloat16_inside_and_full_precision_behind(name: str) -> None:
    full, low = build(name).float(), build(name, bfloat16=True).float()
    low.load_state_dict(full.state_dict())
    z = torch.randn(6, *EVENT)
    expected, (z0, logabsdet) = full.to_base(z), low.to_base(z)
    assert (z0.dtype, logabsdet.dtype) == (torch.float32, torch.float32)
    assert not torch.equal(z0, expected[0])
    torch.testing.assert_close(z0, expected[0], rtol=0.05, atol=0.05)
    torch.testing.assert_close(logabsdet, expected[1], rtol=0.05, atol=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in low.parameters())


@pytest.mark.parametrize(
    ("name", "directions"), [("transformer", ("to_base", "from_base")), ("jet", ("to_base",))]
)
def test_compiled_equals_eager(name: str, directions: tuple[str, ...]) -> None:
    torch._dynamo.reset()
    bijector = build(name, 3, event=(2, 2), transforms=1, hidden_features=(4,), deep_layers=1)
    z, context = given(bijector, 4)
    for method in (getattr(bijector, direction) for direction in directions):
        compiled = torch.compile(method, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(z, context), method(z, context), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("features", "settings", "words"),
    [
        ((2, 3, 4, 5), {}, "must be a vector"),
        ((2, 3, 4), {"patch": 2}, "`patch` .=2. must divide"),
        ((7, 1, 1), {}, "single token"),
        ((4, 2), {"hidden_features": (8, 16)}, "all equal"),
        ((4, 2), {"hidden_features": (100,), "head_features": 30}, "divisible by the 3 heads"),
        ((4, 2), {"patch": 0}, "`patch` .=0."),
    ],
)
def test_bad_arguments_are_answered_by_one_sentence(features: tuple, settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        FlowPrior(features, recipe=recipe("transformer", **settings))


def test_a_sequence_of_context_is_refused_by_spatial_couplings() -> None:
    with pytest.raises(InputError, match="sequences of context are for"):
        FlowPrior((2, 4, 4), recipe="spatial", context_features=(5, 3))
