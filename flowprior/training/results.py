"""What a training tells: after every epoch, and at its end."""

from dataclasses import dataclass
from typing import Any

from flowprior.training.stages import Stage


@dataclass(frozen=True)
class EpochEnd:
    """What `on_epoch` is told; meanwhile weights are averaged, and modules in evaluation mode."""

    stage: Stage
    epoch: int  # finished ones of this stage
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainResult:
    """What a training did."""

    steps: int  # of the optimizers, over all stages
    seconds: float  # wall time, over all interruptions
    seconds_per_epoch: dict[str, float]  # by stage, validation and logs included
    metrics: dict[str, float]  # of the last epoch: "train/loss", "valid/loss", ...
    history: list[dict[str, Any]]  # one entry an epoch: "stage", "epoch", "step", "seconds" and the metrics
    best_epoch: int | None  # of the last stage with validation: that with the best loss; 0 is a judged start
    start: dict[str, float]  # the validation metrics of a judged start
    finished: bool  # False if `max_steps` came first
