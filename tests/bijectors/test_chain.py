"""The chain against its steps called one by one: same numbers and gradients to any order, never stale."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowprior.bijectors import RECIPES, Permutation, Recipe, build_bijector
from flowprior.bijectors.chain import Chain, Splitting

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
    "silu": replace(RECIPES["glf"], activation="silu"),
}
DIRECTIONS = ("to_base", "from_base")
BOTH_WAYS = pytest.mark.parametrize("direction", DIRECTIONS)


class Steps(Chain):
    """The reference: every step called by itself on whole features, in nflows' form."""

    def run(self, steps, value, context, to_base):
        total = value.new_zeros(value.shape[0])
        for step in steps if to_base else reversed(steps):
            value, logabsdet = (step if to_base else step.inverse)(value, context)
            total = total + logabsdet
        return value, total


def pair(
    recipe: str | Recipe,
    features: int = 5,
    depth: int = 4,
    context: int | None = None,
    dtype: torch.dtype = torch.float64,
    hidden: tuple[int, ...] = (8, 8),
) -> tuple[Chain, Steps]:
    torch.manual_seed(0)
    chain = build_bijector(
        features, recipe, transforms=depth, hidden_features=hidden, context_features=context
    ).to(dtype)
    assert isinstance(chain, Chain)
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return chain, reference(chain)


def reference(chain: Chain) -> Steps:
    twin = copy.deepcopy(chain)
    twin.__class__ = Steps
    return twin  # type: ignore[return-value]


def inputs(bijector: Chain, rows: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    widths = [bijector.features, *([] if bijector.context_features is None else [bijector.context_features])]
    return [torch.randn(rows, width, dtype=dtype, requires_grad=True) for width in widths]


def everything(bijector: Chain, direction: str, given: list[Tensor]) -> list[Tensor]:
    """Both results and the gradients of inputs and of all parameters."""
    results = getattr(bijector, direction)(*given)
    torch.manual_seed(1)
    loss = sum((result * torch.randn_like(result)).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, [*given, *bijector.parameters()])]


