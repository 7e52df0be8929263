"""`flowprior fit`: a prior on an array of latents from a file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprior.errors import InputError, reason
from flowprior.experiments import report
from flowprior.experiments.runs import PRIOR, REPORT, is_prior, update_report
from flowprior.files import read_array, read_rows, remove_leftovers
from flowprior.locks import LOCK, Lock, locked
from flowprior.priors.flow import FlowPrior
from flowprior.priors.pretrained import MODEL
from flowprior.priors.prior import Prior
from flowprior.training.fit import fit
from flowprior.training.fitting import FitResult
from flowprior.training.rows import MEMORY


def run(
    latents: Path,
    *,
    out: Path,
    key: str | None = None,
    context: Path | None = None,
    context_key: str | None = None,
    flow: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    overwrite: bool = False,
) -> Prior:
    """Fit a prior to the rows of a file and save it in the folder `out`: a chosen one, or a FlowPrior.

    Args:
        latents: .npy, .npz or .pt file of shape (N, *event); `key` names its array where there are several.
        out: folder for the prior; it must be empty or not exist, or hold what a killed `fit` has left.
        context, context_key: likewise a file of shape (N, C), or of maps (N, K, H, W).
        flow: arguments of FlowPrior, whose "base" is by default a mixture, "normal" with a context; without
            any, `fit` chooses the prior.
        training: arguments of `fit` other than its defaults; seed, device, progress: as there.
        overwrite: replace the prior in `out`, once the new one is fitted.

    Raises:
        InputError: if a file or an argument does not fit; the sentence says which.
    """
    if out.is_file():
        raise InputError(f"`--out` (={out}) is a file: name a folder.")
    with locked(out) as lock:
        remove_leftovers(out)
        _check_new(out, lock, overwrite)
        prior, rows, result, settings = _fitted(
            latents, key, context, context_key, flow, training, seed, device, progress
        )
        for name in (PRIOR, REPORT, "report.html"):  # the config first: without it there is no prior
            (out / name).unlink(missing_ok=True)
        prior.save_pretrained(out)
        chosen = bool(result.candidates)
        nll = {"held-out nll" if chosen or result.best_epoch is not None else "nll": result.nll}
        update_report(
            out,
            latents=str(latents),
            rows=rows,
            metrics=nll,
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            wall_time_seconds=round(result.seconds, 3),
            notes=result.notes,
            candidates=[asdict(candidate) for candidate in result.candidates],
            settings=settings,
            parameters=sum(parameter.numel() for parameter in prior.parameters()),
            versions=report.versions(),
            machine=report.machine(),
        )
    print(report.table({**nll, "epochs": result.epochs, "wall time in seconds": result.seconds}))
    print("\n".join([*map(str, result.candidates), *result.notes, f"fitted: {out}"]))
    return prior


def _check_new(out: Path, lock: Lock, overwrite: bool) -> None:
    """Refuse a folder with anything else in it than what a killed `fit` leaves, or what is to be replaced."""
    held = {path.name for path in out.iterdir()} - {LOCK}
    left = lock.taken_over and held <= {MODEL}
    if held and not left and not (overwrite and is_prior(out)):
        fix = "choose a new folder, so that nothing is lost"
        raise InputError(f"`--out` (={out}) exists already: {fix}{' (or --overwrite)' * is_prior(out)}.")


def _fitted(
    latents: Path, key: str | None, context: Path | None, context_key: str | None,
    flow: dict[str, Any] | None, training: dict[str, Any] | None, seed: int, device: str, progress: bool,
) -> tuple[Prior, int, FitResult, dict[str, Any]]:  # fmt: skip
    """The prior, the number of rows, what the fit did, and all settings; arguments as for `run`."""
    z = _read_latents(latents, key)
    if len(z.shape) == 1:
        shape = tuple(z.shape)
        raise InputError(f"`latents` (={latents}) has shape {shape} but must be (N, D): one row per latent.")
    rows = None if context is None else read_rows(context, context_key, "context")
    arguments, training = dict(flow or {}), training or {}
    options = {"seed": seed, "device": device, "progress": progress, **training}
    prior = _flow(tuple(z.shape[1:]), rows, arguments, seed) if arguments else None
    if prior is None:
        prior = fit(z, context=rows, **options)
        result = prior.fitted
    else:
        result = fit(prior, z, rows, **options)
    settings = {**(fit.__kwdefaults__ or {}), **training, "seed": seed, "device": device, **arguments}
    return prior, len(z), result, settings


def _flow(shape: tuple[int, ...], context: Tensor | None, arguments: dict[str, Any], seed: int) -> FlowPrior:
    """The FlowPrior that was asked for; what follows from the data is entered in `arguments`."""
    if context is not None:
        arguments["context_features"] = context.shape[1] if context.dim() == 2 else tuple(context.shape[1:])
    arguments.setdefault("base", "mixture" if context is None else "normal")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FlowPrior(shape, **arguments)


def _read_latents(path: Path, key: str | None) -> Any:
    """The rows of a file; a large .npy is mapped, and read in parts."""
    if path.suffix == ".npy" and path.is_file() and path.stat().st_size > MEMORY:
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            wrong = f"`latents` (={path}) cannot be read ({reason(error)}): write it again."
            raise InputError(wrong) from None
    return read_array(path, key, "latents")
