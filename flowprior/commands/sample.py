"""`flowprior sample`: images from a run, latents from a fitted prior."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from flowprior.bounds import check_memory
from flowprior.data.conditions import read_conditions
from flowprior.data.pictures import MOST_PIXELS
from flowprior.errors import InputError
from flowprior.experiments.config import load_model
from flowprior.experiments.runs import is_prior
from flowprior.experiments.unchanged import restore
from flowprior.files import ARRAYS, check_writable, write_array
from flowprior.models import Autoencoder
from flowprior.priors.prior import Prior
from flowprior.training.engine import resolve_device
from flowprior.training.image_prior import IMAGES, ImagePrior

GRIDS = (".png",)
GRID_TILE = 58  # pixels that a small image has in a grid, at least


def run(
    folder: Path, *, out: Path, count: int = 64, context: Path | None = None, key: str | None = None,
    temperature: float = 1.0, truncate: float | None = None,
    plugins: Sequence[str] = (), seed: int = 0, device: str = "auto",
) -> Tensor:  # fmt: skip
    """Draw from the run or from the fitted prior in `folder`, and write a grid of images or an array.

    In a grid each condition has a line: the condition itself, if it is a picture, then its samples.
    `temperature` and `truncate` are those of `Prior.sample`.

    Returns:
        (count, *event), or (count, rows, *event) with a context.

    Raises:
        InputError: if the run or the prior cannot be read, or `out` or `context` does not fit.
    """
    model: Autoencoder | Prior
    if (folder / IMAGES).is_file() and out.suffix in GRIDS:
        return _draw_images(folder, out, count, context, key, seed, device)
    if is_prior(folder):
        if out.suffix in GRIDS:
            wish = "give --out an .npy, .npz or .pt file"
            raise InputError(f"'{folder}' holds a prior, which draws latents: {wish}.")
        check_writable(out, ARRAYS)
        resolved = resolve_device(device)
        model = Prior.from_pretrained(folder).to(resolved)
        rows = None if context is None else read_conditions(context, model.context_shape, key, pictures=False)
    else:
        model = load_model(folder, plugins)
        check_writable(out, GRIDS + ARRAYS)
        rows = None if context is None else read_conditions(context, model.context_shape, key)
        if rows is None and model.conditional:
            wish = "give its conditions by --context, a file or a folder"
            raise InputError(f"The model in '{folder}' is conditional: {wish}.")
        resolved = restore(model, folder, device)
    shape = (count, *(() if rows is None else (len(rows),)), *_one(model, rows, resolved).shape)
    check_memory(f"`-n` (={count}): draws of shape {shape}", 4 * prod(shape), "draw fewer at a time")
    if out.suffix in GRIDS:
        _check_grid(shape, folder)
    with torch.random.fork_rng([resolved.index or 0] if resolved.type == "cuda" else []):
        torch.manual_seed(seed)
        seen = None if rows is None else rows.to(resolved)
        draws = model.sample(count, seen, temperature=temperature, truncate=truncate).cpu()
    if out.suffix not in GRIDS:
        write_array(out, draws, "x" if isinstance(model, Autoencoder) else "z")
    else:
        _write_grid(out, draws, rows)
    print(f"{tuple(draws.shape)} in {out}")
    return draws


def _one(model: Autoencoder | Prior, rows: Tensor | None, device: torch.device) -> Tensor:
    """One draw, whose shape all others have; the random state stays."""
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        draw = model.sample(1, None if rows is None else rows[:1].to(device))
    return draw[0] if rows is None else draw[0, 0]


def _check_grid(shape: tuple[int, ...], folder: Path) -> None:
    """Refuse a grid of vectors, and one of more pixels than a picture may have."""
    if len(shape) < 4:
        raise InputError(f"The run in '{folder}' draws vectors, not images: give --out an .npy, .npz or .pt.")
    side = max(GRID_TILE, *shape[-2:])
    most = MOST_PIXELS // side**2
    if (images := prod(shape[:-3])) > most:
        wish = f"a grid holds at most {most:,} of this size: draw fewer, or give --out an .npy file"
        raise InputError(f"`-n` (={shape[0]}) makes {images:,} images, and {wish}.")


def _draw_images(
    folder: Path, out: Path, count: int, context: Path | None, key: str | None, seed: int, device: str
) -> Tensor:
    """A grid from a prior that `flowprior fit-images` made, through its autoencoder."""
    check_writable(out, GRIDS)
    resolved = resolve_device(device)
    pipeline = ImagePrior.from_pretrained(folder).to(resolved)
    shape = pipeline.prior.context_shape
    rows = None if context is None else read_conditions(context, shape, key, pictures=False)
    with torch.random.fork_rng([resolved.index or 0] if resolved.type == "cuda" else []):
        torch.manual_seed(seed)
        images = pipeline.sample(count, None if rows is None else rows.to(resolved)).cpu()
    _write_grid(out, images, None)
    print(f"{tuple(images.shape)} in {out}")
    return images


def _write_grid(out: Path, images: Tensor, conditions: Tensor | None) -> None:
    """Images (n, *image); or (n, rows, *image), a line for each condition."""
    from flowprior.figures import condition_sheet, image_grid, save

    if images.dim() == 4:
        save(image_grid(images), out)
    elif conditions is not None and conditions.dim() == 4:
        save(condition_sheet(conditions, None, {"": images}), out)
    else:
        save(image_grid(images.transpose(0, 1).flatten(0, 1), len(images)), out)
