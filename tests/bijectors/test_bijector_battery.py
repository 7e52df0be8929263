"""What every built bijector must do: recipe x backend x conditional x depth x features, in float64."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flowprior.bijectors import RECIPES, Bijector, build_bijector
from flowprior.errors import InputError

OF_VECTORS = [recipe for recipe in RECIPES if recipe != "spatial"]  # that one: test_spatial.py
ON_ONE_BACKEND = ("spline", "transformer", "jet")
KINDS = [
    (recipe, backend)
    for recipe in OF_VECTORS
    for backend in ("nflows", "pyro")
    if backend == "nflows" or recipe not in ON_ONE_BACKEND
]
OVER_TOKENS = ("transformer", "jet")  # of two tokens at least
CONTEXT = 3


def build(
    recipe: str, backend: str, features: int | tuple[int, ...] = 3, depth: int = 4, conditional: bool = False
) -> Bijector:
    """A small float64 bijector with its parameters moved off their start: zero layers hide nothing."""
    torch.manual_seed(0)
    bijector = build_bijector(
        features,
        recipe,
        transforms=depth,
        hidden_features=(8, 8),
        context_features=CONTEXT if conditional else None,
        backend=backend,
    ).double()
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return bijector


def inputs(bijector: Bijector, *batch: int) -> tuple[Tensor, Tensor | None]:
    z = torch.randn(*batch, *bijector.event_shape, dtype=torch.float64)
    if bijector.context_features is None:
        return z, None
    return z, torch.randn(*batch, bijector.context_features, dtype=torch.float64)


def jacobian_logabsdet(
    function: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]], value: Tensor, context: Tensor | None
) -> Tensor:
    """log|det| by autograd, for value (N, D)."""
    value = value.clone().requires_grad_()
    mapped, _ = function(value, context)
    rows = [torch.autograd.grad(column.sum(), value, retain_graph=True)[0] for column in mapped.unbind(1)]
    return torch.linalg.slogdet(torch.stack(rows, dim=1)).logabsdet


@pytest.mark.parametrize("features", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [1, 4, 16, 32])
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(("recipe", "backend"), KINDS)
def test_invertible_with_the_jacobian_it_reports(
    recipe: str, backend: str, conditional: bool, depth: int, features: int
) -> None:
    if recipe in OVER_TOKENS and (features == 1 or depth > 4):
        pytest.skip("a token alone is refused; so many transformers are slow")
    bijector = build(recipe, backend, features, depth, conditional)
    z, context = inputs(bijector, 16)
    z0, logabsdet = bijector.to_base(z, context)
    back, logabsdet_back = bijector.from_base(z0, context)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(logabsdet_back, -logabsdet, rtol=0, atol=1e-9)
    torch.testing.assert_close(logabsdet, jacobian_logabsdet(bijector.to_base, z, context), rtol=0, atol=1e-8)
    there, _ = bijector.to_base(bijector.from_base(z, context)[0], context)
    torch.testing.assert_close(there, z, rtol=0, atol=1e-9)

    (z0.square().sum() - logabsdet.sum()).backward()
    for name, parameter in bijector.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), f"the gradient of {name} is zero"


@pytest.mark.parametrize(("recipe", "backend"), KINDS)
def test_from_base_reports_its_jacobian(recipe: str, backend: str) -> None:
    bijector = build(recipe, backend, conditional=True)
    z0, context = inputs(bijector, 5)
    expected = jacobian_logabsdet(bijector.from_base, z0, context)
    torch.testing.assert_close(bijector.from_base(z0, context)[1], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 8, 32])
@pytest.mark.parametrize(("recipe", "backend"), KINDS)
def test_invertible_as_built(recipe: str, backend: str, depth: int) -> None:
    torch.manual_seed(1)
    if recipe in OVER_TOKENS and depth > 8:
        pytest.skip("so many transformers are slow")
    for features in (2, 6) if recipe in OVER_TOKENS else (1, 2, 20):
        bijector = build_bijector(features, recipe, transforms=depth, backend=backend).double()
        z, _ = inputs(bijector, 50)
        z0, _ = bijector.to_base(z)
        torch.testing.assert_close(bijector.from_base(z0)[0], z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("features", [1, 2, 5, (2, 3, 2)])
@pytest.mark.parametrize("recipe", [recipe for recipe, backend in KINDS if backend == "pyro"])
def test_backends_agree_and_share_state_dicts(
    recipe: str, features: int | tuple[int, ...], conditional: bool
) -> None:
    ours, theirs = (build(recipe, name, features, 5, conditional) for name in ("nflows", "pyro"))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    z, context = inputs(ours, 7)
    for one, two in (
        (ours.to_base(z, context), theirs.to_base(z, context)),
        (ours.from_base(z, context), theirs.from_base(z, context)),
    ):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("recipe", "backend"), KINDS)
def test_shapes_and_broadcasting(recipe: str, backend: str) -> None:
    """Each batched evaluation equals the evaluation of its elements one at a time."""
    bijector = build(recipe, backend, (2, 3), conditional=True)
    for batch, context_batch in [
        ((), ()),
        ((3,), (3,)),
        ((2, 3), (2, 3)),
        ((2, 3), (3,)),
        ((2, 3), ()),
        ((), (4,)),
        ((3,), (2, 1)),
        ((0,), (0,)),
    ]:
        z = torch.randn(*batch, 2, 3, dtype=torch.float64)
        context = torch.randn(*context_batch, CONTEXT, dtype=torch.float64)
        z0, logabsdet = bijector.to_base(z, context)
        full = torch.broadcast_shapes(batch, context_batch)
        assert z0.shape == (*full, 2, 3)
        assert logabsdet.shape == full
        rows = z.expand(*full, 2, 3).reshape(-1, 2, 3)
        contexts = context.expand(*full, CONTEXT).reshape(-1, CONTEXT)
        for index, (row, one) in enumerate(zip(rows, contexts, strict=True)):
            z0_row, logabsdet_row = bijector.to_base(row, one)
            torch.testing.assert_close(z0.reshape(-1, 2, 3)[index], z0_row)
            torch.testing.assert_close(logabsdet.reshape(-1)[index], logabsdet_row)
    unconditional = build(recipe, backend, (2, 3))
    for batch in ((), (3,), (2, 3)):
        z, _ = inputs(unconditional, *batch)
        z0, logabsdet = unconditional.from_base(z)
        assert z0.shape == z.shape
        assert logabsdet.shape == batch


@pytest.mark.parametrize(("recipe", "backend"), KINDS)
def test_copies_give_the_same_map(recipe: str, backend: str) -> None:
    bijector = build(recipe, backend, 5, conditional=True)
    z, context = inputs(bijector, 4)
    expected = bijector.to_base(z, context)  # used once: a stale cache would break the copies
    stream = io.BytesIO()
    torch.save(bijector.state_dict(), stream)
    stream.seek(0)
    loaded = build_bijector(
        5, recipe, transforms=4, hidden_features=(8, 8), context_features=CONTEXT, backend=backend
    ).double()
    with torch.no_grad():  # a permutation of another process must be overwritten, not kept
        for name, value in loaded.state_dict().items():
            if name.endswith("permutation"):
                value.copy_(value.flip(0))
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (copy.deepcopy(bijector), pickle.loads(pickle.dumps(bijector)), loaded):
        torch.testing.assert_close(twin.to_base(z, context), expected, rtol=0, atol=0)
    twin = copy.deepcopy(bijector)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(bijector.to_base(z, context), expected, rtol=0, atol=0)
    assert not torch.allclose(twin.to_base(z, context)[0], expected[0])


@pytest.mark.parametrize(("recipe", "backend"), KINDS)
def test_same_tensor_after_a_step_is_evaluated_anew(recipe: str, backend: str) -> None:
    bijector = build(recipe, backend)
    z, _ = inputs(bijector, 6)
    before = bijector.to_base(z)[1]
    before.sum().backward()
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(0.1)
    after = bijector.to_base(z)[1]
    after.sum().backward()  # a second backward, through a new graph
    torch.testing.assert_close(after, bijector.to_base(z.clone())[1], rtol=0, atol=0)
    assert not torch.allclose(after, before)


@pytest.mark.parametrize(("recipe", "backend"), KINDS)
def test_float32_inside_autocast(recipe: str, backend: str) -> None:
    bijector = build(recipe, backend, conditional=True).float()
    z, context = torch.randn(8, 3), torch.randn(8, CONTEXT)
    expected = bijector.to_base(z, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = bijector.to_base(z, context)
        z0, _ = bijector.from_base(z.bfloat16(), context.bfloat16())
    torch.testing.assert_close(inside, expected, rtol=0, atol=0)
    assert z0.dtype == torch.float32
    assert bijector.double().to_base(z, context)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("recipe", "backend", "conditional"),
    [
        ("glf", "nflows", False),
        ("actnorm", "pyro", True),
        ("spline", "nflows", True),
    ],
)
def test_compiled_equals_eager(recipe: str, backend: str, conditional: bool) -> None:
    bijector = build(recipe, backend, depth=2, conditional=conditional)
    z, context = inputs(bijector, 4)
    torch._dynamo.reset()
    # nflows' part is one graph: no control flow on data
    compiled = torch.compile(bijector.to_base, backend="aot_eager", fullgraph=backend == "nflows")
    torch.testing.assert_close(compiled(z, context), bijector.to_base(z, context), rtol=1e-12, atol=1e-12)
    compiled = torch.compile(bijector.from_base, backend="aot_eager", fullgraph=backend == "nflows")
    torch.testing.assert_close(compiled(z, context), bijector.from_base(z, context), rtol=1e-12, atol=1e-12)


def test_bad_input_is_answered_by_one_sentence() -> None:
    bijector, conditional = build("glf", "nflows"), build("glf", "nflows", conditional=True)
    z, context = torch.zeros(4, 3).double(), torch.zeros(4, CONTEXT).double()
    for call, words in [
        (lambda: bijector.to_base(torch.zeros(4, 2)), r"`z` has shape \(4, 2\).*\(3,\)"),
        (lambda: bijector.from_base(torch.zeros(4, 2)), r"`z0` has shape \(4, 2\)"),
        (lambda: bijector.to_base(z, context), "`context` was given to an unconditional Chain"),
        (lambda: conditional.to_base(z), "`context` is missing"),
        (
            lambda: conditional.to_base(z, context[:, :2]),
            r"`context` has shape \(4, 2\).*\(=3\)",
        ),
        (
            lambda: conditional.to_base(z, context[:3]),
            r"of `z` \(4,\) and `context` \(3,\) must",
        ),
        (lambda: bijector.to_base(torch.zeros(4, 3, dtype=torch.long)), "dtype torch.int64.*float"),
        (
            lambda: bijector.float().to_base(z),
            "dtype torch.float64 but the bijector computes in torch.float32",
        ),
    ]:
        with pytest.raises(InputError, match=words):
            call()
