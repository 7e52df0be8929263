"""KL divergences between prior and aggregate posterior, from samples alone or from both densities."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite, check_shapes
from flowprior.errors import InputError

Density = Callable[[Tensor], Tensor]
_CHUNK = 1024  # rows whose distances to all others are held at a time


@dataclass(frozen=True)
class SymmetricKL:
    """Both directions between p and q, in nats."""

    p_to_q: float  # KL(p ‖ q)
    q_to_p: float  # KL(q ‖ p)
    standard_error: float  # of the sum; NaN where the estimator gives none
    samples: int  # of the smaller set

    @property
    def value(self) -> float:
        """The sum of both."""
        return self.p_to_q + self.q_to_p


def neighbor_skl(p: Tensor, q: Tensor, k: int = 1) -> SymmetricKL:
    """KL(p ‖ q) + KL(q ‖ p) from draws p (N, *event) and q (M, *event) by their k-th nearest neighbors.

    KL(p ‖ q) ≈ d/N Σ_i log(ν_i / ρ_i) + log(M / (N - 1)), with ν_i the distance of draw i of p to its k-th
    neighbor in q and ρ_i to that among the other draws of p (Pérez-Cruz 2008, Eq. 14; dpVAE section 5.1).
    Consistent, but biased towards zero for few draws in many dimensions, and it may be negative.

    Raises:
        InputError: if the event shapes differ, k does not fit, or draws coincide.
    """
    check_shapes("pass draws of one event shape", p=(p, "N>1 *event"), q=(q, "M>1 *event"))
    check_count("k", k, most=min(len(p), len(q)) - 1)
    x, y = p.double().flatten(1), q.double().flatten(1)
    return SymmetricKL(_neighbor_kl(x, y, k), _neighbor_kl(y, x, k), math.nan, min(len(p), len(q)))


def _neighbor_kl(x: Tensor, y: Tensor, k: int) -> float:
    among, across = _nearest(x, x, k + 1), _nearest(x, y, k)  # the nearest of its own kind is itself
    bad = int(((among == 0) | (across == 0)).sum())
    if bad:
        raise InputError(f"{bad} draws coincide with others: drop repetitions, or add noise.")
    return x.shape[1] * (across.log() - among.log()).mean().item() + math.log(len(y) / (len(x) - 1))


def _nearest(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Distance of each row of x to its k-th nearest in y."""
    exact = "donot_use_mm_for_euclid_dist"  # also when close
    distances = (torch.cdist(rows, y, compute_mode=exact) for rows in x.split(_CHUNK))
    return torch.cat([each.topk(k, largest=False).values[:, -1] for each in distances])


@torch.no_grad()
def density_skl(p: Tensor, q: Tensor, log_p: Density, log_q: Density) -> SymmetricKL:
    """KL(p ‖ q) + KL(q ‖ p) as means of log p - log q over draws p (N, *event), of log q - log p over q.

    Unbiased, with a standard error; `log_q` may be `AggregatePosterior.log_prob`, and `log_p` the prior's.

    Raises:
        InputError: if there are fewer than two draws of one kind, or a density is not finite at a draw.
    """
    check_shapes("pass draws of one event shape", p=(p, "N>1 *event"), q=(q, "M>1 *event"))
    forward = log_p(p).double().cpu() - log_q(p).double().cpu()
    backward = log_q(q).double().cpu() - log_p(q).double().cpu()
    check_finite("log_p - log_q", torch.cat([forward, backward]), "check the prior")
    error = math.sqrt(forward.var().item() / len(forward) + backward.var().item() / len(backward))
    return SymmetricKL(forward.mean().item(), backward.mean().item(), error, min(len(p), len(q)))
