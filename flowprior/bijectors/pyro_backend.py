"""Steps supplied by Pyro; calling one is `to_base`, its `inverse` is `from_base`.

Each step keeps its parameters under the names of the nflows step, so that state dicts load across, and
makes a new Pyro transform for every evaluation: Pyro remembers its last input and output, and would
answer with old values after the parameters change, keep graphs alive and fail in `deepcopy`.

Import this module lazily: Pyro is slow to import.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform, Transform

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.bijector import no_rows
from flowprior.pyro_names import AffineCoupling as PyroAffineCoupling


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
        return self._map(z, context, True)

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(z0, context, False)

    def _map(self, value: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        if not value.shape[0]:
            return no_rows(self, value)

        def conditioner(kept: Tensor) -> tuple[Tensor, Tensor]:
            shift, log_scale = self.transform_net(kept.unflatten(1, (-1, *value.shape[2:])), context)
            return shift.flatten(1), log_scale.flatten(1)

        transform = PyroAffineCoupling(
            len(self.identity_features),
            conditioner,
            log_scale_min_clip=-math.inf,
            log_scale_max_clip=math.inf,
        )
        order = torch.cat((self.identity_features, self.transform_features))
        ordered = value.flatten(1).index_select(1, order)
        mapped, logabsdet = _evaluate(transform if to_base else transform.inv, ordered)
        return mapped.index_select(1, order.argsort()).view_as(value), logabsdet


class ActNorm(ActNormBase):
    """The learned elementwise affine map, by torch's `AffineTransform`."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _evaluate(AffineTransform(self.shift, self.log_scale.exp(), event_dim=1), z)

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _evaluate(AffineTransform(self.shift, self.log_scale.exp(), event_dim=1).inv, z0)


def _evaluate(transform: Transform, value: Tensor) -> tuple[Tensor, Tensor]:
    mapped = transform(value)
    return mapped, transform.log_abs_det_jacobian(value, mapped)
