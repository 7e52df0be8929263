"""`flowprior sample`: images from a run, latents from a fitted prior."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowprior.data.conditions import read_conditions
from flowprior.errors import InputError
from flowprior.experiments.config import load_model
from flowprior.experiments.runs import is_prior, restore
from flowprior.files import ARRAYS, check_writable, write_array
from flowprior.models import Autoencoder
from flowprior.priors.prior import Prior
from flowprior.training.engine import resolve_device

GRIDS = (".png",)


def run(folder: Path, *, plugins: Sequence[str] = (), **options: Any) -> Tensor:
    """Draw from the run or from the fitted prior in `folder`; the options are those of the functions below.

    Raises:
        InputError: as these.
    """
    if is_prior(folder):
        return of_prior(folder, **options)
    return of_run(load_model(folder, plugins), folder, **options)


def of_run(
    model: Autoencoder,
    folder: Path,
    *,
    out: Path,
    count: int = 64,
    context: Path | None = None,
    key: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Tensor:
    """Draw `count` images (for each condition, where there is a context) and write a grid or an array.

    In a grid each condition has a line: the condition itself, if it is a picture, then its samples.

    Returns:
        (count, *image), or (count, rows, *image) with a context.

    Raises:
        InputError: if there is no valid checkpoint, or `out` or `context` does not fit.
    """
    check_writable(out, GRIDS + ARRAYS)
    rows = None if context is None else read_conditions(context, model.context_shape, key)
    if rows is None and model.conditional:
        raise InputError(
            f"The model in '{folder}' is conditional: give its conditions by --context, a file or a folder."
        )
    resolved = restore(model, folder, device)
    with torch.random.fork_rng(_cuda(resolved)):
        torch.manual_seed(seed)
        images = model.sample(count, None if rows is None else rows.to(resolved)).cpu()
    if out.suffix in GRIDS:
        if images.dim() < 4:
            raise InputError(
                f"The run in '{folder}' draws vectors, not images: give --out an .npy, .npz or .pt."
            )
        _write_grid(out, images, rows)
    else:
        write_array(out, images, "x")
    _say(out, images)
    return images


def of_prior(
    folder: Path,
    *,
    out: Path,
    count: int = 64,
    context: Path | None = None,
    key: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Tensor:
    """Draw `count` latents (for each row of the context, where there is one) and write them as an array.

    Returns:
        (count, *event), or (count, rows, *event) with a context.

    Raises:
        InputError: if the prior cannot be read, or `out` or `context` does not fit.
    """
    if out.suffix in GRIDS:
        raise InputError(
            f"'{folder}' holds a prior, which draws latents: give --out an .npy, .npz or .pt file."
        )
    check_writable(out, ARRAYS)
    resolved = resolve_device(device)
    prior = Prior.from_pretrained(folder).to(resolved)
    rows = None if context is None else read_conditions(context, prior.context_shape, key, pictures=False)
    with torch.random.fork_rng(_cuda(resolved)):
        torch.manual_seed(seed)
        z = prior.sample(count, None if rows is None else rows.to(resolved)).cpu()
    write_array(out, z, "z")
    _say(out, z)
    return z


def _cuda(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


def _write_grid(out: Path, images: Tensor, conditions: Tensor | None) -> None:
    """Images (n, *image); or (n, rows, *image), a line for each condition."""
    from flowprior.figures import condition_sheet, image_grid, save

    if images.dim() == 4:
        save(image_grid(images), out)
    elif conditions is not None and conditions.dim() == 4:
        save(condition_sheet(conditions, None, {"": images}), out)
    else:
        save(image_grid(images.transpose(0, 1).flatten(0, 1), len(images)), out)


def _say(out: Path, draws: Tensor) -> None:
    print(f"{tuple(draws.shape)} in {out}")
