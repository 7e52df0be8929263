"""The players of a stage: each one's parameters, its optimizer, and its objective as Fabric wraps it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.training.optimizers import OptimizerSettings, build_optimizer
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
    fabric: Any
    optimizer: Any  # Fabric's
    objective: Any = None  # Fabric's

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The player's named losses of a batch, in the run's precision, through the hooks of the strategy."""
        with self.fabric.autocast():  # so that Fabric leaves losses in 64 bits as they are
            return self.objective(self.name, batch, step)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Inside, no parameter but the player's own asks for a gradient."""
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

    def clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors: "0.exp_avg", ..."""
        state = self.optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """What `state` returned."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def build_players(stage: Stage, fabric: Any, fused: bool) -> list[Player]:
    """The players of a stage that have something to train; frozen groups stop asking for gradients.

    Every process then has the parameters and buffers of the first one.

    Raises:
        InputError: if nothing is left to train, or a group has no optimizer settings.
    """
    objective = stage.objective
    owned = {name: objective.parameter_groups(name) for name in objective.players}
    for groups in owned.values():
        for group in groups.keys() & set(stage.frozen):
            for parameter in groups[group]:
                parameter.requires_grad_(False)
    learning = {id(p): p for p in objective.parameters() if p.requires_grad}
    players = []
    for name, groups in owned.items():
        trained = {group: [p for p in members if p.requires_grad] for group, members in groups.items()}
        trained = {group: members for group, members in trained.items() if members}
        if not trained:
            continue
        settings = {group: stage.settings(group) for group in trained}
        own = [parameter for members in trained.values() for parameter in members]
        others = [p for p in learning.values() if id(p) not in set(map(id, own))]
        optimizer = fabric.setup_optimizers(build_optimizer(trained, settings, fused=fused))
        alone = len(objective.players) == 1
        player = Player(name, alone, own, others, list(settings.values()), fabric, optimizer)
        with player.learning():
            player.objective = fabric.setup_module(objective)
        players.append(player)
    if not players:
        raise InputError(
            f"Stage {stage.name!r} has nothing to train: its objective has no parameters, or all are in "
            "`frozen`."
        )
    return players


def rest_frozen(objective: nn.Module) -> None:
    """Training mode, but evaluation mode for modules all of whose parameters are frozen."""
    objective.train()
    for module in objective.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
