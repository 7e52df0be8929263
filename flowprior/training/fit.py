"""`fit`: a prior on any array of latents, by the same loop."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.priors.flow import Standardize
from flowprior.priors.prior import Prior
from flowprior.training.loop import train
from flowprior.training.optimizers import OptimizerSettings, RateSchedule
from flowprior.training.stages import prior_stage

FEWEST_ROWS = 10


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Args:
        nll: of the held-out latents under the prior as it is now, mean in nats; of the training latents in
            the last epoch if nothing was held out.
        best_epoch: the epoch (from 1) whose weights the prior has; None if nothing was held out.
        epochs: how many were run.
        seconds: wall time.
        history: one entry an epoch: "epoch", "train/nll", "valid/nll", ...
    """

    nll: float
    best_epoch: int | None
    epochs: int
    seconds: float
    history: list[dict[str, Any]]


def fit(
    prior: Prior,
    latents: Tensor | np.ndarray,
    context: Tensor | np.ndarray | None = None,
    *,
    epochs: int = 20,
    batch_size: int = 256,
    lr: float = 3e-3,
    weight_decay: float = 1e-5,
    schedule: RateSchedule = "one_cycle",
    ema: float | None = 0.99,
    clip: float | None = None,
    validation: float = 0.1,
    patience: int | None = None,
    standardize: Standardize | None = "auto",
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> FitResult:
    """Train `prior`, in place, by maximum likelihood of `latents`: argmin mean -log p(z | context).

    The prior starts from the latents (`Prior.initialize`: whitening, mixture base), is trained by Adam, and
    ends with the averaged weights of the epoch with the best held-out likelihood. The defaults are those that
    did best on codes of Fashion-MNIST, with `FlowPrior(D, base="mixture")`: benchmarks/fit_fashion.py.

    Args:
        latents: (N, *event) for the prior's event shape; cast to the prior's dtype.
        context: (N, context_features), maps (N, K, H, W), or labels (N,), if the prior is conditional.
        epochs, batch_size, lr, weight_decay, schedule, ema, clip, patience: see `Stage`, `OptimizerSettings`.
        validation: part of the rows held out; 0 for none.
        standardize: of a FlowPrior: "auto" as it was built, "diagonal" scales each feature, None neither. It
            becomes part of the prior: `log_prob` and `sample` speak of z as it was given.
        seed: of everything random.
        device: where to train; the prior returns to where it was.
        progress: show a progress bar.

    Raises:
        InputError: if latents or context do not fit the prior, are too few, or are not finite.
        RunError: if the likelihood stops being finite.

    >>> from flowprior import FlowPrior
    >>> latents = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
    >>> fit(FlowPrior(2), latents, epochs=1, progress=False).best_epoch
    1
    """
    check_count("epochs", epochs)
    if not isinstance(prior, Prior):
        raise InputError(f"`prior` (a {type(prior).__name__}) must be a prior, such as FlowPrior(64).")
    check_count("seed", seed, least=0)
    tensors = {"z": _as_rows(latents, prior.dtype, "latents")}
    if context is not None:
        rows = _as_rows(context, None, "context")
        tensors["context"] = rows.to(prior.dtype) if rows.is_floating_point() else rows
    if len(tensors["z"]) < FEWEST_ROWS:
        raise InputError(
            f"`latents` has {len(tensors['z'])} rows, too few to fit a prior to: give at least {FEWEST_ROWS}."
        )
    prior.check_latents(tensors["z"], tensors.get("context"))
    stage = prior_stage(
        prior,
        tensors,
        epochs=epochs,
        batch_size=batch_size,
        optimizers=OptimizerSettings(lr=lr, weight_decay=weight_decay, schedule=schedule),
        ema=ema,
        clip=clip,
        validation=validation,
        patience=patience,
        standardize=standardize,
        seed=seed,
        name="fit",
    )
    home = prior.device
    precision = "64-true" if prior.dtype == torch.float64 else "32-true"
    try:
        result = train([stage], seed=seed, device=device, precision=precision, progress=progress)
    finally:
        prior.to(home)
    best = result.best_epoch
    nll = result.metrics["train/nll"] if best is None else result.history[best - 1]["valid/nll"]
    return FitResult(nll, best, len(result.history), result.seconds, result.history)


def _as_rows(values: Tensor | np.ndarray, dtype: torch.dtype | None, name: str) -> Tensor:
    try:
        rows = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        rows = torch.empty(0, dtype=torch.complex64)
    if rows.is_complex() or rows.dim() == 0:
        raise InputError(
            f"`{name}` (a {type(values).__name__}) must be a tensor or array of real numbers, one row each."
        )
    return rows.detach() if dtype is None else rows.detach().to(dtype)
