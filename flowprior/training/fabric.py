"""Lightning Fabric, started from plain words: device, number of devices, precision."""

import logging
import os
from typing import Any

import torch

from flowprior.errors import InputError
from flowprior.training.optimizers import check_count

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


def start_fabric(device: str = "auto", devices: int = 1, precision: str = "32-true") -> Any:
    """A launched Fabric. Under `torchrun` the number of processes is torchrun's.

    Args:
        device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1", "mps".
        devices: how many to use on this machine; Fabric starts a process for each further one.
        precision: one of `PRECISIONS`.

    Raises:
        InputError: if there is no such device, or it lacks the precision.
    """
    check_count("devices", devices)
    if precision not in PRECISIONS:
        raise InputError(f"`precision` (={precision!r}) must be one of {', '.join(map(repr, PRECISIONS))}.")
    kind, index = _resolve(device)
    if precision == "16-mixed" and kind == "cpu":
        raise InputError("`precision` (='16-mixed') needs a GPU: take 'bf16-mixed' or '32-true' on the CPU.")

    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets at every start
    local = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    total = int(os.environ.get("WORLD_SIZE", local))
    fabric = Fabric(
        accelerator=kind,
        devices=[index] if index is not None and local == 1 else local,
        num_nodes=max(1, total // local),
        strategy="ddp" if total > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _resolve(device: str) -> tuple[str, int | None]:
    if device == "auto":
        return ("cuda" if torch.cuda.is_available() else "cpu"), None
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
    return found.type, found.index
