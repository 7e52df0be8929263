"""Steps supplied by Pyro; calling one is `to_base`, its `inverse` is `from_base`.

Each step keeps its parameters under the names of the nflows step, so that state dicts load across, and
makes Pyro's transform anew for every evaluation: Pyro remembers its last input and output, and would
answer with old values after the parameters change, keep graphs alive and fail in `deepcopy`.

Import this module lazily: Pyro is slow to import.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.conditioner import AffineConditioner
from flowprior.pyro_names import AffineCoupling as PyroAffineCoupling

INFINITY = float("inf")


class AffineCoupling(nn.Module):
    """z_b -> z_b exp(log_scale) + shift, by Pyro's `AffineCoupling` without its clip of log_scale to [-5, 3].

    Pyro changes the last features, so the ones that pass unchanged are put first and everything is put
    back afterwards. Binding the context to the network is what Pyro's `ConditionalAffineCoupling` does.
    """

    identity_features: Tensor
    transform_features: Tensor

    def __init__(self, mask: Tensor, conditioner: AffineConditioner) -> None:
        super().__init__()
        self.register_buffer("identity_features", (~mask).nonzero().flatten())
        self.register_buffer("transform_features", mask.nonzero().flatten())
        self.transform_net = conditioner

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        transform, order = self._transform(context), self._order()
        ordered = z.index_select(1, order)
        mapped = transform(ordered)
        logabsdet = transform.log_abs_det_jacobian(ordered, mapped)
        return mapped.index_select(1, order.argsort()), logabsdet

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        transform, order = self._transform(context), self._order()
        ordered = z0.index_select(1, order)
        mapped = transform.inv(ordered)
        logabsdet = -transform.log_abs_det_jacobian(mapped, ordered)
        return mapped.index_select(1, order.argsort()), logabsdet

    def _order(self) -> Tensor:
        return torch.cat((self.identity_features, self.transform_features))

    def _transform(self, context: Tensor | None) -> PyroAffineCoupling:
        return PyroAffineCoupling(
            len(self.identity_features),
            partial(self.transform_net, context=context),
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


def affine_coupling(mask: Tensor, conditioner: AffineConditioner) -> nn.Module:
    """The step that changes the features where `mask` (D,) is true."""
    return AffineCoupling(mask, conditioner)


def actnorm(features: int) -> nn.Module:
    """The learned elementwise affine step."""
    return ActNorm(features)
