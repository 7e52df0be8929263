"""Flows over maps: against autograd, a coupling written out, and the backends against each other."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, elu

from flowprior.bijectors import RECIPES, Bijector, Permutation, build_bijector
from flowprior.bijectors.spatial import ByPosition, context_maps
from flowprior.errors import InputError

EVENT = (3, 2, 4)
BOTH = pytest.mark.parametrize("backend", ["nflows", "pyro"])
CONTEXTS = [None, 2, (2, 2, 4), (2, 6, 8), (2, 1, 2)]  # none, a vector, maps: equal, larger, smaller


def build(backend: str = "nflows", context: object = None, depth: int = 4, event: object = EVENT) -> Bijector:
    torch.manual_seed(0)
    bijector = build_bijector(
        event, "spatial", transforms=depth, hidden_features=(6, 5), context_features=context, backend=backend
    ).double()
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return bijector


def given(bijector: Bijector, *batch: int) -> tuple[Tensor, Tensor | None]:
    z = torch.randn(*batch, *bijector.event_shape, dtype=torch.float64)
    if bijector.context_features is None:
        return z, None
    return z, torch.randn(*batch, *bijector.context_shape, dtype=torch.float64)


@BOTH
@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("depth", [1, 4, 9])
def test_invertible_with_the_jacobian_it_reports(backend: str, context: object, depth: int) -> None:
    bijector = build(backend, context, depth)
    z, seen = given(bijector, 3)
    z0, logabsdet = bijector.to_base(z, seen)
    back, inverse = bijector.from_base(z0, seen)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse, -logabsdet, rtol=0, atol=1e-10)
    for row in range(3):
        own = None if seen is None else seen[row]
        jacobian = torch.autograd.functional.jacobian(lambda x: bijector.to_base(x, own)[0], z[row])  # noqa: B023
        expected = torch.linalg.slogdet(jacobian.reshape(24, 24)).logabsdet
        torch.testing.assert_close(logabsdet[row], expected, rtol=0, atol=1e-9)
    (z0.square().sum() - logabsdet.sum()).backward()
    for name, parameter in bijector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_backends_agree_and_share_state_dicts(context: object) -> None:
    ours, theirs = build("nflows", context, 5), build("pyro", context, 5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.load_state_dict(ours.state_dict())
    z, seen = given(ours, 7)
    for name in ("to_base", "from_base"):
        torch.testing.assert_close(getattr(ours, name)(z, seen), getattr(theirs, name)(z, seen))


@BOTH
def test_one_coupling_written_out(backend: str) -> None:
    """z_b exp(2 tanh(s / 2)) + t over the last channel, (t, s) by 3x3 - 1x1 - 3x3 of z_a and context."""
    torch.manual_seed(0)
    recipe = replace(RECIPES["spatial"], actnorm_every=0, permute_every=0, last_layer_gain=1.0)
    bijector = build_bijector(
        EVENT,
        recipe,
        transforms=1,
        hidden_features=(6, 5),
        context_features=(2, 4, 8),
        backend=backend,
    ).double()
    z, context = torch.randn(3, *EVENT).double(), torch.randn(3, 2, 4, 8).double()
    cells = context.reshape(3, 2, 2, 2, 4, 2).mean((3, 5))
    w1, b1, w2, b2, w3, b3 = bijector.parameters()
    assert [w.shape[-1] for w in (w1, w2, w3)] == [3, 1, 3]
    hidden = elu(conv2d(torch.cat((z[:, :2], cells), 1), w1, b1, padding=1))
    shift, s = conv2d(elu(conv2d(hidden, w2, b2)), w3, b3, padding=1).chunk(2, 1)
    log_scale = 2 * torch.tanh(s / 2)
    z0, logabsdet = bijector.to_base(z, context)
    expected = torch.cat((z[:, :2], z[:, 2:] * log_scale.exp() + shift), 1)
    torch.testing.assert_close(z0, expected)
    torch.testing.assert_close(logabsdet, log_scale.sum((1, 2, 3)))


@pytest.mark.parametrize("context", [2, (2, 2, 4)], ids=str)
def test_every_coupling_sees_the_context(context: object) -> None:
    bijector = build(context=context, depth=3)
    z, seen = given(bijector, 5)
    seen.requires_grad_()
    count = 0
    for step in bijector.steps:
        z0, _ = step(z, context_maps(seen, 2, 4))
        if z0.requires_grad:
            gradient = torch.autograd.grad(z0.sum(), seen, allow_unused=True)[0]
            count += gradient is not None and bool((gradient != 0).all())
    assert count == 3


def test_gradients_of_inputs() -> None:
    bijector = build("nflows", (1, 4, 4), 2, (2, 2, 2))
    z, seen = given(bijector, 2)
    for direction in (bijector.to_base, bijector.from_base):
        assert torch.autograd.gradcheck(direction, (z.requires_grad_(), seen.requires_grad_()))


def test_channels_stay_whole() -> None:
    """A shift of the maps shifts z0 along: away from the border no position is special."""
    bijector = build(event=(4, 16, 16), depth=2)
    z = torch.randn(1, 4, 16, 16).double()
    z0, _ = bijector.to_base(z)
    shifted, _ = bijector.to_base(z.roll(1, -1))
    torch.testing.assert_close(shifted[..., 6:11, 6:11], z0.roll(1, -1)[..., 6:11, 6:11])
    (order,) = [step.permutation for step in bijector.steps if isinstance(step, Permutation)]
    channels = order.reshape(4, 256)
    assert (channels % 256 == torch.arange(256)).all()
    assert sorted((channels[:, 0] // 256).tolist()) == [0, 1, 2, 3]


@BOTH
def test_actnorm_of_a_channel_starts_from_all_its_positions(backend: str) -> None:
    bijector = build_bijector((4, 3, 3), "spatial", transforms=4, hidden_features=(6,), backend=backend)
    z = torch.randn(200, 4, 3, 3) * torch.tensor([1.0, 2, 5, 0.1])[:, None, None] + 3
    bijector.initialize(z)
    first = bijector.steps[0]
    assert isinstance(first, ByPosition)
    assert first.actnorm.shift.shape == (4,)
    maps = first(z)[0].reshape(200, 4, 9)
    torch.testing.assert_close(maps.mean((0, 2)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(maps.std((0, 2)), torch.ones(4), rtol=1e-3, atol=0)
    assert bijector.steps[4].actnorm.initialized
    before = bijector.to_base(z)[0]
    bijector.initialize(z + 1)  # once is enough
    assert torch.equal(bijector.to_base(z)[0], before)


def test_context_maps_by_hand() -> None:
    maps = torch.randn(2, 3, 4, 4)
    assert torch.equal(context_maps(maps, 4, 4), maps)
    torch.testing.assert_close(context_maps(maps, 2, 2), maps.reshape(2, 3, 2, 2, 2, 2).mean((3, 5)))
    larger = maps.repeat_interleave(2, 2).repeat_interleave(3, 3)
    assert torch.equal(context_maps(maps, 8, 12), larger)
    vector = torch.randn(2, 5)
    assert torch.equal(context_maps(vector, 2, 3), vector[:, :, None, None].repeat(1, 1, 2, 3))


def test_other_recipes_read_maps_flat() -> None:
    torch.manual_seed(0)
    maps = build_bijector(4, "glf", context_features=(2, 3, 3), transforms=2)
    flat = build_bijector(4, "glf", context_features=18, transforms=2)
    flat.load_state_dict(maps.state_dict())
    z, context = torch.randn(5, 4), torch.randn(5, 2, 3, 3)
    assert torch.equal(maps.to_base(z, context)[0], flat.to_base(z, context.flatten(1))[0])


@pytest.mark.parametrize(
    ("event", "settings", "words"),
    [
        (64, {}, r"`features` \(=\(64,\)\) must be maps"),
        ((4, 8), {}, r"`features` \(=\(4, 8\)\) must be maps"),
        ((1, 8, 8), {}, r"`features` \(=\(1, 8, 8\)\) must be maps \(C, h, w\) of at least two channels"),
        (EVENT, {"context_features": (2, 3)}, r"`context_features` \(=\(2, 3\)\) must be a positive int"),
        (EVENT, {"context_features": (2, 0, 3)}, "`context_features`"),
        (EVENT, {"context_features": (3,)}, "`context_features`"),
    ],
)
def test_what_does_not_fit_is_named(event: object, settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_bijector(event, "spatial", **settings)  # type: ignore[arg-type]
