"""`flowprior fit`: a FlowPrior on an array of latents from a file."""

from pathlib import Path
from typing import Any

import torch

from flowprior.errors import InputError
from flowprior.experiments import report
from flowprior.experiments.runs import update_report
from flowprior.files import make_folder, read_array, read_rows
from flowprior.priors.flow import FlowPrior
from flowprior.training.fit import fit


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
) -> FlowPrior:
    """Fit a FlowPrior to the rows of a file and save it in the folder `out`.

    Args:
        latents: .npy, .npz or .pt file of shape (N, *event); `key` names its array where there are several.
        out: folder for the prior; it must be empty or not exist.
        context, context_key: likewise a file of shape (N, C), or of maps (N, K, H, W).
        flow: arguments of FlowPrior; its "base" is by default a mixture, "normal" with a context.
        training: arguments of `fit` other than its defaults; seed, device, progress: as there.

    Raises:
        InputError: if a file or an argument does not fit; the sentence says which.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"`--out` (={out}) exists already: choose a new folder, so that nothing is lost.")
    z = read_array(latents, key, "latents")
    if z.dim() == 1:
        shape = tuple(z.shape)
        raise InputError(f"`latents` (={latents}) has shape {shape} but must be (N, D): one row per latent.")
    rows = None if context is None else read_rows(context, context_key, "context")
    arguments, training = dict(flow or {}), training or {}
    if rows is not None:
        arguments["context_features"] = rows.shape[1] if rows.dim() == 2 else tuple(rows.shape[1:])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        arguments.setdefault("base", "mixture" if rows is None else "normal")
        prior = FlowPrior(tuple(z.shape[1:]), **arguments)
    fresh = not out.exists()
    make_folder(out)  # a folder that cannot be written to is said before the work
    try:
        result = fit(prior, z, rows, seed=seed, device=device, progress=progress, **training)
    except BaseException:
        if fresh:
            out.rmdir()
        raise
    prior.save_pretrained(out)
    nll = {"nll" if result.best_epoch is None else "held-out nll": result.nll}
    update_report(
        out,
        latents=str(latents),
        rows=len(z),
        metrics=nll,
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        wall_time_seconds=round(result.seconds, 3),
        settings={**(fit.__kwdefaults__ or {}), **training, "seed": seed, "device": device, **arguments},
        parameters=sum(parameter.numel() for parameter in prior.parameters()),
        versions=report.versions(),
        machine=report.machine(),
    )
    print(report.table({**nll, "epochs": result.epochs, "wall time in seconds": result.seconds}))
    print(f"fitted: {out}")
    return prior
