"""What a checkpoint of a training holds, and how a training continues from it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowprior.errors import InputError, reason
from flowprior.training.averages import Meter
from flowprior.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    part,
    tidy_checkpoints,
)
from flowprior.training.engine import gather, move
from flowprior.training.stage_run import StageRun
from flowprior.training.stages import Stage


@dataclass
class Progress:
    """Where a run stands, as JSON values: all that is needed beside the tensors of a checkpoint."""

    stage: int = 0
    epoch: int = 0  # of the stage
    batch: int = 0  # the next one of the epoch
    step: int = 0  # of the run
    seconds: float = 0.0
    epoch_began: float = 0.0  # in seconds of the run
    under_way: bool = False  # within a stage, rather than between two
    best: float | None = None
    best_epoch: int | None = None
    start: dict[str, float] = field(default_factory=dict)  # what a judged start got
    history: list[dict[str, Any]] = field(default_factory=list)


def take_up(run: Path, keep: int | None) -> Checkpoint:
    """The checkpoint that a run continues from, the newest valid one; else an InputError.

    The process that writes gives how many checkpoints it will `keep`: what a killed run had not yet listed,
    or not yet removed, is put in order.
    """
    checkpoint = load_checkpoint(run)
    if keep is not None:
        if not checkpoint.listed:
            list_checkpoints(run, keep)
        tidy_checkpoints(run)
    return checkpoint


def collect(
    stages: Sequence[Stage], current: StageRun | None, progress: Progress, meter: Meter, fabric: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a run and all else as JSON values; `current` is None between stages.

    Every process calls it: what differs between them, open windows and random states, is gathered.
    """
    progress.under_way = current is not None
    tensors = {} if current is None else current.state()
    with nullcontext() if current is None else current.shards.whole():
        for index, stage in enumerate(stages):
            state = stage.objective.state_dict()
            tensors |= {f"objective.{index}.{name}": value for name, value in state.items()}
    for name, values in meter.pending.items():  # (steps,), or (processes, steps)
        tensors[f"window.{name}"] = gather(torch.stack(values), fabric)
    states = {"cpu": torch.get_rng_state()}
    if fabric.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(fabric.device)
    for kind, random in states.items():
        gathered = gather(random, fabric).cpu().view(fabric.world_size, -1)
        tensors |= {f"random.{kind}.{rank}": own for rank, own in enumerate(gathered)}
    means = {"epoch_sums": meter.sums, "epoch_counts": meter.counts, "window": list(meter.pending)}
    scaler, names = fabric.strategy.precision.state_dict(), [stage.name for stage in stages]
    return tensors, {"progress": asdict(progress), "scaler": scaler, "stages": names, **means}


def restore_progress(checkpoint: Checkpoint, stages: Sequence[Stage], meter: Meter, fabric: Any) -> Progress:
    """Put a checkpoint into the objectives, the meter and the random state; returns where the run stands.

    What belongs to the stage under way is left to `StageRun.load_state`. An InputError if the checkpoint is
    from other stages.
    """
    state, tensors = checkpoint.state, checkpoint.tensors
    names = [stage.name for stage in stages]
    if state["stages"] != names:
        other = f"{checkpoint.path} comes from a run with the stages {state['stages']}"
        raise InputError(f"{other}, and `stages` are {names}: resume with the settings of the run.")
    for index, stage in enumerate(stages):
        try:
            stage.objective.load_state_dict(part(tensors, f"objective.{index}."))
        except RuntimeError as error:
            unfit = f"{checkpoint.path} does not fit stage {stage.name!r} ({reason(error)})"
            raise InputError(f"{unfit}: resume with the settings of the run.") from error
        move(stage.objective, fabric)
    meter.sums, meter.counts = state["epoch_sums"], state["epoch_counts"]
    rank = fabric.global_rank
    for name in state["window"]:
        window = tensors[f"window.{name}"].to(fabric.device)
        if window.dim() > 1:
            window = window[rank] if len(window) == fabric.world_size else window.mean(0)
        meter.pending[name] = [*window]
    fabric.strategy.precision.load_state_dict(state["scaler"])
    if f"random.cpu.{rank}" in tensors:  # absent if there were fewer processes before
        torch.set_rng_state(tensors[f"random.cpu.{rank}"].cpu())
    if f"random.cuda.{rank}" in tensors and fabric.device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"random.cuda.{rank}"].cpu(), fabric.device)
    return _progress(checkpoint, len(stages))


def _progress(checkpoint: Checkpoint, stages: int) -> Progress:
    """Where the checkpoint says that the run stands, if there is such a place."""
    try:
        progress = Progress(**checkpoint.state["progress"])
        last = stages - (1 if progress.under_way else 0)
        possible = 0 <= progress.stage <= last and min(progress.epoch, progress.batch, progress.step) >= 0
    except TypeError:
        possible = False
    if not possible:
        nowhere = f"{checkpoint.path} stands at {checkpoint.state['progress']}, which no run of {stages}"
        raise InputError(f"{nowhere} stages reaches: remove it, and an older one is taken.")
    return progress
