"""`flowprior fit-images`: a prior on the codes of pictures under a pretrained autoencoder."""

from pathlib import Path
from typing import Any

import torch

from flowprior.data import Source
from flowprior.errors import InputError
from flowprior.experiments import report
from flowprior.experiments.runs import update_report
from flowprior.files import make_folder
from flowprior.models.pretrained_autoencoders import load_codec
from flowprior.training.fit_images import fit_images
from flowprior.training.image_prior import ImagePrior


def run(
    images: str,
    *,
    autoencoder: str,
    out: Path,
    size: int | None = None,
    limit: int | None = None,
    training: dict[str, Any] | None = None,
    data_root: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> ImagePrior:
    """Fit a prior to the training images of a data set, a file or a folder, and save it in `out`.

    Args:
        images: as the name of a `Source`, which `size`, `limit` and `data_root` go to.
        autoencoder: a name, a folder or files, see `load_codec`.
        out: folder for the prior; it must be empty or not exist.
        training: other arguments of `fit_images`; seed, device, progress: as there.

    Raises:
        InputError: if a file or an argument does not fit; the sentence says which.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"`--out` (={out}) exists already: choose a new folder, so that nothing is lost.")
    codec = load_codec(autoencoder)
    x = Source(images, data_root, size=size, limit=limit, channels=3).train().x
    make_folder(out)
    training = training or {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline, result = fit_images(codec, x, seed=seed, device=device, progress=progress, **training)
    pipeline.save_pretrained(out)
    per_dimension = result.nll / pipeline.prior.event_shape.numel()
    update_report(
        out,
        images=images,
        rows=len(x),
        metrics={"held-out nll a dimension": per_dimension},
        epochs=result.epochs,
        wall_time_seconds=round(result.seconds, 3),
        settings={**training, "autoencoder": autoencoder, "noise": pipeline.std, "seed": seed},
        versions=report.versions(),
        machine=report.machine(),
    )
    print(report.table({"held-out nll a dimension": per_dimension, "epochs": result.epochs}))
    print(f"fitted: {out}")
    return pipeline
