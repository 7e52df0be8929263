"""Steps supplied by nflows 0.14; calling one is `to_base`, its `inverse` is `from_base`.

Import this module lazily: nflows imports matplotlib.
"""

import math
from collections.abc import Sequence

import torch
from nflows.transforms.coupling import CouplingTransform, PiecewiseRationalQuadraticCouplingTransform
from torch import Tensor, nn

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.chain import Splitting
from flowprior.bijectors.conditioner import Network
from flowprior.bijectors.spline import MIN_SLOPE, rational_quadratic_spline


class AffineCoupling(Splitting, CouplingTransform):
    """z_b -> z_b exp(log_scale) + shift; the log-determinant is the sum of log_scale itself.

    nflows' own affine coupling fixes the scale to sigmoid(s + 2) + 1e-3 and takes its logarithm; here the
    conditioner gives (shift, log_scale), so the scale is what the recipe says and nothing underflows. `mask`
    (D,) is true where a feature is changed; a feature has `size` columns, the positions of a channel.
    """

    transform_net: nn.Module

    def __init__(self, mask: Sequence[bool], conditioner: nn.Module, size: int = 1) -> None:
        columns = [changed for changed in mask for _ in range(size)]
        with torch.device("cpu"):  # nflows reads the mask, which the meta device could not
            super().__init__(columns, lambda kept, outputs: conditioner)
        self.size = size
        self.note_mask()
        self.register_load_state_dict_post_hook(Splitting.note_mask)
        _to_default_device(self)

    def change(
        self, kept: Tensor, changed: Tensor, context: Tensor | None, to_base: bool
    ) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.transform_net(kept, context)
        if to_base:
            return torch.addcmul(shift, changed, log_scale.exp()), log_scale
        log_scale = -log_scale
        return (changed - shift) * log_scale.exp(), log_scale

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(inputs, context, True)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(inputs, context, False)

    def _map(self, inputs: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        halves, log_scale = self.couple(self.split(inputs), context, to_base)
        return self.join(halves), log_scale.flatten(1).sum(1)

    def _transform_dim_multiplier(self) -> int:
        return 2  # shift and log-scale


class SplineCoupling(PiecewiseRationalQuadraticCouplingTransform):
    """nflows' layer around `rational_quadratic_spline`, whose docstring says why.

    `network` starts it as the identity if its last layer is zero.
    """

    def __init__(self, mask: Sequence[bool], network: Network, bins: int, tail_bound: float) -> None:
        settings = {"num_bins": bins, "tails": "linear", "tail_bound": tail_bound}
        with torch.device("cpu"):
            super().__init__(list(mask), lambda kept, outputs: network, **settings)
        _to_default_device(self)
        start = torch.zeros(sum(mask), 3 * bins - 1, device="cpu")
        start[:, 2 * bins :] = math.log(
            math.expm1(1.0 - MIN_SLOPE)
        )  # slope 1 at the inner knots, by softplus
        network.start_at(start.flatten())

    def _coupling_transform(
        self, inputs: Tensor, transform_params: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        sizes = [self.num_bins, self.num_bins, self.num_bins - 1]
        parameters = transform_params.unflatten(1, (inputs.shape[1], sum(sizes)))  # (N, changed, 3 bins - 1)
        widths, heights, slopes = parameters.split(sizes, dim=-1)
        mapped, log_slope = rational_quadratic_spline(
            inputs, widths, heights, slopes, bound=self.tail_bound, inverse=inverse
        )
        return mapped, log_slope.sum(-1)


class ActNorm(ActNormBase):
    """The learned elementwise affine map, with the arithmetic of nflows."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return inputs * self.log_scale.exp() + self.shift, self.log_scale.sum().expand(inputs.shape[0])

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logabsdet = -self.log_scale.sum().expand(inputs.shape[0])
        return (inputs - self.shift) * self.log_scale.neg().exp(), logabsdet


def _to_default_device(step: CouplingTransform) -> None:
    """Move the mask of a coupling to the device that its networks were made on."""
    device = torch.get_default_device()
    step.identity_features = step.identity_features.to(device)
    step.transform_features = step.transform_features.to(device)
