"""Steps supplied by nflows 0.14; calling one is `to_base`, its `inverse` is `from_base`.

Import this module lazily: nflows imports matplotlib.
"""

import math

import torch
from nflows.transforms.coupling import AffineCouplingTransform, PiecewiseRationalQuadraticCouplingTransform
from nflows.transforms.normalization import ActNorm
from torch import Tensor, nn

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.conditioner import AffineConditioner, Network
from flowprior.bijectors.spline import MIN_SLOPE, rational_quadratic_spline


class AffineCoupling(AffineCouplingTransform):
    """z_b -> z_b exp(log_scale) + shift; the log-determinant is the sum of log_scale itself.

    nflows' own version fixes the scale to sigmoid(s + 2) + 1e-3 and takes its logarithm; here the
    conditioner gives (shift, log_scale), so the scale is what the recipe says and nothing underflows.
    """

    def __init__(self, mask: Tensor, conditioner: AffineConditioner) -> None:
        super().__init__(mask, lambda in_features, out_features: conditioner)

    def _scale_and_shift(self, transform_params: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        shift, log_scale = transform_params
        return log_scale.exp(), shift

    def _coupling_transform_forward(
        self, inputs: Tensor, transform_params: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        scale, shift = self._scale_and_shift(transform_params)
        return inputs * scale + shift, transform_params[1].sum(-1)

    def _coupling_transform_inverse(
        self, inputs: Tensor, transform_params: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        shift, log_scale = transform_params
        return (inputs - shift) * log_scale.neg().exp(), -log_scale.sum(-1)


class SplineCoupling(PiecewiseRationalQuadraticCouplingTransform):
    """Monotonic rational-quadratic spline on [-tail_bound, tail_bound], the identity outside.

    nflows' layer around `rational_quadratic_spline`, whose comment says why.
    """

    def __init__(self, mask: Tensor, network: Network, bins: int, tail_bound: float) -> None:
        super().__init__(
            mask,
            lambda in_features, out_features: network,
            num_bins=bins,
            tails="linear",
            tail_bound=tail_bound,
        )

    def _piecewise_cdf(
        self, inputs: Tensor, transform_params: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        sizes = [self.num_bins, self.num_bins, self.num_bins - 1]
        widths, heights, slopes = transform_params.split(sizes, dim=-1)
        return rational_quadratic_spline(
            inputs, widths, heights, slopes, bound=self.tail_bound, inverse=inverse
        )


class FencedActNorm(ActNormBase, ActNorm):
    """nflows' ActNorm without its start by the first training batch; see `ActNormBase`."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return inputs * self.log_scale.exp() + self.shift, self.log_scale.sum().expand(inputs.shape[0])

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logabsdet = -self.log_scale.sum().expand(inputs.shape[0])
        return (inputs - self.shift) * self.log_scale.neg().exp(), logabsdet


def affine_coupling(mask: Tensor, conditioner: AffineConditioner) -> nn.Module:
    """The step that changes the features where `mask` (D,) is true."""
    return AffineCoupling(mask, conditioner)


def actnorm(features: int) -> nn.Module:
    """The learned elementwise affine step."""
    return FencedActNorm(features)


def spline_coupling(mask: Tensor, network: Network, bins: int, tail_bound: float) -> nn.Module:
    """The spline step; `network` starts it as the identity if its last layer is zero."""
    step = SplineCoupling(mask, network, bins, tail_bound)
    slope_of_one = math.log(math.expm1(1.0 - MIN_SLOPE))  # through softplus, at the inner knots
    start = torch.zeros(int(mask.sum()), 3 * bins - 1)
    start[:, 2 * bins :] = slope_of_one
    network.add_to_last_bias(start.flatten())
    return step
