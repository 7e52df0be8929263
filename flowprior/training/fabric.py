"""Lightning Fabric, started from plain words: device, number of devices, precision."""

import logging
import os
from typing import Any

import torch

from flowprior.checks import check_count
from flowprior.errors import InputError

NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


def start_fabric(device: str = "auto", devices: int = 1, precision: str = "32-true") -> Any:
    """A launched Fabric. Under `torchrun` the number of processes is torchrun's.

    Args:
        device: as for `resolve_device`.
        devices: how many to use on this machine; Fabric starts a process for each further one.
        precision: one of `PRECISIONS`.

    Raises:
        InputError: if there is no such device, or it lacks the precision.
    """
    check_count("devices", devices)
    place = resolve_device(device)
    check_precision(precision, place)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    total = int(os.environ.get("WORLD_SIZE", local))
    fabric = _import_fabric()(
        accelerator=place.type,
        devices=[place.index] if place.index is not None and local == 1 else local,
        num_nodes=max(1, total // local),
        strategy="ddp" if total > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


def check_precision(precision: str, place: torch.device) -> None:
    """Refuse a precision that is unknown, or that `place` lacks.

    Raises:
        InputError: as said.
    """
    if precision not in PRECISIONS:
        raise InputError(f"`precision` (={precision!r}) must be one of {', '.join(map(repr, PRECISIONS))}.")
    if precision == "16-mixed" and place.type == "cpu":
        raise InputError("`precision` (='16-mixed') needs a GPU: take 'bf16-mixed' or '32-true' on the CPU.")


def _import_fabric() -> Any:
    """Lightning's Fabric, without two habits of its import.

    It sets an environment variable after which every call of `torch.cuda.is_available` opens the driver's
    library anew, and torch's optimizers ask that at each step: 0.17 ms on a machine without a GPU. And it
    greets at every start.
    """
    before = os.environ.get(NVML_CHECK)
    from lightning_fabric import Fabric

    if before is None:
        os.environ.pop(NVML_CHECK, None)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric


def resolve_device(device: str) -> torch.device:
    """What "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1" or "mps" means here.

    Raises:
        InputError: if there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(
            f"`device` (={device!r}) must be 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(found.type, False):
        raise InputError(f"`device` (={device!r}) is not available here: take 'cpu' or 'auto'.")
    return found
