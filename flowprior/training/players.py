"""The players of a stage: each one's parameters, its optimizer, and its objective as Fabric wraps it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.objectives import Objective
from flowprior.training.engine import copy_from_first_process, is_sharded
from flowprior.training.optimizers import FUSED, build_optimizer
from flowprior.training.shards import sharded_as, whole
from flowprior.training.stages import Stage


class Player:
    """One player of a stage's objective, ready to be stepped.

    Each has a wrapper of the objective of its own, which knows this player's parameters only: under DDP that
    is one reduction of their gradients a backward pass, whatever the other players learn.
    """

    def __init__(self, name: str, stage: Stage, fabric: Any, fused: bool) -> None:
        objective = stage.objective
        own = {id(parameter) for group in _learning(objective, name).values() for parameter in group}
        self.name, self.fabric, self.alone = name, fabric, len(objective.players) == 1
        self.others = [p for p in objective.parameters() if p.requires_grad and id(p) not in own]
        with self.learning():
            self.objective = fabric.setup_module(objective)
            groups = _learning(objective, name)  # sharded by now, if they are to be
        settings = {group: stage.settings(group) for group in groups}
        self.parameters, self.settings = list(chain(*groups.values())), settings.values()
        self.optimizer = fabric.setup_optimizers(build_optimizer(groups, settings, fused))
        self.skips = all(each.kind in FUSED for each in self.settings)  # a step that the device finds bad

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The player's named losses of a batch, in the run's precision, through the hooks of the strategy."""
        with self.fabric.autocast():  # so that Fabric leaves losses in 64 bits as they are
            return self.objective(self.name, batch, step)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Inside, no parameter of the objective but the player's own asks for a gradient."""
        for parameter in self.others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.others:
                parameter.requires_grad_(True)

    def term(self, name: str, split: str = "train") -> str:
        """A term's name in the logs: "train/loss"; with several players, "train/critic/loss"."""
        return f"{split}/{name}" if self.alone else f"{split}/{self.name}/{name}"

    def set_rates(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """The learning rates of `step` of the stage."""
        for group, settings in zip(self.optimizer.param_groups, self.settings, strict=True):
            group["lr"] = settings.rate(step, steps, steps_per_epoch)

    def rates(self) -> dict[str, float]:
        """The current learning rate of each group, as logged."""
        return {f"lr/{group['name']}": float(group["lr"]) for group in self.optimizer.param_groups}

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors, whole: "0.exp_avg", ..."""
        entries = self.optimizer.optimizer.state_dict()["state"].items()
        return {f"{index}.{key}": whole(value) for index, entry in entries for key, value in entry.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            parameter = self.parameters[int(index)]
            state.setdefault(int(index), {})[key] = value if key == "step" else sharded_as(value, parameter)
        groups = self.optimizer.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def build_players(stage: Stage, fabric: Any, fused: bool) -> list[Player]:
    """The players of a stage that have something to train; frozen groups stop asking for gradients.

    Every process then has the parameters and buffers of the first one, or its shard of them. An InputError if
    nothing is left to train, a group has no optimizer settings, or the strategy does not suit.
    """
    objective = stage.objective
    for name in objective.players:
        for group, parameters in objective.parameter_groups(name).items():
            for parameter in parameters if group in stage.frozen else []:
                parameter.requires_grad_(False)
    names = [name for name in objective.players if _learning(objective, name)]
    if not names:
        nothing = f"Stage {stage.name!r} has nothing to train"
        raise InputError(f"{nothing}: its objective has no parameters, or all are in `frozen`.")
    if is_sharded(fabric) and len(names) > 1:
        several = f"{type(objective).__name__} has {', '.join(names)}"
        raise InputError(
            f"`strategy` (='fsdp') is for objectives with one player, and {several}: take 'ddp'."
        )
    copy_from_first_process([*objective.parameters(), *objective.buffers()], fabric)
    return [Player(name, stage, fabric, fused) for name in names]


def _learning(objective: Objective, name: str) -> dict[str, list[nn.Parameter]]:
    """The player's groups without what is frozen."""
    groups = objective.parameter_groups(name).items()
    learning = {group: [p for p in parameters if p.requires_grad] for group, parameters in groups}
    return {group: parameters for group, parameters in learning.items() if parameters}
