"""The marginal likelihood of data under a VAE, by importance sampling."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite
from flowprior.errors import InputError
from flowprior.metrics.rows import batches, standard_error


@dataclass(frozen=True)
class ImportanceNLL:
    """-log p(x) of a set of examples, in nats per example."""

    mean: float
    standard_error: float  # of the mean, from the importance sampling, for these very examples
    data_error: float  # of the mean, from the choice of the examples; NaN for one
    effective_samples: float  # the smallest (Σ w)² / Σ w² of an example; near 1 do not trust the error
    examples: int
    samples: int


@torch.no_grad()
def importance_nll(
    log_weight: Callable[..., Tensor], x: Tensor, context: Tensor | None = None,
    *, samples: int = 1000, rows: int = 4096, device: str | torch.device | None = None,
) -> ImportanceNLL:  # fmt: skip
    """-log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x): K draws an example, `rows` pairs at a time.

    Not below -log p(x) in the mean, and falling to it as K grows. The standard error is that of the delta
    method from the weights' spread. Sums are kept as logarithms in float64: memory does not grow with K.
    Source: Burda et al. 2016, Eq. 8; dpVAE section 5.1 (there without the minus sign).

    Args:
        log_weight: `(x, draws)` or `(x, draws, context)` -> log p(x|z) + log p(z) - log q(z|x) of fresh z,
            (draws, n), for n examples.
        x, context: examples (N, *data), and (N, C), each chunk moved to `device` if given.
        samples: K, at least 2; the paper takes 21,000.

    Raises:
        InputError: if there are no examples, a number does not fit, or a weight is NaN.
    """
    check_count("samples", samples, least=2)
    check_count("rows", rows)
    moments = [
        _log_moments(log_weight, inputs, samples, max(1, rows // len(inputs[0])))
        for inputs in batches("x", x, context, max(1, rows // samples), device)
    ]
    first, second = torch.cat(moments, 1)  # (N,) each: log Σ w, log Σ w²
    check_finite("log_weight", first, "check the model")
    nll = math.log(samples) - first
    effective = (2 * first - second).exp()  # (N,)
    variances = (samples / effective - 1) / (samples - 1)
    return ImportanceNLL(
        nll.mean().item(),
        variances.clamp_min(0).sum().sqrt().item() / len(x),
        standard_error(nll),
        effective.min().item(),
        len(x),
        samples,
    )


def _log_moments(
    log_weight: Callable[..., Tensor], inputs: list[Tensor], samples: int, at_once: int
) -> Tensor:
    """log Σ_k w_k and log Σ_k w_k² of each example, (2, n)."""
    x, *context = inputs
    sums = torch.full((2, len(x)), -math.inf, dtype=torch.float64)
    for start in range(0, samples, at_once):
        draws = min(at_once, samples - start)
        nats = log_weight(x, draws, *context).double().cpu()
        if nats.shape != (draws, len(x)):
            raise InputError(f"`log_weight` gave {tuple(nats.shape)} but must give ({draws}, {len(x)}).")
        sums = torch.logaddexp(sums, torch.stack([nats.logsumexp(0), (2 * nats).logsumexp(0)]))
    return sums
