"""A flow for inference alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowprior.bijectors.folded import FoldedCascade
from flowprior.errors import InputError
from flowprior.priors.based import BasedPrior
from flowprior.tensors import numel

if TYPE_CHECKING:
    from flowprior.bijectors import Whitening
    from flowprior.priors.flow import FlowPrior


class FoldedPrior(BasedPrior):
    """The distribution of a `FlowPrior` as it is now, with less around it; `FlowPrior.folded` makes one.

    Density, samples and both maps are the flow's own to rounding. It cannot be started, trained or saved, and
    later changes of the flow do not reach it. Gradients reach z and the context.

    Raises:
        InputError: if the flow's bijector is not one of affine couplings on nflows.
    """

    whitening: Tensor | None  # (D, D), or (D,) if it is diagonal: z = whitening z' + loc
    unwhitening: Tensor | None  # its inverse
    loc: Tensor  # (D,)
    whitening_logabsdet: Tensor

    def __init__(self, flow: FlowPrior) -> None:
        super().__init__(flow.event_shape, flow.context_features)
        self.cascade = FoldedCascade(flow.bijector)
        self.base = copy.deepcopy(flow.base).requires_grad_(False)
        self.base_mean = copy.deepcopy(flow.base_mean)
        if self.base_mean is not None:
            self.base_mean.requires_grad_(False)
        self.has_density, self.has_rsample = flow.has_density, flow.has_rsample
        for name, value in _whitening_tensors(flow.whitening).items():
            self.register_buffer(name, value, persistent=False)
        self.to(flow.device, flow.dtype)

    def arguments(self) -> dict[str, Any]:
        raise InputError("a folded prior cannot be saved: save the FlowPrior that it was made of.")

    def initialize(self, latents: Tensor, context: Tensor | None = None, *, seed: int = 0) -> None:
        """A folded prior has no start.

        Raises:
            InputError: always.
        """
        raise InputError(
            "a folded prior is for inference alone and cannot be trained: train the FlowPrior that it was "
            "made of, and call its `folded()` again."
        )

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        rows, context, batch = self._rows(z, context)
        if self.unwhitening is not None:
            centred = rows - self.loc
            diagonal = self.unwhitening.dim() == 1
            rows = centred * self.unwhitening if diagonal else centred @ self.unwhitening.t()
        z0, logabsdet = self.cascade.to_base(rows, context)
        if self.unwhitening is not None:
            logabsdet = logabsdet - self.whitening_logabsdet
        if self.base_mean is not None:
            z0 = z0 - self.base_mean(context)
        return z0.reshape(z.shape), logabsdet.reshape(batch)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        rows, context, batch = self._rows(z0, context)
        if self.base_mean is not None:
            rows = rows + self.base_mean(context)
        z, logabsdet = self.cascade.from_base(rows, context)
        if self.whitening is not None:
            if self.whitening.dim() == 1:
                z = torch.addcmul(self.loc, z, self.whitening)
            else:
                z = torch.addmm(self.loc, z, self.whitening.t())
            logabsdet = logabsdet + self.whitening_logabsdet
        return z.reshape(z0.shape), logabsdet.reshape(batch)

    def _rows(self, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
        """(N, D), (N, C) or None, and the shape of the batch."""
        batch = value.shape[: value.dim() - len(self.event_shape)]
        count = numel(batch)
        rows = value.reshape(count, self.event_shape.numel())
        return rows, None if context is None else context.reshape(count, context.shape[-1]), batch


@torch.no_grad()
def _whitening_tensors(whitening: Whitening | None) -> dict[str, Tensor | None]:
    """What a folded prior keeps of a whitening; the inverse is taken in float64."""
    names = ("loc", "whitening", "unwhitening", "whitening_logabsdet")
    if whitening is None:
        return dict.fromkeys(names)
    if whitening.mode == "full":
        scale = whitening.scale_tril.to(torch.float64, copy=True)
        identity = torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
        inverse = torch.linalg.solve_triangular(scale, identity, upper=False)
        diagonal = scale.diagonal()
    else:
        diagonal = scale = whitening.scale.to(torch.float64, copy=True)
        inverse = scale.reciprocal()
    values = (whitening.loc.clone(), scale, inverse, diagonal.abs().log().sum())
    return dict(zip(names, values, strict=True))