def assert_same(chain: Chain, steps: Steps, direction: str, given: list[Tensor], tolerance: float) -> None:
    got, expected = (everything(bijector, direction, given) for bijector in (chain, steps))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@BOTH_WAYS
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("features", [1, 2, 5, 20])
@pytest.mark.parametrize("recipe", AFFINE)
def test_agrees_with_the_steps(
    recipe: str, features: int, depth: int, context: int | None, direction: str
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        chain, steps = pair(recipe, features, depth, context, dtype)
        assert_same(chain, steps, direction, inputs(chain, dtype=dtype), tolerance)


@BOTH_WAYS
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("recipe", VARIANTS)
def test_agrees_for_every_field_of_a_recipe(recipe: str, context: int | None, direction: str) -> None:
    chain, steps = pair(VARIANTS[recipe], 5, 5, context)
    assert_same(chain, steps, direction, inputs(chain), 1e-12)


def test_one_coupling_written_out() -> None:
    """z_b exp(2 tanh(s / 2)) + t over the second half, (t, s) by two ReLU layers of the first."""
    chain, _ = pair("glf", 4, 1)
    z = inputs(chain)[0]
    w1, b1, w2, b2, w3, b3 = chain.parameters()
    shift, s = (((z[:, :2] @ w1.T + b1).relu() @ w2.T + b2).relu() @ w3.T + b3).chunk(2, 1)
    log_scale = 2 * torch.tanh(s / 2)
    z0, logabsdet = chain.to_base(z)
    torch.testing.assert_close(z0, torch.cat((z[:, :2], z[:, 2:] * log_scale.exp() + shift), 1))
    torch.testing.assert_close(logabsdet, log_scale.sum(1))


@pytest.mark.parametrize("hidden", [(), (8,), (4, 6, 8)])
def test_other_depths_of_networks(hidden: tuple[int, ...]) -> None:
    chain, steps = pair("glf", 5, 3, hidden=hidden)
    assert_same(chain, steps, "to_base", inputs(chain), 1e-12)


def test_nothing_but_steps_is_in_the_state_dict() -> None:
    chain, _ = pair("glf")
    assert all(key.startswith("steps.") for key in chain.state_dict())


@BOTH_WAYS
@pytest.mark.parametrize("mode", [True, False])
def test_parameters_are_never_stale(mode: bool, direction: str) -> None:
    chain, steps = pair("actnorm")
    given = inputs(chain)
    for bijector in (chain, steps):
        bijector.train(mode)
        everything(bijector, direction, given)  # whatever could be remembered is remembered now
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in bijector.parameters():
                parameter.copy_(0.2 * torch.randn_like(parameter))
    assert_same(chain, steps, direction, given, 1e-12)
    for parameter in (*chain.parameters(), *steps.parameters()):
        parameter.data = parameter.data * 0.5
    assert_same(chain, steps, direction, given, 1e-12)


@pytest.mark.parametrize("other", [{"permutation_seed": 9}, {"mask": "alternating"}], ids=str)
def test_a_loaded_state_dict_brings_its_permutations_and_masks(other: dict) -> None:
    chain, _ = pair("glf", 6)
    _, steps = pair(replace(RECIPES["glf"], **other), 6)
    z = inputs(chain)[0]
    assert not torch.allclose(chain.to_base(z)[0], steps.to_base(z)[0])
    nn.ModuleDict({"inner": chain}).load_state_dict(nn.ModuleDict({"inner": steps}).state_dict())
    assert_same(chain, steps, "to_base", [z], 1e-12)
    assert_same(chain, steps, "from_base", [z], 1e-12)


def test_hooks_of_the_parts_are_called() -> None:
    chain, _ = pair("glf")
    z = inputs(chain)[0]
    layer = next(module for module in chain.modules() if isinstance(module, nn.Linear))
    seen: list[int] = []
    handle = layer.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    chain.to_base(z)
    chain.from_base(z)
    assert seen == [6, 6]
    handle.remove()
    chain.to_base(z)
    assert seen == [6, 6]


class LowRank(nn.Module):
    """A layer with a low-rank addition, as LoRA wraps one."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(2, layer.in_features, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(layer.out_features, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.down.T @ self.up.T


class Half(nn.Module):
    """Whatever it reads, a shift and an unlimited scale of one half."""

    def forward(self, unchanged: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.full((len(unchanged), 4), 0.5, dtype=unchanged.dtype)


def test_what_replaces_a_part_takes_effect_at_once() -> None:
    """A parametrization, LoRA around a layer, another network for a coupling, after construction and use."""
    chain, _ = pair(replace(RECIPES["glf"], log_scale_limit=None), 4)
    given = inputs(chain)
    before = chain.to_base(*given)[0]
    linears = [module for module in chain.modules() if isinstance(module, nn.Linear)]
    nn.utils.parametrizations.weight_norm(linears[0])
    network = next(module for module in chain.modules() if isinstance(module, nn.Sequential))
    network[2] = LowRank(network[2])
    assert not torch.allclose(chain.to_base(*given)[0], before)
    assert_same(chain, reference(chain), "to_base", given, 1e-12)
    assert_same(chain, reference(chain), "from_base", given, 1e-12)

    conditioners = [step.transform_net for step in chain.steps if isinstance(step, Splitting)]
    for conditioner in conditioners:
        conditioner.networks["shift_and_scale"] = Half()
    z0, logabsdet = chain.to_base(*given)
    torch.testing.assert_close(logabsdet, torch.full((6,), 4 * 2 * 0.5, dtype=torch.float64))
    assert not any(parameter.requires_grad for parameter in chain.parameters())
    assert z0.requires_grad


@BOTH_WAYS
def test_the_gradient_has_a_gradient(direction: str) -> None:
    chain, steps = pair("actnorm", 3, 3, 2)
    given = inputs(chain)
    second = []
    for bijector in (chain, steps):
        wanted = [*given, *bijector.parameters()]
        mapped, logabsdet = getattr(bijector, direction)(*given)
        first = torch.autograd.grad(mapped.square().sum() + logabsdet.sum(), wanted, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first)
        second.append(torch.autograd.grad(penalty, wanted))
    torch.testing.assert_close(*second, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # of torch's forward mode itself
def test_functional_parameters_and_transforms() -> None:
    chain, steps = pair("glf", 3)
    z = inputs(chain)[0]
    weights = {name: (0.5 * value.detach()).requires_grad_() for name, value in chain.named_parameters()}
    gradients = []
    for bijector in (chain, steps):
        z0, _ = torch.func.functional_call(bijector, weights, (z, None, True))
        gradients.append(torch.autograd.grad(z0.square().sum(), list(weights.values()), create_graph=True))
        gradients[-1] += torch.autograd.grad(gradients[-1][0].square().sum(), z)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    one, two = (
        torch.func.vmap(torch.func.jacrev(lambda row, b=bijector: b.to_base(row)[0]))(z.detach())
        for bijector in (chain, steps)
    )
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    forward = [
        torch.func.jvp(lambda v, b=bijector: b.to_base(v)[0], (z,), (z,))[1] for bijector in (chain, steps)
    ]
    torch.testing.assert_close(*forward, rtol=1e-9, atol=1e-9)


def test_frozen_parameters_get_no_gradient_and_others_theirs() -> None:
    chain, steps = pair("glf")
    z = inputs(chain)[0]
    for bijector in (chain, steps):
        for number, parameter in enumerate(bijector.parameters()):
            parameter.requires_grad_(number % 3 == 0)
        z0, logabsdet = bijector.to_base(z)
        (z0.square().sum() - logabsdet.sum()).backward()
    for one, other in zip(chain.parameters(), steps.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_a_weight_changed_before_the_backward_pass_is_noticed() -> None:
    chain, _ = pair("glf")
    z0, _ = chain.to_base(inputs(chain)[0])
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z0.sum().backward()


def test_permutations_of_maps_move_whole_columns() -> None:
    order = Permutation.random(3, 0, 4)
    maps = torch.randn(2, 3, 2, 2)
    moved, logabsdet = order(maps)
    assert torch.equal(moved, maps.flatten(1)[:, order.permutation].view_as(maps))
    assert torch.equal(order.inverse(moved)[0], maps)
    assert not logabsdet.any()


# The compiler's own warnings are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", AFFINE)
def test_compiles_in_one_graph(recipe: str) -> None:
    torch._dynamo.reset()
    chain, steps = pair(recipe, 3, 3, 2)
    given = inputs(chain)
    compiled = [
        torch.compile(getattr(chain, direction), backend="aot_eager", fullgraph=True)
        for direction in DIRECTIONS
    ]
    for call, direction in zip(compiled, DIRECTIONS, strict=True):
        got, expected = call(*given), getattr(steps, direction)(*given)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    parameter, twin = next(chain.parameters()), next(steps.parameters())
    with torch.no_grad():
        parameter.add_(0.5)
        twin.add_(0.5)
    torch.testing.assert_close(compiled[0](*given), steps.to_base(*given), rtol=1e-12, atol=1e-12)
