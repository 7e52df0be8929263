"""The dense rational-quadratic spline against nflows' own, and where nflows' fails."""

import pytest
import torch
from nflows.transforms.splines import unconstrained_rational_quadratic_spline
from torch import Tensor

from flowprior.bijectors.spline import rational_quadratic_spline


def arguments(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    value = 2.5 * torch.randn(500, 4, dtype=dtype)
    value[:4, 0] = torch.tensor([-3.0, 3.0, 0.0, 3.0001])
    widths, heights, slopes = (scale * torch.randn(500, 4, k, dtype=dtype) for k in (8, 8, 7))
    return value, widths, heights, slopes


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_equals_nflows(scale: float, inverse: bool) -> None:
    value, *rest = arguments(scale)
    ours = rational_quadratic_spline(value, *rest, bound=3.0, inverse=inverse)
    theirs = unconstrained_rational_quadratic_spline(value, *rest, inverse=inverse, tail_bound=3.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_equal_those_of_nflows(inverse: bool) -> None:
    grads = []
    for function, bound in (
        (rational_quadratic_spline, "bound"),
        (unconstrained_rational_quadratic_spline, "tail_bound"),
    ):
        tensors = [tensor.requires_grad_() for tensor in arguments()]
        mapped, logabsdet = function(*tensors, **{bound: 3.0}, inverse=inverse)
        grads.append(torch.autograd.grad((mapped * mapped + logabsdet).sum(), tensors))
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inverse", [False, True])
def test_float32_with_wild_parameters_stays_finite(inverse: bool) -> None:
    """nflows asserts on a discriminant that rounding makes negative; ours has finite values and gradients."""
    value, *rest = arguments(20.0, torch.float32)
    tensors = [tensor.requires_grad_() for tensor in (value, *rest)]
    mapped, logabsdet = rational_quadratic_spline(*tensors, bound=3.0, inverse=inverse)
    for tensor in (mapped, logabsdet, *torch.autograd.grad(mapped.sum() + logabsdet.sum(), tensors)):
        assert torch.isfinite(tensor).all()
    assert (mapped[value.abs() <= 3.0].abs() <= 3.001).all()
