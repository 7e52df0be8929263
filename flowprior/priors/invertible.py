"""Priors with two spaces, z and z0."""

from abc import abstractmethod

from torch import Tensor

from flowprior.priors.prior import Prior
from flowprior.tensors import without_autocast


class InvertiblePrior(Prior):
    """A prior with two spaces, z0 = to_base(z), z = from_base(z0); a subclass owes `_to_base`,
    `_from_base`."""

    @abstractmethod
    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (*batch, *event) -> z0, log|det dz0/dz| (*batch,)."""

    @abstractmethod
    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z0 (*batch, *event) -> z, log|det dz/dz0| (*batch,)."""

    def to_base(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (*batch, *event) -> z0 (*batch, *event), log|det dz0/dz| (*batch,); z0 ~ base if z ~ p.

        Raises:
            InputError: if a shape does not fit, or a context is missing or not wanted.
        """
        z, context = self._prepare(z, context)
        with without_autocast(z.device.type):
            return self._to_base(z, context)

    def from_base(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z0 (*batch, *event) -> z, log|det dz/dz0|: the inverse of `to_base`, with its shapes and errors."""
        z0, context = self._prepare(z0, context)
        with without_autocast(z0.device.type):
            return self._from_base(z0, context)
