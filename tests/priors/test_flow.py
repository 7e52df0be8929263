"""FlowPrior: its start from data, its whitening, what it is built from, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, ExpTransform

from flowprior import DecoupledPrior, FlowPrior, InputError, MixturePrior, StandardNormal
from flowprior.bijectors import RECIPES, Recipe, Whitening, build_bijector

MIX = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-3.0, 0.2, 4.0]])


def _latents(rows: int = 5_000) -> torch.Tensor:
    return torch.randn(rows, 3) @ MIX.T + torch.tensor([10.0, -3.0, 0.0])


@pytest.mark.parametrize("mode", ["full", "diagonal"])
def test_whitened_identity_flow_is_the_fitted_gaussian(mode):
    z = _latents()
    prior = FlowPrior(3, recipe="spline", transforms=2)  # the recipe starts as the identity
    prior.initialize(z, standardize=mode)
    covariance = z.T.cov(correction=0)
    if mode == "diagonal":
        covariance = covariance.diagonal().diag()
    expected = MultivariateNormal(z.mean(0), covariance).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    z0, logabsdet = prior.to_base(z)
    torch.testing.assert_close(logabsdet, -0.5 * covariance.logdet().expand(len(z)), rtol=1e-4, atol=1e-4)
    assert z0.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(z0.T.cov(correction=0).diagonal(), torch.ones(3), rtol=1e-3, atol=0)
    torch.testing.assert_close(prior.from_base(z0)[0], z, rtol=1e-4, atol=1e-4)


def test_whitening_is_optional_and_filled_in_place_by_the_next_start():
    prior = FlowPrior(3, transforms=2)
    whitening = dict(prior.whitening.named_buffers())
    prior.initialize(_latents(), standardize=None)
    assert torch.equal(prior.whitening.scale_tril, torch.eye(3))
    assert not prior.whitening.fitted
    prior.initialize(_latents())
    assert prior.whitening.scale_tril.tril(-1).any()
    prior.initialize(_latents() + 100, standardize="diagonal")
    assert not prior.whitening.scale_tril.tril(-1).any()
    assert prior.whitening.loc.mean() > 90
    assert all(buffer is whitening[name] for name, buffer in prior.whitening.named_buffers())
    assert not any("whitening" in name for name, _ in prior.named_parameters())  # fixed, not trained
    prior.initialize(_latents(), standardize=None)
    torch.testing.assert_close(prior.to_base(_latents()[:0])[0], torch.zeros(0, 3))
    assert torch.equal(prior.whitening.loc, torch.zeros(3))


def test_a_prior_holds_the_whitening_that_it_was_built_for():
    assert FlowPrior(3, standardize=None).whitening is None
    assert FlowPrior(3, standardize="diagonal").whitening.mode == "diagonal"
    assert FlowPrior((2, 4, 4), recipe="spatial").whitening.mode == "diagonal"
    assert FlowPrior((2, 4, 4), recipe="spatial", standardize="full").whitening.mode == "full"
    one, other = FlowPrior(3, transforms=2), FlowPrior(3, transforms=2, standardize="diagonal")
    other.bijector.load_state_dict(one.bijector.state_dict())
    z = _latents()
    one.initialize(z, standardize="diagonal")
    other.initialize(z)
    torch.testing.assert_close(one.log_prob(z), other.log_prob(z))
    with pytest.raises(
        InputError, match="`standardize` \\(='full'\\) asks for more than this prior was built"
    ):
        other.initialize(z, standardize="full")
    with pytest.raises(InputError, match="`standardize` \\(='whiten'\\)"):
        FlowPrior(3, standardize="whiten")


def test_start_reaches_actnorm_and_the_base():
    z = torch.randn(2_000, 3) * 5 + 3
    recipe = Recipe(actnorm_every=1, actnorm_start="data", transforms=2)
    prior = FlowPrior(3, recipe=recipe, base=MixturePrior(3, components=2))
    prior.initialize(z, standardize=None)
    z0, _ = prior.to_base(z)
    # the mixture was started on z0: its mean is that of z0
    torch.testing.assert_close(
        prior.base.logits.softmax(0) @ prior.base.means, z0.mean(0), rtol=0.02, atol=0.02
    )
    first, _ = prior.bijector.to_base(z)
    fresh, _ = FlowPrior(3, recipe=recipe).bijector.to_base(z)
    assert first.std() < 0.5 * fresh.std()  # actnorm has taken the scale of 5 out


def test_a_fresh_prior_makes_room_for_a_stored_whitening():
    z = _latents()
    for mode in ("full", "diagonal"):
        trained = nn.ModuleDict({"prior": DecoupledPrior(FlowPrior(3, transforms=2))})
        trained["prior"].prior.initialize(z, standardize=mode)
        fresh = nn.ModuleDict({"prior": DecoupledPrior(FlowPrior(3, transforms=2))})
        fresh.load_state_dict(trained.state_dict())
        assert torch.equal(fresh["prior"].log_prob(z), trained["prior"].log_prob(z))
        other = "diagonal" if mode == "full" else "full"
        fresh["prior"].prior.initialize(z + 1, standardize=other)
        fresh.load_state_dict(trained.state_dict())  # also over a whitening of the other kind
        assert torch.equal(fresh["prior"].log_prob(z), trained["prior"].log_prob(z))
    missing = {name: value for name, value in trained.state_dict().items() if "whitening" not in name}
    with pytest.raises(RuntimeError, match=r"whitening\.scale"):  # strict: what is missing is not made up
        fresh.load_state_dict(missing)


def test_latents_are_checked():
    prior = FlowPrior(3, transforms=1)
    bad = _latents(50)
    bad[17, 1] = torch.nan
    bad[30, 0] = torch.inf
    with pytest.raises(InputError, match="`latents` holds NaN or infinity in 2 of 50 rows, first in row 17"):
        prior.initialize(bad)
    with pytest.raises(InputError, match="1 row\\(s\\), too few"):
        prior.initialize(torch.zeros(1, 3))
    with pytest.raises(InputError, match=r"`latents` has shape \(50, 4\)"):
        prior.initialize(torch.zeros(50, 4))
    with pytest.raises(InputError, match=r"`latents` has shape \(2, 5, 3\) but must be rows"):
        prior.initialize(torch.zeros(2, 5, 3))
    with pytest.raises(InputError, match="`latents` \\(a list\\) must be a tensor"):
        prior.initialize([[1.0, 2.0, 3.0]])
    with pytest.raises(InputError, match="`standardize` \\(='whiten'\\)"):
        prior.initialize(_latents(), standardize="whiten")
    assert not prior.whitening.fitted  # none of these left a trace
    given = FlowPrior(3, transforms=1, context_features=2)
    with pytest.raises(InputError, match=r"one row for each of the 50 rows of `latents`: \(50, 2\)"):
        given.initialize(_latents(50), torch.zeros(49, 2))
    with pytest.raises(InputError, match="`context` holds NaN or infinity in 50 of 50 rows, first in row 0"):
        given.initialize(_latents(50), torch.full((50, 2), torch.nan))


def test_initialize_takes_latents_in_any_precision():
    prior = FlowPrior(3, transforms=1)
    prior.initialize(_latents().double())
    assert {value.dtype for value in prior.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    double = FlowPrior(3, transforms=1).double()
    double.initialize(_latents())
    assert double.log_prob(_latents().double()).dtype == torch.float64


def test_own_torch_transform_is_a_transformed_distribution():
    transforms = [AffineTransform(0.5, 2.0), ExpTransform()]
    prior = FlowPrior(3, bijector=transforms)
    z = torch.rand(5, 3) + 0.1
    twin = TransformedDistribution(Normal(torch.zeros(3), torch.ones(3)), transforms)
    torch.testing.assert_close(prior.log_prob(z), twin.log_prob(z).sum(-1))


def test_own_bijector_brings_its_dtype_and_its_context():
    bijector = build_bijector(3, "masked", context_features=2).double()
    prior = FlowPrior(3, bijector=bijector, context_features=2)
    assert prior.dtype == torch.float64
    assert prior.sample(4, torch.zeros(2)).dtype == torch.float64
    assert prior.bijector is bijector
    with pytest.raises(InputError, match="context_features"):
        FlowPrior(3, bijector=bijector)


def test_bijector_excludes_a_recipe():
    for extra in ({"recipe": "masked"}, {"transforms": 2}, {"hidden_features": (8,)}):
        with pytest.raises(InputError, match="`bijector` was given together with"):
            FlowPrior(3, bijector=Whitening(3), **extra)
    with pytest.raises(InputError, match="`bijector`"):
        FlowPrior(3, bijector=nn.Linear(3, 3))


def test_recipes_by_name_by_value_and_by_fields_are_the_same():
    by_name = FlowPrior(4, recipe="masked")
    by_value, by_fields = (
        FlowPrior(4, recipe=RECIPES["masked"]),
        FlowPrior(
            4,
            recipe={
                "mask": "alternating",
                "separate_networks": True,
                "activation": "leaky_relu",
                "last_layer_gain": 0.1,
                "log_scale_limit": 2.0,
                "transforms": 6,
            },
        ),
    )
    z = torch.randn(5, 4)
    for other in (by_value, by_fields):
        other.load_state_dict(by_name.state_dict())
        assert torch.equal(other.log_prob(z), by_name.log_prob(z))
    with pytest.raises(InputError, match=r"`recipe` .* must hold fields of Recipe"):
        FlowPrior(4, recipe={"coupling": "affine", "depth": 3})
    with pytest.raises(InputError, match="`recipe` \\(='gfl'\\)"):
        FlowPrior(4, recipe="gfl")


def test_bases():
    assert FlowPrior(3).has_normal_base
    assert not FlowPrior(3, base="mixture").has_normal_base
    assert not FlowPrior(3, base=FlowPrior(3)).has_normal_base
    assert not MixturePrior(3, components=2).has_normal_base
    assert StandardNormal(3).has_normal_base
    assert DecoupledPrior(FlowPrior(3)).has_normal_base
    assert not DecoupledPrior(FlowPrior(3, base="mixture")).has_normal_base
    assert FlowPrior(3, base="mixture").base.components == 128
    for base in ("gaussian", 3, nn.Linear(2, 2)):
        with pytest.raises(InputError, match="`base` \\(="):
            FlowPrior(3, base=base)
    with pytest.raises(InputError, match=r"`base` has event shape \(4,\)"):
        FlowPrior(3, base=StandardNormal(4))
    with pytest.raises(InputError, match="must be unconditional"):
        FlowPrior(3, context_features=2, base=FlowPrior(3, context_features=2))


def test_decoupled_prior_is_its_prior_seen_as_two_spaces():
    inner = FlowPrior(3, transforms=2, context_features=2)
    pair, context = DecoupledPrior(inner), torch.randn(5, 2)
    z0 = torch.randn(5, 3)
    z = pair.representation(z0, context)
    torch.testing.assert_close(z, inner.from_base(z0, context)[0])
    torch.testing.assert_close(pair.generation(z, context), z0, rtol=1e-4, atol=1e-4)
    assert torch.equal(pair.log_prob(z, context), inner.log_prob(z, context))
    with pytest.raises(InputError, match="`prior` \\(a MixturePrior\\) must be invertible"):
        DecoupledPrior(MixturePrior(3))


def test_features_and_context_features_are_checked():
    for features in (0, -1, 2.5, True, (), (4, 0), "64"):
        with pytest.raises(InputError, match="`features` \\(="):
            FlowPrior(features)
        with pytest.raises(InputError, match="`features` \\(="):
            StandardNormal(features)
    for context_features in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="`context_features` \\(="):
            FlowPrior(3, context_features=context_features)


def test_wide_events_and_a_single_feature():
    for event in ((4, 8, 8), (1,), (5,)):
        prior = FlowPrior(event, transforms=2, hidden_features=(8,))
        z = prior.sample(300)
        assert z.shape == (300, *event)
        prior.initialize(z)
        torch.testing.assert_close(prior.from_base(prior.to_base(z)[0])[0], z, rtol=1e-3, atol=1e-3)


def test_transforms_that_remember_follow_their_parameters():
    """A transform that remembers its last answer must not repeat it (Pyro's and torch's caches)."""
    scale = nn.Parameter(torch.ones(2))
    prior = FlowPrior(2, bijector=AffineTransform(torch.tensor([0.0, 1.0]), scale, cache_size=1))
    z = torch.randn(5, 2)
    before = prior.log_prob(z)
    with torch.no_grad():
        next(prior.parameters()).mul_(3.0)
    expected = Normal(torch.tensor([0.0, 1.0]), 3.0).log_prob(z).sum(-1)
    torch.testing.assert_close(prior.log_prob(z), expected)
    assert not torch.equal(prior.log_prob(z), before)


def test_a_bare_width_is_refused_in_a_sentence():
    with pytest.raises(InputError, match=r"`hidden_features` \(=64\) must be a tuple"):
        FlowPrior(3, hidden_features=64)


@pytest.mark.parametrize("halve", [nn.Module.half, nn.Module.bfloat16, lambda m: m.to(torch.bfloat16)])
def test_half_precision_leaves_a_prior_in_full(halve):
    """Also where the module around it is cast; what it is given is cast up."""
    prior = FlowPrior(3, transforms=2, base="mixture")
    prior.initialize(_latents(300))
    whole = nn.ModuleDict({"prior": prior, "encoder": nn.Linear(2, 3)})
    z = torch.randn(5, 3)
    expected = prior.log_prob(z)
    halve(whole)
    assert whole["encoder"].weight.dtype.itemsize == 2
    assert {value.dtype for value in prior.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    assert torch.equal(prior.log_prob(z), expected)
    low = z.to(whole["encoder"].weight.dtype)
    assert torch.equal(prior.log_prob(low), prior.log_prob(low.float()))
    assert prior.sample(2).dtype == torch.float32
    assert halve(FlowPrior(3).double()).dtype == torch.float32


def test_the_base_mean_starts_at_the_least_squares_of_the_context():
    """Classes far apart: after `initialize`, every class is centered in z0, before any training."""
    torch.manual_seed(0)
    label = torch.randint(0, 3, (3000,))
    context = torch.nn.functional.one_hot(label, 3).float()
    latents = 5 * torch.tensor([[0.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])[label] + 0.5 * torch.randn(3000, 2)
    prior = FlowPrior(2, transforms=2, hidden_features=(8,), context_features=3)
    prior.initialize(latents, context)
    z0, _ = prior.to_base(latents, context)
    for k in range(3):
        assert z0[label == k].mean(0).abs().max() < 0.1  # up to how far the couplings are from the identity
    without = FlowPrior(2, transforms=2, hidden_features=(8,))
    without.initialize(latents)
    gain = (prior.log_prob(latents, context) - without.log_prob(latents)).mean()
    assert gain > 0.5


def test_features_may_be_integers_of_numpy():
    prior = FlowPrior(np.int64(4), context_features=np.int32(3), transforms=2, hidden_features=(8,))
    assert prior.event_shape == (4,)
    assert type(prior.arguments()["features"]) is type(prior.arguments()["context_features"]) is int
    with pytest.raises(InputError, match="positive int"):
        FlowPrior(np.int64(0))
