"""The fast path against the steps called one by one: same numbers, same gradients, never stale."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowprior.bijectors import RECIPES, Permutation, Recipe, build_bijector
from flowprior.bijectors.cascade import Cascade
from flowprior.bijectors.schedule import Schedule

AFFINE = {name: recipe for name, recipe in RECIPES.items() if recipe.coupling == "affine"}
VARIANTS = {
    **AFFINE,
    "plain exp": replace(RECIPES["glf"], log_scale_limit=None),
    "other limit": replace(RECIPES["glf"], log_scale_limit=3.0, activation="elu", permute_every=1),
    "tanh outputs": replace(
        RECIPES["masked"], output_activation="tanh", log_scale_limit=None, activation="tanh"
    ),
    "actnorm everywhere": replace(RECIPES["actnorm"], permute_every=1, mask="alternating", actnorm_every=1),
    "shift first, exp": replace(RECIPES["glf"], shift_first=True),
    "sigmoid, limited": replace(RECIPES["glf"], scale="sigmoid"),
    "gradient by autograd": replace(RECIPES["glf"], activation="silu"),
}
DIRECTIONS = ("to_base", "from_base")
BOTH_WAYS = pytest.mark.parametrize("direction", DIRECTIONS)
Pair = tuple[Cascade, Cascade]


def pair(
    recipe: str | Recipe,
    features: int = 5,
    depth: int = 4,
    context: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Pair:
    """A bijector on the fast path, and its copy that calls its steps."""
    torch.manual_seed(0)
    fast = build_bijector(
        features, recipe, transforms=depth, hidden_features=(8, 8), context_features=context
    ).to(dtype)
    assert isinstance(fast, Cascade)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert fast.schedule is not None
    reference = copy.deepcopy(fast)
    reference.schedule = None
    return fast, reference


def inputs(bijector: Cascade, rows: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    widths = [bijector.features, *([] if bijector.context_features is None else [bijector.context_features])]
    return [torch.randn(rows, width, dtype=dtype, requires_grad=True) for width in widths]


def everything(bijector: Cascade, direction: str, given: list[Tensor]) -> list[Tensor]:
    """Both results, those without gradients, and the gradients of inputs and of all parameters."""
    results = getattr(bijector, direction)(*given)
    with torch.no_grad():
        quiet = getattr(bijector, direction)(*given)
    torch.manual_seed(1)
    loss = sum((result * torch.randn_like(result)).sum() for result in results)
    return [*results, *quiet, *torch.autograd.grad(loss, [*given, *bijector.parameters()])]


@BOTH_WAYS
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("depth", [1, 2, 7, 16])
@pytest.mark.parametrize("features", [2, 3, 5, 20])
@pytest.mark.parametrize("recipe", AFFINE)
def test_agrees_with_the_steps(
    recipe: str, features: int, depth: int, context: int | None, direction: str
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        fast, reference = pair(recipe, features, depth, context, dtype)
        given = inputs(fast, dtype=dtype)
        got, expected = (everything(bijector, direction, given) for bijector in (fast, reference))
        assert len(got) == 4 + len(given) + len(list(fast.parameters()))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@BOTH_WAYS
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("recipe", VARIANTS)
def test_agrees_for_every_field_of_a_recipe(recipe: str, context: int | None, direction: str) -> None:
    fast, reference = pair(VARIANTS[recipe], 5, 5, context)
    given = inputs(fast)
    got, expected = (everything(bijector, direction, given) for bijector in (fast, reference))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@BOTH_WAYS
def test_float32_is_as_close_to_float64_as_the_steps_are(direction: str) -> None:
    fast, reference = pair("glf", 20, 16)
    given = [tensor.detach() for tensor in inputs(fast, 200)]
    exact = getattr(fast, direction)(*given)
    errors = []
    for bijector in (fast, reference):
        rounded = getattr(bijector.float(), direction)(*(tensor.float() for tensor in given))
        errors.append([(one.double() - other).abs().max() for one, other in zip(rounded, exact, strict=True)])
    for own, theirs in zip(*errors, strict=True):
        assert own < 3 * theirs + 1e-5  # 160 log-scales of at most 2, each within 2e-7


@pytest.mark.parametrize("hidden", [(), (8,), (4, 6, 8)])
def test_other_depths_of_networks(hidden: tuple[int, ...]) -> None:
    fast = build_bijector(5, "glf", transforms=3, hidden_features=hidden).double()
    assert isinstance(fast, Cascade)
    reference = copy.deepcopy(fast)
    reference.schedule = None
    given = inputs(fast)
    for got, expected in zip(
        everything(fast, "to_base", given), everything(reference, "to_base", given), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_who_has_a_schedule() -> None:
    """Affine couplings of this library on nflows, over more than one feature; decided when it is built."""
    assert all(build_bijector(3, recipe).schedule is not None for recipe in AFFINE)
    assert build_bijector(3, "spline").schedule is None
    assert build_bijector(1, "glf").schedule is None
    assert build_bijector(1, "glf", context_features=2).schedule is None
    assert build_bijector(3, "glf", backend="pyro").schedule is None
    assert Schedule.of(nn.ModuleList([Permutation([1, 0]), nn.Identity()]), 2) is None


def test_permutations_and_masks_alone_need_no_moves() -> None:
    """A permutation and its inverse fold away, and consecutive ones become one move."""
    order = Permutation.random(6, 0)
    undone = nn.ModuleList([order, Permutation(order.permutation.argsort())])
    schedule = Schedule.of(undone, 6)
    assert schedule is not None
    assert schedule.program == []
    twice = Schedule.of(nn.ModuleList([order, order]), 6)
    assert twice is not None
    assert len(twice.program) == 1
    z = torch.randn(3, 6)
    assert torch.equal(twice.to_base(z, None)[0], z[:, order.permutation][:, order.permutation])


def test_nothing_is_added_to_the_state_dict() -> None:
    fast, reference = pair("glf")
    assert list(fast.state_dict()) == list(reference.state_dict())
    assert all(key.startswith("steps.") for key in fast.state_dict())
    assert list(dict(fast.named_parameters())) == list(dict(reference.named_parameters()))


@BOTH_WAYS
@pytest.mark.parametrize("mode", [True, False])
def test_parameters_are_never_stale(mode: bool, direction: str) -> None:
    fast, reference = pair("actnorm")
    given = inputs(fast)
    for bijector in (fast, reference):
        bijector.train(mode)
        everything(bijector, direction, given)  # whatever could be remembered is remembered now
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in bijector.parameters():
                parameter.copy_(0.2 * torch.randn_like(parameter))
    torch.testing.assert_close(getattr(fast, direction)(*given), getattr(reference, direction)(*given))
    for parameter in (*fast.parameters(), *reference.parameters()):
        parameter.data = parameter.data * 0.5
    torch.testing.assert_close(getattr(fast, direction)(*given), getattr(reference, direction)(*given))


def test_a_loaded_state_dict_brings_its_permutations() -> None:
    fast, _ = pair("glf", 6)
    other, reference = pair(replace(RECIPES["glf"], permutation_seed=9), 6)
    z = inputs(fast)[0]
    assert not torch.allclose(fast.to_base(z)[0], reference.to_base(z)[0])
    nn.ModuleDict({"inner": fast}).load_state_dict(nn.ModuleDict({"inner": reference}).state_dict())
    torch.testing.assert_close(fast.to_base(z), reference.to_base(z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fast.from_base(z), reference.from_base(z), rtol=1e-12, atol=1e-12)
    assert other.schedule is not None


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_copies_have_parameters_of_their_own(way: str) -> None:
    fast, reference = pair("masked")
    z = inputs(fast)[0].detach()
    expected = reference.to_base(z)
    if way == "deepcopy":
        again = copy.deepcopy(fast)
    elif way == "pickle":
        again = pickle.loads(pickle.dumps(fast))
    else:
        stored = io.BytesIO()
        torch.save(fast.state_dict(), stored)
        stored.seek(0)
        again = build_bijector(5, "masked", transforms=4, hidden_features=(8, 8)).double()
        again.load_state_dict(torch.load(stored, weights_only=True))
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert again.schedule is not None
    assert again.schedule.serves(again.steps)
    torch.testing.assert_close(again.to_base(z), expected, rtol=1e-12, atol=1e-12)


def test_hooks_of_the_parts_are_called() -> None:
    fast, _ = pair("glf")
    z = inputs(fast)[0]
    layer = next(module for module in fast.modules() if isinstance(module, nn.Linear))
    seen: list[int] = []
    handle = layer.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    fast.to_base(z)
    fast.from_base(z)
    assert seen == [6, 6]
    handle.remove()
    fast.to_base(z)
    assert seen == [6, 6]


def test_changed_layers_are_respected() -> None:
    """A parametrization, or another layer in the place of one, after construction."""
    fast, _ = pair("glf")
    given = inputs(fast)
    linears = [module for module in fast.modules() if isinstance(module, nn.Linear)]
    nn.utils.parametrizations.weight_norm(linears[0])
    network = next(module for module in fast.modules() if isinstance(module, nn.Sequential))
    network[2] = nn.Sequential(nn.Linear(8, 8), nn.Softplus()).double()
    reference = copy.deepcopy(fast)
    reference.schedule = None
    for got, expected in zip(
        everything(fast, "to_base", given), everything(reference, "to_base", given), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@BOTH_WAYS
def test_the_gradient_has_a_gradient(direction: str) -> None:
    fast, reference = pair("actnorm", 3, 3, 2)
    given = inputs(fast)
    found = []
    for bijector in (fast, reference):
        wanted = [*given, *bijector.parameters()]
        mapped, logabsdet = getattr(bijector, direction)(*given)
        first = torch.autograd.grad(mapped.square().sum() + logabsdet.sum(), wanted, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first)
        found.append(torch.autograd.grad(penalty, wanted))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # of torch's forward mode itself
def test_functional_parameters_and_transforms() -> None:
    fast, reference = pair("glf", 3)
    z = inputs(fast)[0]
    weights = {name: (0.5 * value.detach()).requires_grad_() for name, value in fast.named_parameters()}
    found = []
    for bijector in (fast, reference):
        z0, _ = _called(bijector, weights, z)
        found.append(torch.autograd.grad(z0.square().sum(), list(weights.values()), create_graph=True))
        found[-1] += torch.autograd.grad(found[-1][0].square().sum(), z)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
    one, two = (
        torch.func.vmap(torch.func.jacrev(lambda row, b=bijector: b.to_base(row)[0]))(z.detach())
        for bijector in (fast, reference)
    )
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    forward = [
        torch.func.jvp(lambda v, b=bijector: b.to_base(v)[0], (z,), (z,))[1] for bijector in (fast, reference)
    ]
    torch.testing.assert_close(*forward, rtol=1e-9, atol=1e-9)


class _ToBase(nn.Module):
    def __init__(self, bijector: Cascade) -> None:
        super().__init__()
        self.bijector = bijector

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijector.to_base(z)


def _called(bijector: Cascade, weights: dict[str, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    named = {f"bijector.{name}": value for name, value in weights.items()}
    return torch.func.functional_call(_ToBase(bijector), named, (z,))


def test_frozen_parameters_get_no_gradient_and_others_theirs() -> None:
    fast, reference = pair("glf")
    z = inputs(fast)[0]
    for bijector in (fast, reference):
        for number, parameter in enumerate(bijector.parameters()):
            parameter.requires_grad_(number % 3 == 0)
        z0, logabsdet = bijector.to_base(z)
        (z0.square().sum() - logabsdet.sum()).backward()
    for one, other in zip(fast.parameters(), reference.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_float32_inside_autocast_in_both_passes() -> None:
    fast, reference = pair("glf", dtype=torch.float32)
    z = torch.randn(6, 5)
    expected = torch.autograd.grad(reference.to_base(z)[0].square().sum(), list(reference.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        z0, _ = fast.to_base(z)
        got = torch.autograd.grad(z0.square().sum(), list(fast.parameters()))
    assert z0.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_weight_changed_before_the_backward_pass_is_noticed() -> None:
    fast, _ = pair("glf")
    z0, _ = fast.to_base(inputs(fast)[0])
    with torch.no_grad():
        next(fast.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z0.sum().backward()


# The compiler's own warnings are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", AFFINE)
def test_compiles_in_one_graph(recipe: str) -> None:
    torch._dynamo.reset()
    fast, reference = pair(recipe, 3, 3, 2)
    given = inputs(fast)
    compiled = [
        torch.compile(getattr(fast, direction), backend="aot_eager", fullgraph=True)
        for direction in DIRECTIONS
    ]
    for call, direction in zip(compiled, DIRECTIONS, strict=True):
        got, expected = call(*given), getattr(reference, direction)(*given)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    parameter, twin = next(fast.parameters()), next(reference.parameters())
    with torch.no_grad():
        parameter.add_(0.5)
        twin.add_(0.5)
    torch.testing.assert_close(compiled[0](*given), reference.to_base(*given), rtol=1e-12, atol=1e-12)
