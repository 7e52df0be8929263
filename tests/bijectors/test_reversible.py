"""The reversible mode against the ordinary one: same gradients, memory that depth does not change."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowprior import FlowPrior
from flowprior.bijectors import RECIPES, Recipe, build_bijector
from flowprior.bijectors.chain import Chain
from flowprior.errors import InputError
from flowprior.evaluation.costs import saved_bytes

AFFINE = [name for name, recipe in RECIPES.items() if recipe.coupling == "affine"]
VARIANTS = {
    **{name: RECIPES[name] for name in AFFINE},
    "plain exp": replace(RECIPES["glf"], log_scale_limit=None),
    "tanh outputs": replace(RECIPES["masked"], output_activation="tanh", activation="tanh"),
    "actnorm everywhere": replace(RECIPES["actnorm"], permute_every=1, mask="alternating", actnorm_every=1),
    "shift first, exp": replace(RECIPES["glf"], shift_first=True, activation="elu"),
    "sigmoid, limited": replace(RECIPES["glf"], scale="sigmoid"),
    "silu": replace(RECIPES["glf"], activation="silu"),
    "spline": RECIPES["spline"],
}
BOTH_WAYS = pytest.mark.parametrize("direction", ["to_base", "from_base"])


def pair(
    recipe: str | Recipe,
    features: int,
    depth: int,
    context: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Chain, Chain]:
    """A reversible bijector, and its copy that is not."""
    torch.manual_seed(0)
    built = build_bijector(
        features,
        recipe,
        transforms=depth,
        hidden_features=(8, 8),
        context_features=context,
        reversible=True,
    )
    assert isinstance(built, Chain)
    reversible = built.to(dtype)
    with torch.no_grad():
        for parameter in reversible.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference = copy.deepcopy(reversible)
    reference.reversible = False
    return reversible, reference


def inputs(bijector: Chain, rows: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    widths = [bijector.features, *([] if bijector.context_features is None else [bijector.context_features])]
    return [torch.randn(rows, width, dtype=dtype, requires_grad=True) for width in widths]


def everything(bijector: Chain, direction: str, given: list[Tensor]) -> list[Tensor]:
    """Both results and the gradients of inputs and of all parameters."""
    results = getattr(bijector, direction)(*given)
    torch.manual_seed(1)
    loss = sum((result * torch.randn_like(result)).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, [*given, *bijector.parameters()])]


@BOTH_WAYS
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("features", [2, 3, 5, 20])
@pytest.mark.parametrize("recipe", AFFINE)
def test_gradients_are_those_of_the_steps(
    recipe: str, features: int, depth: int, context: int | None, direction: str
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 5e-4)):
        reversible, reference = pair(recipe, features, depth, context, dtype)
        given = inputs(reversible, dtype=dtype)
        got, expected = (everything(bijector, direction, given) for bijector in (reversible, reference))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@BOTH_WAYS
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_for_every_field_of_a_recipe(variant: str, context: int | None, direction: str) -> None:
    reversible, reference = pair(VARIANTS[variant], 5, 5, context)
    given = inputs(reversible)
    got, expected = (everything(bijector, direction, given) for bijector in (reversible, reference))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@BOTH_WAYS
@pytest.mark.parametrize("recipe", AFFINE)
def test_memory_does_not_grow_with_depth(recipe: str, direction: str) -> None:
    """Saved activations of 32 couplings within a tenth of those of 8; ordinary ones grow fourfold."""
    kept = {}
    for depth in (8, 32):
        bijector, _ = pair(recipe, 20, depth, 3, torch.float32)
        given = inputs(bijector, 50, torch.float32)
        for reversible in (True, False):
            bijector.reversible = reversible
            call = getattr(bijector, direction)
            kept[depth, reversible] = saved_bytes(
                lambda call=call, given=given: call(*given), bijector.parameters()
            )
    assert kept[32, True] <= 1.1 * kept[8, True]
    assert kept[32, False] > 3.5 * kept[8, False] > 14 * kept[8, True]


@BOTH_WAYS
def test_the_backward_pass_keeps_no_activations_either(direction: str) -> None:
    """Never more alive than the graph of one step, whatever the depth."""
    longest = []
    for depth in (4, 16):
        bijector, _ = pair("actnorm", 6, depth)
        results = getattr(bijector, direction)(*inputs(bijector))
        alive, most = 0, 0

        class Counted:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal alive, most
                self.tensor, alive = tensor, alive + 1
                most = max(most, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        with torch.autograd.graph.saved_tensors_hooks(Counted, lambda counted: counted.tensor):
            torch.autograd.grad(sum(result.sum() for result in results), list(bijector.parameters()))
        longest.append(most)
    assert 0 < longest[0] == longest[1] < 60


@BOTH_WAYS
def test_the_gradient_has_a_gradient(direction: str) -> None:
    reversible, reference = pair("actnorm", 3, 3, 2)
    given = inputs(reversible)
    second = []
    for bijector in (reversible, reference):
        wanted = [*given, *bijector.parameters()]
        mapped, logabsdet = getattr(bijector, direction)(*given)
        first = torch.autograd.grad(mapped.square().sum() + logabsdet.sum(), wanted, create_graph=True)
        second.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), wanted))
    torch.testing.assert_close(*second, rtol=1e-9, atol=1e-9)


def test_frozen_parameters_get_no_gradient_and_others_theirs() -> None:
    reversible, reference = pair("glf", 5, 4)
    z = inputs(reversible)[0]
    for bijector in (reversible, reference):
        for number, parameter in enumerate(bijector.parameters()):
            parameter.requires_grad_(number % 3 == 0)
        z0, logabsdet = bijector.to_base(z)
        (z0.square().sum() - logabsdet.sum()).backward()
    for one, other in zip(reversible.parameters(), reference.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_a_changed_result_is_noticed() -> None:
    """The backward pass starts from the result: it must be the one of the forward pass."""
    reversible, _ = pair("glf", 5, 4)
    z0, _ = reversible.to_base(inputs(reversible)[0])
    loss = z0.square().sum()
    with torch.no_grad():
        z0.add_(1.0)
    with pytest.raises(RuntimeError, match=r"modified .*inplace"):
        loss.backward()


def test_it_stays_reversible_when_it_is_loaded_and_saved(tmp_path) -> None:
    prior = FlowPrior(4, transforms=2, hidden_features=(8,), reversible=True)
    prior.load_state_dict(FlowPrior(4, transforms=2, hidden_features=(8,)).state_dict())
    prior.save_pretrained(tmp_path)
    again = FlowPrior.from_pretrained(tmp_path)
    for each in (prior, again, copy.deepcopy(prior)):
        assert isinstance(each.bijector, Chain)
        assert each.bijector.reversible


def test_a_prior_of_the_ordinary_kind_has_the_same_density_and_gradients() -> None:
    torch.manual_seed(0)
    prior = FlowPrior(5, context_features=2, reversible=True, base="mixture").double()
    ordinary = FlowPrior(5, context_features=2, base="mixture").double()
    z, context = torch.randn(300, 5).double(), torch.randn(300, 2).double()
    prior.initialize(z, context)
    ordinary.load_state_dict(prior.state_dict())
    found = []
    for each in (prior, ordinary):
        value = each.log_prob(z, context)
        found.append((value, *torch.autograd.grad(value.sum(), list(each.parameters()))))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["nflows", "pyro"])
def test_maps_and_both_backends_have_it(backend: str) -> None:
    torch.manual_seed(0)
    flow = build_bijector(
        (3, 2, 2),
        "spatial",
        hidden_features=(4,),
        context_features=(1, 4, 4),
        backend=backend,
        reversible=True,
    ).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    z, context = torch.randn(4, 3, 2, 2).double(), torch.randn(4, 1, 4, 4).double().requires_grad_()
    gradients = []
    for reversible in (True, False):
        flow.reversible = reversible
        z0, logabsdet = flow.to_base(z, context)
        loss = z0.square().sum() + logabsdet.square().sum()
        gradients.append(torch.autograd.grad(loss, [context, *flow.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_a_transform_of_ones_own_has_no_reversible_mode() -> None:
    with pytest.raises(InputError, match="`reversible`"):
        FlowPrior(4, reversible=True, bijector=build_bijector(4))


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("create_graph", [True, False])
def test_the_path_through_a_draw_counts_once(reversible: bool, create_graph: bool) -> None:
    """log p(z) at z drawn from the same parameters, twice in one graph, against finite differences."""
    prior = FlowPrior(3, transforms=2, hidden_features=(4,), reversible=reversible).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    parameters = list(prior.parameters())

    def loss() -> Tensor:
        torch.manual_seed(3)
        z = prior.rsample(16)
        return (prior.log_prob(z) * z[:, 0]).mean() + prior.log_prob(0.5 * prior.rsample(16)).square().mean()

    gradients = torch.autograd.grad(loss(), parameters, create_graph=create_graph)
    for parameter, gradient in zip(parameters[:6], gradients, strict=False):
        step = 1e-6
        flat = parameter.data.view(-1)
        for index in range(0, len(flat), 5):
            flat[index] += step
            above = loss()
            flat[index] -= 2 * step
            below = loss()
            flat[index] += step
            expected = (above - below) / (2 * step)
            torch.testing.assert_close(gradient.view(-1)[index], expected, rtol=1e-4, atol=1e-7)
