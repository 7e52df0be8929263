"""A folded prior is the flow as it was: same numbers both ways, no training, nothing shared."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowprior import FlowPrior, InputError, fit
from flowprior.bijectors import RECIPES, Recipe

VARIANTS: dict[str, Recipe] = {
    **{name: recipe for name, recipe in RECIPES.items() if recipe.coupling == "affine"},
    "plain exp": replace(RECIPES["glf"], log_scale_limit=None),
    "tanh outputs": replace(
        RECIPES["masked"], output_activation="tanh", log_scale_limit=None, activation="tanh"
    ),
    "tanh and sigmoid": replace(RECIPES["actnorm"], output_activation="tanh"),
    "sigmoid, separate": replace(RECIPES["actnorm"], separate_networks=True, shift_first=False),
    "actnorm everywhere": replace(RECIPES["actnorm"], permute_every=1, mask="alternating", actnorm_every=1),
    "actnorm, shift last": replace(RECIPES["glf"], actnorm_every=3, activation="elu", permute_every=1),
    "sigmoid, limited": replace(RECIPES["glf"], scale="sigmoid", actnorm_every=1, shift_first=True),
    "silu": replace(RECIPES["glf"], activation="silu", log_scale_limit=3.0),
}


def pair(
    recipe: str = "glf",
    features: int | tuple[int, ...] = 5,
    context: int | None = None,
    whitening: str | None = None,
    dtype: torch.dtype = torch.float64,
    base: str = "normal",
) -> tuple[FlowPrior, list[Tensor]]:
    """A flow with parameters of all sizes, and z with its context."""
    torch.manual_seed(0)
    prior = FlowPrior(
        features,
        recipe=VARIANTS[recipe],
        transforms=5,
        hidden_features=(8, 6),
        context_features=context,
        base=base,
    ).to(dtype)
    z = 0.7 * torch.randn(40, *prior.event_shape, dtype=dtype) + 0.3
    given = [z] if context is None else [z, torch.randn(40, context, dtype=dtype)]
    if whitening is not None or base == "mixture":
        prior.initialize(*given, standardize=whitening)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in prior.bijector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return prior, given


def answers(prior: nn.Module, given: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    drawn = prior.sample((3,) if len(given) == 2 else 3, *given[1:])
    return [
        prior.log_prob(*given),
        *prior.to_base(*given),
        *prior.from_base(0.3 * given[0], *given[1:]),
        drawn,
    ]


def assert_equal(prior: FlowPrior, given: list[Tensor], tolerance: float) -> None:
    for got, expected in zip(answers(prior.folded(), given), answers(prior, given), strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("whitening", [None, "full", "diagonal"])
@pytest.mark.parametrize("context", [None, 3])
@pytest.mark.parametrize("features", [2, 5, 20])
@pytest.mark.parametrize("recipe", VARIANTS)
def test_answers_as_the_flow_does(
    recipe: str, features: int, context: int | None, whitening: str | None
) -> None:
    assert_equal(*pair(recipe, features, context, whitening), 1e-9)


@pytest.mark.parametrize("recipe", VARIANTS)
def test_float32_is_as_close_to_float64_as_the_flow_is(recipe: str) -> None:
    prior, given = pair(recipe, 20, None, "full")
    exact = prior.log_prob(*given)
    single = copy.deepcopy(prior).float()
    errors = [
        (each.log_prob(given[0].float()).double() - exact).abs().max() for each in (single.folded(), single)
    ]
    assert errors[0] < 4 * errors[1] + 2e-5 * exact.abs().max()


@pytest.mark.parametrize("base", ["normal", "mixture"])
def test_shapes_of_events_and_batches(base: str) -> None:
    prior, (z,) = pair("actnorm", (2, 3), whitening="full", base=base)
    folded = prior.folded()
    assert folded.event_shape == (2, 3)
    assert folded.has_normal_base == prior.has_normal_base == (base == "normal")
    torch.testing.assert_close(folded.log_prob(z.view(4, 10, 2, 3)), prior.log_prob(z.view(4, 10, 2, 3)))
    torch.testing.assert_close(folded.log_prob(z[0]), prior.log_prob(z[0]))
    assert folded.log_prob(z[:0]).shape == (0,)
    assert folded().sample((2, 3)).shape == (2, 3, 2, 3)


def test_later_changes_do_not_leak_either_way() -> None:
    prior, given = pair("actnorm", 5, 3, "full", base="mixture")
    folded = prior.folded()
    before = answers(folded, given)
    own = answers(prior, given)
    with torch.no_grad():
        for value in (*prior.parameters(), *prior.buffers()):
            value.mul_(0.5) if value.is_floating_point() else None
    torch.testing.assert_close(answers(folded, given), before, rtol=0, atol=0)
    prior, given = pair("actnorm", 5, 3, "full", base="mixture")
    prior.folded().float().double()
    torch.testing.assert_close(answers(prior, given), own, rtol=0, atol=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda folded: pickle.loads(pickle.dumps(folded))])
def test_moves_and_copies(copied: object) -> None:
    prior, given = pair("silu", 5, None, "diagonal")
    folded = prior.folded()
    again = copied(folded)  # type: ignore[operator]
    torch.testing.assert_close(answers(again, given), answers(folded, given))
    single = folded.float()
    assert single.log_prob(given[0].float()).dtype == torch.float32


def test_gradients_reach_z_and_context_alone() -> None:
    prior, given = pair("actnorm", 5, 3, "full", base="mixture")
    folded = prior.folded()
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    found = []
    for each in (folded, prior):
        own = [value.clone().requires_grad_() for value in given]
        found.append(torch.autograd.grad(each.log_prob(*own).sum(), own))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_done_is_said(tmp_path: object) -> None:
    prior, (z,) = pair()
    folded = prior.folded()
    with pytest.raises(InputError, match="cannot be trained: train the FlowPrior"):
        folded.initialize(z)
    with pytest.raises(InputError, match="cannot be trained"):
        fit(folded, z, epochs=1, progress=False)
    with pytest.raises(InputError, match="cannot be saved: save the FlowPrior"):
        folded.save_pretrained(tmp_path)  # type: ignore[arg-type]
    for other in (FlowPrior(3, recipe="spline"), FlowPrior(3, backend="pyro"), FlowPrior(1)):
        with pytest.raises(InputError, match="has nothing to fold"):
            other.folded()
    layer = next(module for module in prior.modules() if isinstance(module, nn.Linear))
    nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(InputError, match="remove its parametrization"):
        prior.folded()
