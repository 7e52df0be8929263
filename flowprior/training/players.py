"""The players of a stage: parameters, optimizer, learning rates, gradients over processes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.training.optimizers import OptimizerSettings, build_optimizer
from flowprior.training.stages import Stage


@dataclass
class Player:
    """One player of an objective, ready to be stepped."""

    name: str
    alone: bool  # the only one of its objective
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    settings: list[OptimizerSettings]  # one for each torch parameter group
    fabric_optimizer: Any = field(repr=False)

    def __post_init__(self) -> None:
        # Beside other players, the loss must not leave gradients in their parameters.
        self.only: dict[str, Any] = {} if self.alone else {"inputs": self.parameters}

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

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )


def build_players(stage: Stage, fabric: Any, fused: bool) -> list[Player]:
    """The players of a stage that have something to train; frozen groups stop asking for gradients.

    Raises:
        InputError: if nothing is left to train, or a group has no optimizer settings.
    """
    players = []
    objective = stage.objective
    for name in objective.players:
        groups = {}
        for group, parameters in objective.parameter_groups(name).items():
            if group in stage.frozen:
                for parameter in parameters:
                    parameter.requires_grad_(False)
            wanted = [parameter for parameter in parameters if parameter.requires_grad]
            if wanted:
                groups[group] = wanted
        if not groups:
            continue
        settings = {group: stage.settings(group) for group in groups}
        optimizer = build_optimizer(groups, settings, fused=fused)
        players.append(
            Player(
                name,
                len(objective.players) == 1,
                [parameter for parameters in groups.values() for parameter in parameters],
                optimizer,
                list(settings.values()),
                fabric.setup_optimizers(optimizer),
            )
        )
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


def average_over_processes(tensors: list[Tensor], fabric: Any) -> None:
    """Replace tensors by their means over the processes, in one message: shares of a batch are equal."""
    if fabric.world_size == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    flat = fabric.all_reduce(flat, reduce_op="mean")
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def copy_from_first_process(module: nn.Module, fabric: Any) -> None:
    """Parameters and buffers of process 0, for all: batch statistics are per process until then."""
    if fabric.world_size > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            torch.distributed.broadcast(tensor.detach(), src=0)


def gather_over_processes(tensor: Tensor, fabric: Any) -> list[Tensor]:
    """The tensors of all processes, in order."""
    if fabric.world_size == 1:
        return [tensor]
    own = tensor.to(fabric.device)
    gathered = [torch.empty_like(own) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(gathered, own)
    return gathered
