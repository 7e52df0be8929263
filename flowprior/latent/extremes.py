"""Extremes: of many latents those with the least support, such as dpVAE's low- and high-posterior samples."""

from collections.abc import Callable

import torch
from torch import Tensor

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.latent.interpolation import lerp


@torch.no_grad()
def least_supported(
    draw: Callable[[int], Tensor],
    log_support: Callable[[Tensor], Tensor],
    n: int,
    draws: int,
    batch_size: int = 4096,
) -> tuple[Tensor, Tensor]:
    """The n of `draws` latents with the least support, and log support, ascending: (n, *event), (n,).

    dpVAE, section 4.1: low-posterior samples, in pockets, are draws of the prior with the least support of
    the aggregate posterior; high-posterior samples, in leaks, draws of that with the least support of the
    prior, or of its base at z0 = g(z). `DecoupledPrior.low_posterior` and `high_posterior` do both.

    Args:
        draw: n -> latents (n, *event).
        log_support: latents (n, *event) -> (n,), nats.
        draws: how many are drawn, `batch_size` at a time; memory does not grow with them.

    Raises:
        InputError: if n is not between 1 and `draws`, or a support is NaN.

    >>> values = iter([torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0]])])
    >>> z, _ = least_supported(lambda n: next(values), lambda z: z[:, 0], n=2, draws=3, batch_size=2)
    >>> z.tolist()
    [[1.0], [2.0]]
    """
    check_count("n", n, most=check_count("draws", draws))
    check_count("batch_size", batch_size)
    kept: list[Tensor] = []
    supports: list[Tensor] = []
    for start in range(0, draws, batch_size):
        z = draw(min(batch_size, draws - start))
        support = log_support(z).to(z.device)
        if support.isnan().any():
            bad = int(support.isnan().sum())
            raise InputError(f"`log_support` is NaN for {bad} of {len(z)} latents: check the prior.")
        z, support = torch.cat([*kept, z]), torch.cat([*supports, support])
        support, rows = support.topk(min(n, len(z)), largest=False)  # ascending
        kept, supports = [z[rows]], [support]
    return kept[0], supports[0]


@torch.no_grad()
def crossing_depth(
    log_support: Callable[[Tensor], Tensor], starts: Tensor, ends: Tensor, steps: int = 33
) -> Tensor:
    """How far the support falls on straight lines: its least on the way less that of the weaker end, (N,).

    Zero where the line never falls below both ends; the lowest of many is a line through a pocket.

    Args:
        log_support: latents (M, *event) -> (M,), nats.
        starts, ends: (N, *event), among the `steps` points on each line.

    Raises:
        InputError: if there are fewer than 3 steps, or as `lerp`.

    >>> two_bumps = lambda z: torch.logaddexp(-(z[:, 0] - 4).square(), -(z[:, 0] + 4).square())
    >>> crossing_depth(two_bumps, torch.tensor([[-4.0], [4.0]]), torch.tensor([[4.0], [4.0]])).round()
    tensor([-15.,   0.])
    """
    check_count("steps", steps, least=3, fix="the two ends and something between them")
    line = lerp(starts, ends, torch.linspace(0, 1, steps).to(starts))  # (steps, N, *event)
    support = log_support(line.flatten(0, 1)).view(steps, len(starts))
    return support.amin(0) - torch.minimum(support[0], support[-1])
