"""Optimizers and learning rates: what a group of parameters is trained with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from flowprior.checks import check_count, check_number, check_one_of
from flowprior.errors import InputError

RateSchedule = Literal["constant", "cosine", "linear", "one_cycle", "halving"]
OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
}
FUSED = ("adam", "adamw")  # what torch has a fused kernel of
ADAM = ("lr", "betas", "eps", "weight_decay")  # what torch's optimizers take


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam or a kin of it for one group of parameters, and how its learning rate moves during a stage.

    The schedules, for step t of T:
      - "constant": lr.
      - "cosine": lr (1 + cos πt/T) / 2.
      - "linear": lr up to step linear_after · T, then linearly to 0.
      - "one_cycle": cosine rise from lr/25 to lr in the first 30 % of the steps, then cosine fall to lr/25e4
        (Smith & Topin 2017, as torch's `OneCycleLR`).
      - "halving": lr 2^-⌊epoch / halve_every⌋.

    Args:
        lr: the (peak) learning rate.
        betas, eps: Adam's.
        weight_decay: decoupled for kind="adamw", an L2 term in the gradient for the others.
        halve_every: epochs between halvings.
        linear_after: the share of the steps after which "linear" falls; 0.01 for the Variational U-net.
        warmup: steps in which the rate rises linearly from 0 to what the schedule says.

    Raises:
        InputError: if a value is out of range or does not go with the others.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: RateSchedule = "constant"
    halve_every: int | None = None
    linear_after: float = 0.0
    warmup: int = 0
    kind: Literal["adam", "adamw", "adamax"] = "adam"

    def __post_init__(self) -> None:
        check_number("lr", self.lr, above=0)
        check_number("eps", self.eps, above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"`betas` (={self.betas!r}) must be two numbers in [0, 1), e.g. (0.9, 0.999).")
        check_one_of("schedule", self.schedule, get_args(RateSchedule))
        check_one_of("kind", self.kind, OPTIMIZERS)
        if (self.schedule == "halving") != (self.halve_every is not None):
            given = f"`halve_every` (={self.halve_every!r}) goes with 'halving' (schedule={self.schedule!r})"
            raise InputError(f"{given}: give both or none, e.g. 'halving' and 50.")
        if self.halve_every is not None:
            check_count("halve_every", self.halve_every)
        check_number("linear_after", self.linear_after, least=0, below=1)
        if self.linear_after and self.schedule != "linear":
            given = f"`linear_after` (={self.linear_after!r}) goes with 'linear' (schedule={self.schedule!r})"
            raise InputError(f"{given}: give both or none, e.g. 'linear' and 0.5.")
        check_count("warmup", self.warmup, least=0)

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The learning rate of `step` (from 0) in a stage of `steps`.

        >>> OptimizerSettings(lr=0.1, schedule="halving", halve_every=2).rate(25, 100, 10)
        0.05
        """
        lr = self.lr
        if self.schedule == "cosine":
            lr *= (1 + math.cos(math.pi * min(step / steps, 1))) / 2
        elif self.schedule == "linear":
            lr *= min((steps - min(step, steps)) / ((1 - self.linear_after) * steps), 1)
        elif self.schedule == "one_cycle":
            lr *= _one_cycle(step, steps)
        elif self.halve_every is not None:
            lr *= 0.5 ** (step // steps_per_epoch // self.halve_every)
        return lr * min(1.0, (step + 1) / self.warmup) if self.warmup else lr


def _one_cycle(step: int, steps: int) -> float:
    """The factor of `one_cycle`: torch's OneCycleLR with its defaults."""
    peak = 0.3 * steps - 1
    if step <= peak:
        start, end, share = 1 / 25, 1.0, step / peak
    else:
        start, end, share = 1.0, 1 / 25e4, min((step - peak) / (steps - 1 - peak), 1.0)
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def build_optimizer(
    groups: Mapping[str, list[nn.Parameter]], settings: Mapping[str, OptimizerSettings], fused: bool = True
) -> torch.optim.Optimizer:
    """One optimizer of a player, with a torch parameter group for each of `groups`.

    Fused Adam takes a third of the time of the plain one on a CPU already.

    Raises:
        InputError: if the groups ask for different kinds of optimizer.
    """
    kinds = {settings[name].kind for name in groups}
    if len(kinds) > 1:
        raise InputError("`kind` differs between the groups of one player: take one for all, such as 'adam'.")
    options = {name: {key: getattr(settings[name], key) for key in ADAM} for name in groups}
    described = [{"params": own, "name": name, **options[name]} for name, own in groups.items()]
    kind = kinds.pop()
    return OPTIMIZERS[kind](described, **({"fused": fused} if kind in FUSED else {}))
