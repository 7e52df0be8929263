"""Steps supplied by Pyro; calling one is `to_base`, its `inverse` is `from_base`.

Each step keeps its parameters under the names of the nflows step, so that state dicts load across, and
makes a new Pyro transform for every evaluation: Pyro remembers its last input and output, and would
answer with old values after the parameters change, keep graphs alive and fail in `deepcopy`.

Import this module lazily: Pyro is slow to import.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.pyro_names import AffineCoupling as PyroAffineCoupling

INFINITY = float("inf")


class AffineCoupling(nn.Module):
    """z_b -> z_b exp(log_scale) + shift, by Pyro's `AffineCoupling` without its clip of log_scale to [-5, 3].

    Pyro changes the last features, so the ones that pass unchanged are put first and everything is put
    back afterwards. Binding the context to the network is what Pyro's `ConditionalAffineCoupling` does.
    """

    identity_features: Tensor
    transform_features: Tensor

    def __init__(self, mask: Sequence[bool], conditioner: nn.Module, size: int = 1) -> None:
        super().__init__()
        columns = [changed for changed in mask for _ in range(size)]
        for name, changed in (("identity_features", False), ("transform_features", True)):
            indices = [index for index, each in enumerate(columns) if each is changed]
            self.register_buffer(name, torch.tensor(indices, dtype=torch.long))
        self.transform_net = conditioner

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not len(z):  # Pyro's reshapes are ambiguous there
            return z, z.new_zeros(0)
        transform, order = self._transform(context, z.shape[2:]), self._order()
        ordered = z.flatten(1).index_select(1, order)
        mapped = transform(ordered)
        logabsdet = transform.log_abs_det_jacobian(ordered, mapped)
        return mapped.index_select(1, order.argsort()).view_as(z), logabsdet

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not len(z0):
            return z0, z0.new_zeros(0)
        transform, order = self._transform(context, z0.shape[2:]), self._order()
        ordered = z0.flatten(1).index_select(1, order)
        mapped = transform.inv(ordered)
        logabsdet = -transform.log_abs_det_jacobian(mapped, ordered)
        return mapped.index_select(1, order.argsort()).view_as(z0), logabsdet

    def _order(self) -> Tensor:
        return torch.cat((self.identity_features, self.transform_features))

    def _transform(self, context: Tensor | None, size: Sequence[int]) -> PyroAffineCoupling:
        def conditioner(kept: Tensor) -> tuple[Tensor, Tensor]:
            shift, log_scale = self.transform_net(kept.unflatten(1, (-1, *size)), context)
            return shift.flatten(1), log_scale.flatten(1)

        return PyroAffineCoupling(
            len(self.identity_features),
            conditioner,
            log_scale_min_clip=-INFINITY,
            log_scale_max_clip=INFINITY,
        )


class ActNorm(ActNormBase):
    """The learned elementwise affine map, by torch's `AffineTransform`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("initialized", torch.tensor(False))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        transform = self._transform()
        return transform(z), transform.log_abs_det_jacobian(z, z)

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        transform = self._transform()
        return transform.inv(z0), -transform.log_abs_det_jacobian(z0, z0)

    def _transform(self) -> AffineTransform:
        return AffineTransform(self.shift, self.log_scale.exp(), event_dim=1)


def affine_coupling(mask: Sequence[bool], conditioner: nn.Module, size: int = 1) -> nn.Module:
    """The step that changes the features where `mask` (D,) is true; a feature has `size` columns."""
    return AffineCoupling(mask, conditioner, size)


def actnorm(features: int) -> nn.Module:
    """The learned elementwise affine step."""
    return ActNorm(features)
