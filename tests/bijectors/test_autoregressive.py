"""The inverse autoregressive step: order, volume and inverse, over vectors and over maps."""

import pytest
import torch

from flowprior.bijectors import InverseAutoregressive

KINDS = {
    "vector": ((5,), None),
    "vector with a context": ((5,), 3),
    "maps": ((3, 2, 3), None),
    "maps with a context": ((3, 2, 3), (2, 4, 6)),
    "one channel": ((1, 3, 3), (2, 3, 3)),
}


def build(kind: str) -> tuple[InverseAutoregressive, torch.Tensor | None]:
    torch.manual_seed(0)
    event, context = KINDS[kind]
    step = InverseAutoregressive(event, context, hidden_features=(12, 12)).double()
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    shape = () if context is None else (context,) if isinstance(context, int) else context
    return step, None if context is None else torch.randn(4, *shape, dtype=torch.float64)


def jacobian_of(step: InverseAutoregressive, z0: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda v: step.from_base(v[None], context)[0][0], z0)


@pytest.mark.parametrize("kind", KINDS)
def test_volume_order_and_inverse(kind: str) -> None:
    step, context = build(kind)
    z0 = torch.randn(4, *step.event_shape, dtype=torch.float64)
    z, logabsdet = step.from_base(z0, context)
    for row in range(2):
        own = None if context is None else context[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, c=own: step.from_base(v[None], c)[0][0], z0[row]
        )
        # raster order of pixels, in each the channels: move the channel behind the position
        features = step.features
        order = torch.arange(features).reshape(step.event_shape)
        order = order.permute(1, 2, 0).flatten() if step.spatial else order
        square = jacobian.reshape(features, features)[order][:, order]
        assert square.triu(1).abs().max() == 0, "an entry sees only those before it"
        assert square.tril(-1).abs().max() > 1e-4
        torch.testing.assert_close(torch.linalg.slogdet(square).logabsdet, logabsdet[row])
    with torch.no_grad():
        back, inverse = step.to_base(z, context)
    torch.testing.assert_close(back, z0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(inverse, -logabsdet)
    if context is not None:
        assert not torch.equal(step.from_base(z0, context.flip(0))[0], z)


def test_every_entry_depends_on_all_before_it_in_a_wide_enough_network() -> None:
    torch.manual_seed(0)
    step = InverseAutoregressive((2, 2, 2), hidden_features=(16, 16)).double()
    for parameter in step.parameters():
        torch.nn.init.normal_(parameter)
    z0 = torch.randn(2, 2, 2, dtype=torch.float64)
    jacobian = jacobian_of(step, z0, None).reshape(8, 8)
    order = torch.arange(8).reshape(2, 2, 2).permute(1, 2, 0).flatten()
    assert (jacobian[order][:, order].tril() != 0).sum() == 36


def test_the_gradient_through_the_inverse_is_that_of_the_implicit_function() -> None:
    step, context = build("vector with a context")
    z = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    z0, _ = step.to_base(z, context)
    (got,) = torch.autograd.grad(z0.square().sum(), z)
    for row in range(4):
        own = context[row : row + 1]
        forward = jacobian_of(step, z0[row].detach(), own)
        wanted = torch.linalg.solve(forward.T, 2 * z0[row].detach())
        torch.testing.assert_close(got[row], wanted)


def test_it_starts_as_the_identity() -> None:
    for event in ((6,), (2, 4, 4)):
        step = InverseAutoregressive(event, 3)
        z0 = torch.randn(2, *event)
        z, logabsdet = step.from_base(z0, torch.randn(2, 3))
        assert torch.equal(z, z0)
        assert torch.equal(logabsdet, torch.zeros(2))
