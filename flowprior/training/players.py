"""The players of a stage: each one's parameters, its optimizer, and its objective as Fabric wraps it."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.objectives import Objective
from flowprior.training.engine import copy_from_first_process, is_sharded
from flowprior.training.optimizers import OptimizerSettings, build_optimizer
from flowprior.training.shards import sharded_as, whole
from flowprior.training.stages import Stage


@dataclass
class Player:
    """One player of an objective, ready to be stepped.

    Each has a wrapper of the objective of its own, which knows this player's parameters only: under DDP that
    is one reduction of their gradients a backward pass, whatever the other players learn.
    """

    name: str
    alone: bool  # the only one of its objective
    parameters: list[nn.Parameter]
    others: list[nn.Parameter]  # of the objective, trained by other players or by none
    settings: list[OptimizerSettings]  # one for each torch parameter group
    objective: Any  # wrapped by Fabric
    optimizer: Any  # likewise
    fabric: Any

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The player's named losses of a batch, in the run's precision, through the hooks of the strategy."""
        with self.fabric.autocast():  # so that Fabric leaves losses in 64 bits as they are
            return self.objective(self.name, batch, step)

    def learning(self) -> AbstractContextManager[None]:
        """Inside, no parameter but the player's own asks for a gradient."""
        return without_gradients(self.others)

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

    def clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors, whole: "0.exp_avg", ..."""
        state = self.optimizer.optimizer.state_dict()["state"]
        return {
            f"{index}.{key}": whole(value) for index, entry in state.items() for key, value in entry.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """What `state` returned."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = (
                value if key == "step" else sharded_as(value, self.parameters[int(index)])
            )
        groups = self.optimizer.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def build_players(stage: Stage, fabric: Any, fused: bool) -> list[Player]:
    """The players of a stage that have something to train; frozen groups stop asking for gradients.

    Every process then has the parameters and buffers of the first one, or its shard of them.

    Raises:
        InputError: if nothing is left to train, a group has no optimizer settings, or the strategy does not
            suit.
    """
    objective = stage.objective
    for name in objective.players:
        for group, parameters in objective.parameter_groups(name).items():
            for parameter in parameters if group in stage.frozen else []:
                parameter.requires_grad_(False)
    names = [name for name in objective.players if _learning(objective, name)]
    if not names:
        raise InputError(
            f"Stage {stage.name!r} has nothing to train: its objective has no parameters, or all are in "
            "`frozen`."
        )
    if is_sharded(fabric) and len(names) > 1:
        raise InputError(
            f"`strategy` (='fsdp') is for objectives with one player, and {type(objective).__name__} has "
            f"{', '.join(names)}: take 'ddp'."
        )
    copy_from_first_process([*objective.parameters(), *objective.buffers()], fabric)
    return [_build_player(name, stage, fabric, fused) for name in names]


def _learning(objective: Objective, name: str) -> dict[str, list[nn.Parameter]]:
    """The player's groups without what is frozen."""
    groups = {
        group: [parameter for parameter in parameters if parameter.requires_grad]
        for group, parameters in objective.parameter_groups(name).items()
    }
    return {group: parameters for group, parameters in groups.items() if parameters}


def _build_player(name: str, stage: Stage, fabric: Any, fused: bool) -> Player:
    objective = stage.objective
    own = {id(parameter) for group in _learning(objective, name).values() for parameter in group}
    others = [p for p in objective.parameters() if p.requires_grad and id(p) not in own]
    with without_gradients(others):
        wrapped = fabric.setup_module(objective)
        groups = _learning(objective, name)  # sharded by now, if they are to be
    settings = {group: stage.settings(group) for group in groups}
    optimizer = build_optimizer(groups, settings, fused=fused)
    return Player(
        name=name,
        alone=len(objective.players) == 1,
        parameters=[parameter for group in groups.values() for parameter in group],
        others=others,
        settings=list(settings.values()),
        objective=wrapped,
        optimizer=fabric.setup_optimizers(optimizer),
        fabric=fabric,
    )


@contextmanager
def without_gradients(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Inside, these parameters, which otherwise do, ask for no gradients."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def rest_frozen(objective: nn.Module) -> None:
    """Training mode, but evaluation mode for modules all of whose parameters are frozen."""
    objective.train()
    for module in objective.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
