"""The maximum mean discrepancy, and InfoVAE, which draws the aggregate posterior to the prior by it in z."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowprior.checks import check_count, check_number, check_one_of, check_shapes
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.objective import draw_like
from flowprior.objectives.variational import Pass, Terms, VariationalObjective

Kernel = Literal["gaussian", "imq"]


class InfoVAE(VariationalObjective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + (1 - α) KL(q(z|x) ‖ p) + (α + λ - 1) MMD²(q(z), p)

    The discrepancy compares, in z, the batch's z ~ q(z|x) with as many true samples z = from_base(z0),
    z0 ~ N(0, I) (dpVAE, section 4.3). Its gradient reaches the encoder and, through the true samples, a
    learned prior whose draws have one. It is logged beside the terms of `VariationalObjective` as "mmd". A
    batch of one row, such as the last of a validation, has no pairs: it gets the biased estimate.

    Args:
        model, reconstruction_weight: as for `ELBO`.
        alpha: α; 0 keeps the KL of the ELBO, 1 drops it.
        weight: λ.
        kernel, scale, unbiased, block: as for `mmd`.

    Raises:
        InputError: on a deterministic posterior, a weight of the KL or of the discrepancy that is negative or
            not finite, or an unknown kernel.

    Source: Zhao et al. 2019 (InfoVAE), Eq. 6; dpVAE's code uses α = 0, λ = 1000 and the biased estimate.
    """

    def __init__(
        self,
        model: Autoencoder,
        alpha: float = 0.0,
        weight: float = 1000.0,
        kernel: Kernel = "gaussian",
        scale: float | Sequence[float] | None = None,
        unbiased: bool = False,
        block: int | None = None,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        self.alpha = check_number("alpha", alpha, most=1)
        fix = "alpha + weight - 1, the factor of the MMD, must not be negative"
        self.weight = check_number("weight", weight, least=1 - self.alpha, fix=fix)
        check_kernel(kernel, scale, block)
        self.kernel, self.scale, self.unbiased, self.block = kernel, scale, unbiased, block

    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """(1 - α) KL + (α + λ - 1) MMD²."""
        true = draw_like(seen.z, self.model.prior, seen.prior_context)  # (N, *event)
        unbiased = self.unbiased and len(seen.z) > 1  # one row has no pairs
        squared = mmd(seen.z, true, self.kernel, scale=self.scale, unbiased=unbiased, block=self.block)
        return (1 - self.alpha) * seen.kl + (self.alpha + self.weight - 1) * squared, {"mmd": squared}


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: Kernel = "gaussian",
    *,
    scale: float | Sequence[float] | None = None,
    unbiased: bool = False,
    block: int | None = None,
) -> Tensor:
    """MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y) between the rows of x (N, *event) and y (M, *event).

    gaussian  k(x, y) = exp(-‖x - y‖² / scale), scale d² by default, with d entries a row (dpVAE's code)
    imq       k(x, y) = scale / (scale + ‖x - y‖²), scale 2d by default (Tolstikhin et al. 2018, of N(0, I))

    Args:
        x, y: differentiable; computed outside autocast.
        scale: of the kernel; with several, k is the mean of their kernels (Li et al. 2015, GMMN).
        unbiased: leave the pairs (x_i, x_i) and (y_i, y_i) out, so that it is zero in the mean at equality
            and may be negative; otherwise never negative.
        block: rows of kernel values held at a time, in the backward pass too, which computes them again:
            memory grows as N · block · d instead of N² · d. None holds all.

    Raises:
        InputError: if shapes, kernel, scale or block do not fit, or `unbiased` has fewer than two rows.

    Source: Gretton et al. 2012, Eq. 3 (unbiased) and 5 (biased).

    >>> round(mmd(torch.zeros(3, 1), torch.ones(4, 1)).item(), 4)  # 2 - 2 / e
    1.2642
    """
    check_kernel(kernel, scale, block)
    least = int(unbiased)
    check_shapes("pass rows of one event shape", x=(x, f"N>{least} *event"), y=(y, f"M>{least} *event"))
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.flatten(1), y.flatten(1)
        features = x.shape[1]
        if scale is None:
            scale = float(features**2 if kernel == "gaussian" else 2 * features)
        widths = tuple(scale) if isinstance(scale, Sequence) else (scale,)
        within = [_mean_kernel(rows, rows, kernel, widths, unbiased, block) for rows in (x, y)]
        return within[0] + within[1] - 2 * _mean_kernel(x, y, kernel, widths, False, block)


def _mean_kernel(
    x: Tensor, y: Tensor, kernel: Kernel, widths: tuple[float, ...], without_diagonal: bool, block: int | None
) -> Tensor:
    """The mean of k over all pairs, or over those of unequal index."""
    if block is None or block >= len(x):
        total = _kernel_sum(x, y, kernel, widths)
    else:
        again = partial(checkpoint, _kernel_sum, use_reentrant=False, preserve_rng_state=False)
        total = torch.stack([again(rows, y, kernel, widths) for rows in x.split(block)]).sum()
    if without_diagonal:  # where k = 1
        return (total - len(x)) / (len(x) * (len(x) - 1))
    return total / (len(x) * len(y))


def _kernel_sum(x: Tensor, y: Tensor, kernel: Kernel, widths: tuple[float, ...]) -> Tensor:
    squared = (x[:, None] - y).square().sum(-1)  # (n, m)
    sums = [
        (torch.exp(-squared / width) if kernel == "gaussian" else width / (width + squared)).sum()
        for width in widths
    ]
    return sums[0] if len(sums) == 1 else torch.stack(sums).mean()


def check_kernel(kernel: str, scale: float | Sequence[float] | None, block: int | None) -> None:
    """Raise InputError on what `mmd` cannot take: an unknown kernel, or a scale or block not positive."""
    check_one_of("kernel", kernel, ("gaussian", "imq"))
    scales = scale if isinstance(scale, Sequence) else (1.0 if scale is None else scale,)
    if not scales:
        raise InputError("`scale` (=()) must hold at least one number: pass None for the default.")
    for each in scales:
        check_number("scale", each, above=0, fix="several of them, or None for the default")
    if block is not None:
        check_count("block", block)
