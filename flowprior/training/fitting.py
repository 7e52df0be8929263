"""A prior trained by maximum likelihood, within a time if there is one: what `fit` is built on."""

import copy
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowprior.bijectors.shrinkage import correlations, limit_of, scales
from flowprior.objectives import LatentNLL
from flowprior.priors.flow import FlowPrior, Standardize
from flowprior.priors.invertible import HeldPrior
from flowprior.priors.prior import Prior
from flowprior.training.loop import train
from flowprior.training.optimizers import OptimizerSettings, RateSchedule
from flowprior.training.stages import Stage, prior_stage

EPOCHS = 20
LOOP = 1e-3  # seconds of a step beside the objective and the optimizer
MOST_CORRELATED = 2048  # features up to which the rank is looked at
NAMED = 8  # constant features that are named


@dataclass(frozen=True)
class Candidate:
    """One of the priors that `fit` chose among.

    Args:
        name: what it is.
        nll: of the held-out latents, mean in nats; None if there was no time for it.
        seconds: that it took.
    """

    name: str
    nll: float | None
    seconds: float

    def __str__(self) -> str:
        if self.nll is None:
            return f"{self.name}: left out, there was no time for it."
        return f"{self.name}: held-out nll {self.nll:.4f} nats, {self.seconds:.1f} s."


@dataclass(frozen=True)
class FitResult:
    """What a fit did; `print` shows it in sentences.

    Args:
        nll: of the held-out latents under the prior as it is now, mean in nats; of the training latents in
            the last epoch if nothing was held out. Where `fit` chose the prior and then fitted it again to
            all rows, that of the candidate.
        best_epoch: the epoch (from 1) whose weights the prior has, 0 for its start; None if nothing was held
            out.
        epochs: how many were run.
        seconds: wall time.
        history: one entry an epoch: "epoch", "train/nll", "valid/nll", ...
        notes: what the data are like (constant features, exact low rank), and what was chosen.
        candidates: what `fit` chose among, in the order of simplicity.
    """

    nll: float
    best_epoch: int | None
    epochs: int
    seconds: float
    history: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()

    def __str__(self) -> str:
        kind = "training" if self.best_epoch is None and not self.candidates else "held-out"
        last = f"{self.epochs} epochs in {self.seconds:.1f} s, {kind} nll {self.nll:.4f} nats."
        return "\n".join([*map(str, self.candidates), *self.notes, last])


def train_prior(
    prior: Prior,
    tensors: Mapping[str, Tensor],
    *,
    seconds: float | None = None,
    epochs: int | None = None,
    batch_size: int = 256,
    lr: float = 3e-3,
    weight_decay: float = 1e-5,
    schedule: RateSchedule = "one_cycle",
    ema: float | None = 0.99,
    clip: float | None = None,
    validation: float | Mapping[str, Tensor] = 0.1,
    patience: int | None = None,
    standardize: Standardize | None = "auto",
    seed: int = 0,
    device: str = "auto",
    compile: bool = False,
    progress: bool = True,
    start: Any = None,
    stop_after: int | None = None,
) -> FitResult:
    """Train `prior`, in place, on "z" and "context" (N, ...) of its dtype; arguments as for `fit`.

    Args:
        start: called with the training tensors instead of the prior's own start.
        stop_after: epochs after which to stop, with the schedule of all `epochs`.
    """
    if seconds is not None:
        possible = int(seconds / (step_seconds(prior, tensors, batch_size) * _steps(tensors, batch_size)))
        epochs = max(1, min(possible, EPOCHS if epochs is None else epochs))
    stage: Stage = prior_stage(
        prior,
        tensors,
        epochs=EPOCHS if epochs is None else epochs,
        batch_size=batch_size,
        optimizers=OptimizerSettings(lr=lr, weight_decay=weight_decay, schedule=schedule),
        ema=ema,
        clip=clip,
        validation=validation,
        patience=patience,
        standardize=standardize,
        seed=seed,
        restart=True,
        name="fit",
    )
    if start is not None:
        stage.initialize = start
    if stop_after == 0:
        stage.epochs = 0  # the start alone
    steps = stop_after * _steps(tensors, batch_size) if stop_after else None
    home = prior.device
    precision = "64-true" if prior.dtype == torch.float64 else "32-true"
    options: dict[str, Any] = {"device": device, "precision": precision, "compile": compile}
    try:
        result = train([stage], seed=seed, max_steps=steps, progress=progress, **options)
    finally:
        prior.to(home)
    history, best = result.history, result.best_epoch
    judged = {0: result.start, **{entry["epoch"]: entry for entry in history}}
    trained = history[-1]["train/nll"] if history else math.nan  # of a start alone nothing was measured
    nll = trained if best is None else judged[best]["valid/nll"]
    return FitResult(nll, best, len(history), result.seconds, history)


def _steps(tensors: Mapping[str, Tensor], batch_size: int) -> int:
    return max(1, len(tensors["z"]) // batch_size)


def step_seconds(prior: Prior, tensors: Mapping[str, Tensor], batch_size: int) -> float:
    """About what a step takes: the quickest of three on a copy, and a third for the optimizer."""
    objective = LatentNLL(copy.deepcopy(prior))
    batch = {name: value[:batch_size].to(prior.device) for name, value in tensors.items()}
    times = []
    for step in range(3):
        began = time.perf_counter()
        objective.losses(objective.players[0], batch, step)["loss"].backward()
        times.append(time.perf_counter() - began)
    return min(times) * 4 / 3 + LOOP


def look_at(z: Tensor, prior: Prior | None = None) -> tuple[str, ...]:
    """What is to be said of latents (N, *event): constant features, exact low rank.

    Few rows get a warning, unless `prior` is a flow that does not estimate their covariance.
    """
    while isinstance(prior, HeldPrior):
        prior = prior.prior
    rows = z.flatten(1)
    count, features = rows.shape
    estimated = not isinstance(prior, FlowPrior) or prior.standardize == "full"
    if count < 2 * features and estimated:
        warnings.warn(
            f"`latents` has {count} rows of {features} features, few for an estimate of their covariance: it "
            "is shrunk by as much as serves rows that were left out.",
            stacklevel=3,
        )
    limit = limit_of(rows.dtype)
    mean, std, varies = scales(rows, limit)
    notes = []
    constant = varies.logical_not().nonzero().flatten().tolist()
    if constant:
        names = ", ".join(map(str, constant[:NAMED])) + (", ..." if len(constant) > NAMED else "")
        notes.append(f"{len(constant)} of {features} features do not vary ({names}): they stay as they are.")
    moving = features - len(constant)
    if moving < count and moving <= MOST_CORRELATED:
        values = torch.linalg.eigvalsh(correlations(rows, mean, std, varies))
        rank = int((values > 4 * limit**2).sum()) - len(constant)
        if rank < moving:
            notes.append(
                f"The {moving} features that vary have rank {rank}, exactly: samples stay in that plane."
            )
    return tuple(notes)
