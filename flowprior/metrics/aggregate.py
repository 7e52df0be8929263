"""The aggregate posterior: the mixture of the posteriors of all training examples."""

import math

import torch
from torch import Tensor

from flowprior.checks import check_shapes
from flowprior.errors import InputError
from flowprior.tensors import batch_shape_of

_CHUNK_VALUES = 2**21  # float64 values of one block of the (latents x components) matrix: 16 MiB


class AggregatePosterior:
    """q(z) = 1/N Σ_n N(z; loc_n, diag scale_n²) over N encoded examples, exactly: none is left out.

    In float64, a block of the matrix of latents and components at a time: 60,000 components at 10,000 latents
    need some tens of MiB. Source: dpVAE, section 4.1.

    Args:
        loc, scale: posterior means and standard deviations of the training examples, (N, *event).

    Raises:
        InputError: if the shapes differ, there are no examples, or a number is not finite or a scale not > 0.

    >>> aggregate = AggregatePosterior(torch.zeros(3, 2), torch.ones(3, 2))
    >>> round(aggregate.log_prob(torch.zeros(1, 2)).item(), 4)  # -log(2 pi)
    -1.8379
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        fix = "pass one of both for each example"
        check_shapes(fix, loc=(loc, "N>0 *event"), scale=(scale, "N>0 *event"))
        if not (loc.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise InputError("`loc` and `scale` must be finite, `scale` positive: drop the other examples.")
        self.event_shape = loc.shape[1:]
        self.loc, self.scale = loc.detach(), scale.detach()
        means, scales = self.loc.double().flatten(1), self.scale.double().flatten(1)  # (N, D)
        self._center = means.mean(0)  # far from 0 the expanded squares would lose digits
        means = means - self._center
        self._precision = scales.square().reciprocal()
        self._linear = means * self._precision
        constant = scales.log().sum(1) + 0.5 * (means * self._linear).sum(1)
        self._constant = -constant - 0.5 * means.shape[1] * math.log(2 * math.pi) - math.log(len(means))

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats: (*batch, *event) -> (*batch,) float64.

        Raises:
            InputError: if `z` does not end in the event shape.
        """
        batch_shape = batch_shape_of(z, self.event_shape)
        rows = z.to(self._center.device).double().reshape(-1, self.event_shape.numel()) - self._center
        block = math.isqrt(_CHUNK_VALUES)
        return torch.cat([self._block(part, block) for part in rows.split(block)]).reshape(batch_shape)

    def sample(self, n: int) -> Tensor:
        """n draws of q(z), (n, *event), of the dtype and device of the posteriors."""
        rows = torch.randint(len(self.loc), (n,), device=self.loc.device)
        return torch.normal(self.loc[rows], self.scale[rows])

    def _block(self, rows: Tensor, block: int) -> Tensor:
        """log q of rows (R, D), over blocks of components."""
        squares = rows.square()
        total = rows.new_full((len(rows),), -math.inf)
        for start in range(0, len(self.loc), block):
            part = slice(start, start + block)
            exponents = torch.addmm(self._constant[part], rows, self._linear[part].T)  # (R, block)
            exponents = exponents.addmm_(squares, self._precision[part].T, alpha=-0.5)
            total = torch.logaddexp(total, exponents.logsumexp(1))
        return total
