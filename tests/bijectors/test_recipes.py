"""The recipes against the papers' formulas, written out a second time, and the library traps they avoid."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from flowprior.bijectors import RECIPES, Bijector, Permutation, Recipe, build_bijector
from flowprior.bijectors.conditioner import AffineConditioner
from flowprior.errors import InputError

OF_VECTORS = [name for name in RECIPES if name != "spatial"]
COUPLINGS = [recipe for recipe in OF_VECTORS if recipe not in ("transformer", "jet")]  # not over tokens
BOTH = pytest.mark.parametrize("backend", ["nflows", "pyro"])


def perturbed(bijector: Bijector, scale: float = 0.3) -> Bijector:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return bijector.double()


def networks(bijector: Bijector) -> list[AffineConditioner]:
    return [module for module in bijector.modules() if isinstance(module, AffineConditioner)]


@BOTH
def test_glf_is_the_papers_block(backend: str) -> None:
    """GLF section 3.1: y1 = z1, y2 = z2 exp(s(z1)) + t(z1); twice, halves swapped; then a permutation."""
    recipe = replace(RECIPES["glf"], log_scale_limit=None)
    bijector = perturbed(build_bijector(5, recipe, transforms=2, hidden_features=(8, 8), backend=backend))
    first, second = (network.networks["shift_and_scale"] for network in networks(bijector))
    z = torch.randn(6, 5).double()
    z1, z2 = z[:, :3], z[:, 3:]
    t, s = first(z1).split(2, dim=1)
    y2 = z2 * torch.exp(s) + t
    t, s_second = second(y2).split(3, dim=1)
    y1 = z1 * torch.exp(s_second) + t
    order = next(module for module in bijector.modules() if isinstance(module, Permutation)).permutation
    z0, logabsdet = bijector.to_base(z)
    torch.testing.assert_close(z0, torch.cat((y1, y2), dim=1)[:, order])
    torch.testing.assert_close(logabsdet, s.sum(1) + s_second.sum(1))


def test_glf_defaults_are_the_papers() -> None:
    bijector = build_bijector(20)
    linear = [module for module in bijector.modules() if isinstance(module, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == [64, 64, 20] * 8  # 4 blocks of 2, 3 layers each
    assert sum(isinstance(module, Permutation) for module in bijector.modules()) == 4


@BOTH
def test_actnorm_is_appendix_a1(backend: str) -> None:
    """Morrow & Chiu A.1: z <- gamma z + beta before every second step; z_b <- sigmoid(s + 2) (z_b + mu)."""
    bijector = perturbed(build_bijector(4, "actnorm", transforms=2, hidden_features=(8, 8), backend=backend))
    first, second = (network.networks["shift_and_scale"] for network in networks(bijector))
    named = dict(bijector.named_parameters())
    assert [name for name in named if "log_scale" in name] == ["steps.0.log_scale"]
    z = torch.randn(6, 4).double()
    a, b = (z * named["steps.0.log_scale"].exp() + named["steps.0.shift"]).split(2, dim=1)
    mu, s = first(a).split(2, dim=1)
    sigma_b = torch.sigmoid(s + 2)
    b = sigma_b * (b + mu)
    mu, s = second(b).split(2, dim=1)
    sigma_a = torch.sigmoid(s + 2)
    a = sigma_a * (a + mu)
    z0, logabsdet = bijector.to_base(z)
    torch.testing.assert_close(z0, torch.cat((a, b), dim=1))
    expected = named["steps.0.log_scale"].sum() + torch.cat((sigma_a, sigma_b), dim=1).log().sum(1)
    torch.testing.assert_close(logabsdet, expected)


@BOTH
def test_actnorm_starts_as_the_paper_says(backend: str) -> None:
    """Identity affine and zero last layers: each coupling scales its half by sigmoid(2)."""
    bijector = build_bijector(6, "actnorm", transforms=4, backend=backend).double()
    z = torch.randn(5, 6).double()
    sigma = torch.sigmoid(torch.tensor(2.0)).double()
    torch.testing.assert_close(bijector.to_base(z)[0], z * sigma**2)
    hidden = next(module for module in bijector.modules() if isinstance(module, torch.nn.Linear))
    bound = (6 / sum(hidden.weight.shape)) ** 0.5  # Glorot uniform
    assert 0.8 * bound < hidden.weight.abs().max() <= bound
    assert not hidden.bias.any()


@BOTH
def test_masked_is_equation_3(backend: str) -> None:
    """dpVAE Eq. 3: z <- b z + (1 - b) [z exp(s(b z)) + t(b z)], with b and 1 - b in turn."""
    recipe = replace(RECIPES["masked"], log_scale_limit=None)
    bijector = perturbed(build_bijector(5, recipe, transforms=3, hidden_features=(8, 8), backend=backend))
    z = torch.randn(6, 5).double()
    value, logabsdet = z, torch.zeros(6).double()
    even = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]).double()
    for index, conditioner in enumerate(networks(bijector)):
        b = even if index % 2 == 0 else 1 - even
        keep, change = b.nonzero().flatten(), (1 - b).nonzero().flatten()
        s, t = torch.zeros(6, 5).double(), torch.zeros(6, 5).double()
        s[:, change] = conditioner.networks["scale"]((b * value)[:, keep])
        t[:, change] = conditioner.networks["shift"]((b * value)[:, keep])
        logabsdet = logabsdet + s.sum(1)
        value = b * value + (1 - b) * (value * torch.exp(s) + t)
    torch.testing.assert_close(bijector.to_base(z), (value, logabsdet))
    assert len(networks(build_bijector(5, "masked"))) == 6


@BOTH
def test_tanh_outputs_and_soft_clamp_bound_the_scale(backend: str) -> None:
    for recipe, bound in [
        (replace(RECIPES["masked"], output_activation="tanh", log_scale_limit=None), 1.0),
        (RECIPES["glf"], 2.0),
    ]:
        bijector = build_bijector(2, recipe, transforms=1, hidden_features=(8,), backend=backend).double()
        near = perturbed(bijector).to_base(torch.randn(50, 2).double())[1]
        far = bijector.to_base(1e6 * torch.randn(50, 2).double())[1]
        assert 0.5 * bound < far.abs().max() <= bound
        assert near.abs().max() < bound


@BOTH
@pytest.mark.parametrize("s", [-800.0, -7.0, 2.0, 7.0, 600.0])
def test_scale_is_neither_capped_nor_clipped(backend: str, s: float) -> None:
    """nflows 0.14 caps the scale at 1.001 and takes its log, Pyro clips log_scale to [-5, 3]."""
    recipe = replace(RECIPES["glf"], log_scale_limit=None)
    bijector = build_bijector(1, recipe, transforms=1, backend=backend).double()
    (parameter,) = bijector.parameters()  # one feature, no context: free shift and log-scale
    with torch.no_grad():
        parameter.copy_(torch.tensor([0.0, s]))
    z0, logabsdet = bijector.to_base(torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(logabsdet.item(), s, rtol=0, atol=1e-12)
    torch.testing.assert_close(z0.item(), float(torch.tensor(s).double().exp()))


@pytest.mark.parametrize("recipe", COUPLINGS)
def test_one_feature(recipe: str) -> None:
    """The documented rule: parameters depend on the context alone, and are free without one."""
    free = perturbed(build_bijector(1, recipe, transforms=2, hidden_features=(8,)))
    assert not any(isinstance(module, torch.nn.Linear) for module in free.modules())
    z = torch.linspace(-2, 2, 9).double()[:, None]
    if recipe != "spline":  # affine couplings with constant parameters make one affine map
        z0, logabsdet = free.to_base(z)
        torch.testing.assert_close(z0.diff(dim=0), logabsdet.exp()[1:, None] * z.diff(dim=0))
    conditional = perturbed(build_bijector(1, recipe, transforms=2, hidden_features=(8,), context_features=2))
    one, two = (conditional.to_base(z, torch.tensor(context))[0] for context in ([0.0, 1.0], [1.0, 0.0]))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize("recipe", OF_VECTORS)
@pytest.mark.parametrize("features", [2, 3, 5])
def test_two_couplings_change_every_feature(recipe: str, features: int) -> None:
    bijector = perturbed(build_bijector(features, replace(RECIPES[recipe], permute_every=0), transforms=2))
    z = torch.randn(4, features).double()
    assert (bijector.to_base(z)[0] != z).all()


@pytest.mark.parametrize("recipe", COUPLINGS)
def test_every_coupling_sees_the_context(recipe: str) -> None:
    bijector = perturbed(build_bijector(4, recipe, transforms=3, hidden_features=(8, 8), context_features=2))
    context = torch.randn(5, 2).double().requires_grad_()
    z = torch.randn(5, 4).double()
    count = 0
    for step in bijector.steps:
        z0, _ = step(z, context)
        if z0.requires_grad and torch.autograd.grad(z0.sum(), context, allow_unused=True)[0] is not None:
            count += 1
    assert count == 3


@pytest.mark.parametrize("transforms", [1, 2, 3, 5])
def test_any_number_of_couplings(transforms: int) -> None:
    bijector = build_bijector(4, "glf", transforms=transforms, hidden_features=(8,))
    kinds = [isinstance(step, Permutation) for step in bijector.steps]
    assert kinds.count(False) == transforms
    assert kinds == ([False, False, True] * transforms)[: len(kinds)]


def test_permutations_are_fixed_by_their_seed_alone() -> None:
    def orders(recipe: Recipe) -> list[list[int]]:
        torch.manual_seed(int(torch.randint(1000, ())))
        modules = build_bijector(10, recipe).modules()
        return [module.permutation.tolist() for module in modules if isinstance(module, Permutation)]

    first = orders(RECIPES["glf"])
    assert first == orders(RECIPES["glf"])
    assert first != orders(replace(RECIPES["glf"], permutation_seed=100))
    assert len({tuple(order) for order in first}) == 4
    state = torch.get_rng_state()
    Permutation.random(10, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_permutation_undoes_itself_and_is_checked() -> None:
    step = Permutation.random(7, seed=1)
    z = torch.randn(3, 7)
    torch.testing.assert_close(step.inverse(step(z)[0])[0], z)
    assert list(step.state_dict()) == ["permutation"]
    for wrong in ([0, 0, 1], [1, 2, 3], [[0, 1]]):
        with pytest.raises(InputError, match="`permutation`"):
            Permutation(wrong)  # type: ignore[arg-type]


def test_spline_starts_as_the_identity() -> None:
    bijector = build_bijector(4, replace(RECIPES["spline"], permute_every=0)).double()
    z = 4 * torch.randn(50, 4).double()
    z0, logabsdet = bijector.to_base(z)
    torch.testing.assert_close(z0, z, rtol=0, atol=1e-6)  # the float32 bias of slope one
    torch.testing.assert_close(logabsdet, torch.zeros(50).double(), rtol=0, atol=1e-5)


@BOTH
def test_default_glf_and_masked_start_near_the_identity(backend: str) -> None:
    torch.manual_seed(0)
    z = torch.randn(200, 20).double()
    for recipe in ("glf", "masked"):
        bijector = build_bijector(20, recipe, transforms=32, backend=backend).double()
        z0, logabsdet = bijector.to_base(z)
        assert z0.square().mean() < 2 * z.square().mean()
        assert logabsdet.abs().max() < 20


def test_recipe_survives_a_trip_through_plain_data() -> None:
    for recipe in RECIPES.values():
        plain = asdict(recipe)
        plain["hidden_features"] = list(plain["hidden_features"])  # as JSON gives it back
        assert Recipe(**plain) == recipe


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recipe": "glff"}, "`recipe` .*'glff'.* did you mean `glf`"),
        ({"recipe": "masks"}, "did you mean `masked`"),
        ({"recipe": "xyz"}, "choose, for instance, `glf`"),
        ({"recipe": 3}, "`recipe` .*=3.* must be one of"),
        ({"backend": "nflow"}, "`backend` .* did you mean `nflows`"),
        ({"recipe": "spline", "backend": "pyro"}, "`backend` .*'pyro'.* no rational-quadratic coupling"),
        ({"transforms": 0}, "`transforms` .*=0.* from 1 to"),
        ({"transforms": 2.0}, "`transforms`"),
        ({"transforms": True}, "`transforms`"),
        ({"hidden_features": 64}, "`hidden_features` .*=64.* tuple"),
        ({"hidden_features": (64, 0)}, "`hidden_features`"),
        ({"hidden_features": "64"}, "`hidden_features`"),
        ({"context_features": 0}, "`context_features` .*=0"),
        ({"event_shape": 0}, "`features`"),
        ({"event_shape": (4, 8.0)}, "`features`"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_bijector(**{"event_shape": 4, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coupling", "afine"),
        ("scale", "softplus"),
        ("mask", "half"),
        ("activation", "gelu?"),
        ("output_activation", None),
        ("initialization", "he"),
        ("actnorm_start", "batch"),
        ("permute_every", -1),
        ("bins", 1),
        ("bins", 1000),
        ("tail_bound", 0.0),
        ("tail_bound", None),
        ("log_scale_limit", -2.0),
        ("last_layer_gain", float("nan")),
        ("transforms", 0),
    ],
)
def test_wrong_recipe_fields_are_named(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"`{field}`"):
        Recipe(**{field: value})  # type: ignore[arg-type]


def test_linear_conditioner() -> None:
    bijector = perturbed(build_bijector(4, "glf", transforms=3, hidden_features=()))
    z: Tensor = torch.randn(5, 4).double()
    torch.testing.assert_close(bijector.from_base(bijector.to_base(z)[0])[0], z)
