"""Run folders: what is in one, and the weights of its newest valid checkpoint."""

import logging
from pathlib import Path

import torch

from flowprior.errors import InputError
from flowprior.models import Autoencoder
from flowprior.training.checkpoint import load_weights
from flowprior.training.engine import resolve_device

CONFIG, REPORT, METRICS, FIGURES = "config.gin", "report.json", "metrics.csv", "figures"
PRIOR = "config.json"


def config_of(folder: Path) -> Path:
    """The config of a run folder.

    Raises:
        InputError: if `folder` is not one.
    """
    path = folder / CONFIG
    if not path.is_file():
        kind = "has no config.gin" if folder.is_dir() else "does not exist"
        raise InputError(f"'{folder}' {kind}: give the folder of a run, as `flowprior train` made it.")
    return path


def is_prior(folder: Path) -> bool:
    """Whether `folder` holds a fitted prior, as `flowprior fit` and `save_pretrained` write it."""
    return (folder / PRIOR).is_file()


def restore(model: Autoencoder, folder: Path, device: str) -> torch.device:
    """Give `model` the weights of the run in `folder` and put it, for evaluation, on `device`.

    Raises:
        InputError: if there is no valid checkpoint, or no such device.
    """
    logging.basicConfig(format="flowprior: %(message)s")  # a skipped checkpoint is named on stderr
    load_weights(folder, model)
    model.eval().requires_grad_(False)
    place = resolve_device(device)
    model.to(place)
    return place
