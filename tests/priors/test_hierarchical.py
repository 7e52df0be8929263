"""HierarchicalPrior: against its children called by hand, one after the other."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.distributions.transforms import AffineTransform
from torch.nn.functional import interpolate

from flowprior import DecoupledPrior, FlowPrior, InputError, MixturePrior, Prior, StandardNormal
from flowprior.bijectors import Whitening
from flowprior.priors import GaussianPrior, HierarchicalPrior, InvertiblePrior


def moved(prior: HierarchicalPrior) -> HierarchicalPrior:
    """In float64 with every parameter off its start."""
    prior = prior.double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return prior


def flow(event: tuple[int, ...], context: object) -> FlowPrior:
    return FlowPrior(event, recipe="spatial", transforms=2, hidden_features=(6, 6), context_features=context)


def gaussian(event: tuple[int, ...], context: object, groups: int = 1) -> GaussianPrior:
    return GaussianPrior(event, context, hidden_features=(6, 6), groups=groups)


def two(kind: str = "flow") -> HierarchicalPrior:
    """Scales of 2x2 and 4x4, with 3 and 5 context maps."""
    if kind == "flow":
        return moved(HierarchicalPrior([flow((2, 2, 2), (3, 2, 2)), flow((2, 4, 4), (5 + 2, 4, 4))]))
    children: list[InvertiblePrior] = [gaussian((2, 2, 2), (3, 2, 2)), gaussian((2, 4, 4), (7, 4, 4), 4)]
    return moved(HierarchicalPrior(children))


def by_hand(prior: HierarchicalPrior, z: Tensor, c: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """The parts of `two`, each with what its child sees."""
    coarse, fine = z[:, :8].reshape(-1, 2, 2, 2), z[:, 8:].reshape(-1, 2, 4, 4)
    first, second = c[:, :12].reshape(-1, 3, 2, 2), c[:, 12:].reshape(-1, 5, 4, 4)
    return (coarse, first), (fine, torch.cat((second, interpolate(coarse, scale_factor=2)), 1))


@pytest.mark.parametrize("kind", ["flow", "gaussian"])
def test_density_is_the_product_over_scales(kind):
    prior = two(kind)
    assert (prior.event_shape, prior.context_features) == ((40,), 92)
    z, c = torch.randn(6, 40).double(), torch.randn(6, 92).double()
    coarse, fine = prior.priors
    first, second = by_hand(prior, z, c)
    torch.testing.assert_close(prior.log_prob(z, c), coarse.log_prob(*first) + fine.log_prob(*second))
    (a, la), (b, lb) = coarse.to_base(*first), fine.to_base(*second)
    z0, logabsdet = prior.to_base(z, c)
    torch.testing.assert_close(z0, torch.cat((a.flatten(1), b.flatten(1)), 1))
    torch.testing.assert_close(logabsdet, la + lb)
    assert [tuple(part.shape) for part in prior.split(z)] == [(6, 2, 2, 2), (6, 2, 4, 4)]


@pytest.mark.parametrize("kind", ["flow", "gaussian"])
def test_round_trip_and_jacobian(kind):
    prior = two(kind)
    z, c = torch.randn(40).double(), torch.randn(92).double()
    z0, logabsdet = prior.to_base(z, c)
    back, inverse = prior.from_base(z0, c)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(inverse, -logabsdet)
    jacobian = torch.autograd.functional.jacobian(lambda x: prior.to_base(x, c)[0], z)
    torch.testing.assert_close(logabsdet, torch.linalg.slogdet(jacobian).logabsdet)
    assert not jacobian[:8, 8:].any()  # the coarser scale does not see the finer one
    assert jacobian[8:, :8].any()
    torch.testing.assert_close(
        prior.log_prob(z, c), Normal(0.0, 1.0).log_prob(z0).sum() + logabsdet
    )  # both bases are normal
    assert prior.has_normal_base


def test_three_scales_each_see_all_coarser_ones():
    children = [flow((2, 1, 2), 3), flow((3, 2, 4), (2, 2, 4)), flow((2, 4, 8), (1 + 2 + 3, 4, 8))]
    prior = moved(HierarchicalPrior(children))
    assert (prior.event_shape, prior.context_features) == ((4 + 24 + 64,), 3 + 0 + 32)
    z, c = torch.randn(2, 92).double(), torch.randn(2, 35).double()
    z0, logabsdet = prior.to_base(z, c)
    torch.testing.assert_close(prior.from_base(z0, c)[0], z)
    a, b, d = prior.split(z)
    expected = children[0].log_prob(a, c[:, :3])
    expected += children[1].log_prob(b, interpolate(a, (2, 4)))
    own = c[:, 3:].reshape(2, 1, 4, 8)
    expected += children[2].log_prob(d, torch.cat((own, interpolate(a, (4, 8)), interpolate(b, (4, 8))), 1))
    torch.testing.assert_close(prior.log_prob(z, c), expected)
    jacobian = torch.autograd.functional.jacobian(lambda x: prior.to_base(x, c[0])[0], z[0])
    assert jacobian[28:, :4].any()
    torch.testing.assert_close(logabsdet[0], torch.linalg.slogdet(jacobian).logabsdet)


def test_without_any_context():
    prior = moved(HierarchicalPrior([StandardNormal((2, 2, 2)), flow((2, 4, 4), (2, 4, 4))]))
    assert prior.context_features is None
    assert prior.sample((3, 2)).shape == (3, 2, 40)
    z = torch.randn(5, 40).double()
    torch.testing.assert_close(prior.from_base(prior.to_base(z)[0])[0], z)
    with pytest.raises(InputError, match="unconditional"):
        prior.sample(3, torch.zeros(4))


def test_draws_follow_the_density():
    """Of unit-variance children: draws minus their means are N(0, I), and E log p is minus the entropy."""
    prior, c = two("gaussian"), torch.randn(92).double()
    z = prior.sample(20_000, c)
    z0, _ = prior.to_base(z, c)
    assert z0.mean(0).abs().max() < 0.04
    torch.testing.assert_close(z0.T.cov(), torch.eye(40, dtype=torch.float64), rtol=0, atol=0.05)
    entropy = 40 * Normal(0.0, 1.0).entropy()
    assert (prior.log_prob(z, c).mean() + entropy).abs() < 0.2


def test_kl_is_the_sum_of_the_children_s():
    prior = two("gaussian")
    q = Normal(torch.randn(6, 40).double(), torch.rand(6, 40).double() + 0.3)
    z, c = q.sample(), torch.randn(6, 92).double()
    parts = by_hand(prior, z, c)
    expected = 0
    for child, (part, seen), columns in zip(prior.priors, parts, (slice(0, 8), slice(8, 40)), strict=True):
        own = Normal(q.loc[:, columns].reshape(part.shape), q.scale[:, columns].reshape(part.shape))
        expected += child.kl(own, part, seen)
    torch.testing.assert_close(prior.kl(q, z, c), expected)
    torch.testing.assert_close(DecoupledPrior(prior).kl(q, z, c), expected)
    many = Independent(q, 1).expand((4000, 6))
    draws = many.rsample()
    plain = many.log_prob(draws) - prior.log_prob(draws, c)
    closed = prior.kl(many, draws, c)
    error = (plain - closed).std(0) / 4000**0.5
    assert ((plain - closed).mean(0).abs() < 4.5 * error).all()
    assert (closed.std(0) < plain.std(0)).all()
    assert kl_divergence(q, prior(c)).shape == (6,)


def test_kl_of_exact_children_and_of_flows():
    q = Normal(torch.randn(6, 40).double(), torch.rand(6, 40).double() + 0.3)
    z = q.sample()
    exact = moved(HierarchicalPrior([StandardNormal((2, 2, 2)), gaussian((2, 4, 4), (2, 4, 4))]))
    own = Normal(q.loc[:, 8:].reshape(6, 2, 4, 4), q.scale[:, 8:].reshape(6, 2, 4, 4))
    seen = interpolate(z[:, :8].reshape(6, 2, 2, 2), scale_factor=2)
    expected = kl_divergence(Normal(q.loc[:, :8], q.scale[:, :8]), Normal(0.0, 1.0)).sum(1)
    expected += exact.priors[1].kl(own, z[:, 8:].reshape(6, 2, 4, 4), seen)
    torch.testing.assert_close(exact.kl(q, z), expected)
    flows, c = two(), torch.randn(6, 92).double()
    torch.testing.assert_close(flows.kl(q, z, c), q.log_prob(z).sum(1) - flows.log_prob(z, c))


def test_initialize_starts_each_scale():
    prior = HierarchicalPrior([flow((2, 2, 2), 3), flow((2, 4, 4), (1 + 2, 4, 4))])
    c = torch.randn(600, 3 + 16)
    z = torch.cat((5 + 2 * torch.randn(600, 8), 0.1 * torch.randn(600, 32) - 7), 1)
    prior.initialize(z, c)
    assert all(isinstance(child.whitening, Whitening) for child in prior.priors)
    assert {child.whitening.mode for child in prior.priors} == {"diagonal"}
    z0, _ = prior.to_base(z, c)
    assert z0.mean(0).abs().max() < 0.3
    assert (z0.std(0).log().abs() < 0.5).all()


def test_saved_with_its_children(tmp_path):
    prior = two()
    prior.initialize(torch.randn(50, 40), torch.randn(50, 92))
    prior.save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path)
    assert isinstance(loaded, HierarchicalPrior)
    assert [type(child) for child in loaded.priors] == [FlowPrior, FlowPrior]
    assert loaded.priors[1].context_features == (7, 4, 4)
    z, c = torch.randn(5, 40).double(), torch.randn(5, 92).double()
    assert torch.equal(loaded.log_prob(z, c), prior.log_prob(z, c))


def test_a_child_with_its_own_bijector_is_asked_for(tmp_path):
    def own() -> FlowPrior:
        return FlowPrior((1, 2, 2), bijector=AffineTransform(torch.ones(1, 2, 2), 2 * torch.ones(1, 2, 2)))

    prior = HierarchicalPrior([own(), gaussian((2, 4, 4), (1, 4, 4))])
    prior.save_pretrained(tmp_path / "one")
    with pytest.raises(InputError, match=r"own bijector \(AffineTransform\)"):
        Prior.from_pretrained(tmp_path / "one")
    transform = AffineTransform(torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
    loaded, z = Prior.from_pretrained(tmp_path / "one", bijector=transform), torch.randn(3, 36)
    assert torch.equal(loaded.log_prob(z), prior.log_prob(z))
    FlowPrior((1, 2, 2), bijector=AffineTransform(1.0, 2.0), base=own()).save_pretrained(tmp_path / "two")
    with pytest.raises(InputError, match=r"several bijectors of its own \(AffineTransform, Aff"):
        Prior.from_pretrained(tmp_path / "two", bijector=transform)


@pytest.mark.parametrize(
    ("children", "words"),
    [
        (list, r"`priors` \(=\[\]\)"),
        (lambda: [MixturePrior((1, 2, 2))], r"`priors\[0\]` \(a MixturePrior\) must be invertible"),
        (lambda: [StandardNormal(4)], r"`priors\[0\]` has event shape \(4,\)"),
        (
            lambda: [flow((2, 2, 2), 3), flow((2, 3, 3), (2, 3, 3))],
            r"`priors\[1\]` has event shape \(2, 3, 3\).*multiples of \(2, 2\)",
        ),
        (
            lambda: [flow((2, 2, 2), 3), StandardNormal((2, 4, 4))],
            r"`priors\[1\]` has `context_features` \(=None\) .* 2 channels .* \(2 \+ K, 4, 4\)",
        ),
        (lambda: [flow((2, 2, 2), 3), flow((2, 4, 4), (1, 4, 4))], r"`priors\[1\]`.*\(=\(1, 4, 4\)\)"),
        (lambda: [flow((2, 2, 2), 3), flow((2, 4, 4), (3, 2, 2))], r"`priors\[1\]`.*\(=\(3, 2, 2\)\)"),
        (lambda: [flow((2, 2, 2), 3), flow((2, 4, 4), 32)], r"`priors\[1\]`.*\(=32\)"),
    ],
)
def test_children_that_do_not_fit_are_named(children, words):
    with pytest.raises(InputError, match=words):
        HierarchicalPrior(children())
