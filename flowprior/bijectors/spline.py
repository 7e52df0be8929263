"""The rational-quadratic spline, evaluated densely."""

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_BIN = 1e-3  # smallest share of a bin in the width and in the height of the box
MIN_SLOPE = 1e-3


def rational_quadratic_spline(
    value: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, *, bound: float, inverse: bool
) -> tuple[Tensor, Tensor]:
    """A monotonic spline of K bins on [-bound, bound], the identity outside; log of its slope.

    The parameters mean what they mean to nflows' `unconstrained_rational_quadratic_spline`. That one picks
    the inner values by a mask, so the shapes depend on the data (graph breaks, a wait for the GPU), and
    asserts that a discriminant is not negative, which float32 rounding breaks; this one does neither.

    Args:
        value: (*shape).
        widths, heights: (*shape, K), before the softmax.
        slopes: (*shape, K - 1) at the inner knots, before the softplus; at the outer ones the slope is 1.

    Reference: Durkan et al., Neural Spline Flows (2019), Eq. 4 to 8.
    """
    xs, ys = _knots(widths, bound), _knots(heights, bound)
    ds = F.pad(MIN_SLOPE + F.softplus(slopes), (1, 1), value=1.0)
    inside = value.abs() <= bound
    within = torch.where(inside, value, 0.0)
    bins = (within.unsqueeze(-1) >= (ys if inverse else xs)[..., 1:-1]).sum(-1)
    table = torch.stack((xs, ys, ds), dim=-2)  # (*shape, 3, K + 1)
    index = bins[..., None, None].expand(*bins.shape, 3, 1)
    x_left, y_left, d_left = table.gather(-1, index).squeeze(-1).unbind(-1)
    x_right, y_right, d_right = table.gather(-1, index + 1).squeeze(-1).unbind(-1)
    width, height = x_right - x_left, y_right - y_left
    mean_slope = height / width
    excess = d_left + d_right - 2.0 * mean_slope
    if inverse:
        rise = within - y_left
        a = rise * excess + height * (mean_slope - d_left)
        b = height * d_left - rise * excess
        c = -mean_slope * rise
        # zero or a little below by rounding; not 0, whose root has an infinite gradient
        root = (b.square() - 4.0 * a * c).clamp(min=torch.finfo(value.dtype).tiny).sqrt()
        theta = 2.0 * c / (-b - root)
        # outside by rounding, where a slope can be negative; the gradient is that of the formula
        theta = theta + (theta.clamp(0.0, 1.0) - theta).detach()
        mapped = x_left + theta * width
    else:
        theta = (within - x_left) / width
    both = theta * (1.0 - theta)
    denominator = mean_slope + excess * both
    if not inverse:
        mapped = y_left + height * (mean_slope * theta.square() + d_left * both) / denominator
    slope = d_right * theta.square() + 2.0 * mean_slope * both + d_left * (1.0 - theta).square()
    log_slope = 2.0 * (mean_slope.log() - denominator.log()) + slope.log()
    log_slope = torch.where(inside, -log_slope if inverse else log_slope, 0.0)
    return torch.where(inside, mapped, value), log_slope


def _knots(shares: Tensor, bound: float) -> Tensor:
    """(*shape, K) -> K + 1 increasing knots from -bound to bound."""
    shares = MIN_BIN + (1.0 - MIN_BIN * shares.shape[-1]) * shares.softmax(-1)
    inner = bound * (2.0 * shares.cumsum(-1)[..., :-1] - 1.0)
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)
