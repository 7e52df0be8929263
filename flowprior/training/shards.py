"""Sharded weights (FSDP): how an objective is sharded, and how its parameters become whole again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class _Unit(nn.Module):
    """What is sharded in an objective's place, so that the objective itself stays as it is."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *arguments: Any) -> Any:
        return self.objective(*arguments)


def shard(objective: nn.Module, mesh: Any) -> Any:
    """`objective` as one unit whose parameters are gathered for each forward and backward pass.

    One unit, since objectives call methods of their models (`encode`, `log_prob`), which hooks of smaller
    units would miss.
    """
    from torch.distributed.fsdp import fully_shard

    # A pass without gradient would otherwise leave parameters gathered, and the next one miss updates.
    return fully_shard(_Unit(objective), mesh=mesh["data_parallel"], reshard_after_forward=True)


class Shards:
    """The plain parameters of a module that is about to be sharded; if not `active`, nothing is done."""

    def __init__(self, module: nn.Module, active: bool) -> None:
        self.active = active
        owners = list(module.modules()) if active else []
        self.slots = [(o, name, p) for o in owners for name, p in o._parameters.items() if p is not None]
        self.hooks = [(o._load_state_dict_post_hooks, {*o._load_state_dict_post_hooks}) for o in owners]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the module has whole, plain parameters; what is written to them is lost afterwards.

        Every process must enter it.
        """
        sharded = [owner._parameters[name] for owner, name, _ in self.slots]
        self.end()
        try:
            yield
        finally:
            for (owner, name, plain), shards in zip(self.slots, sharded, strict=True):
                owner._parameters[name] = shards
                plain.data = plain.data.new_empty(0)

    def end(self) -> None:
        """Give the module back its plain parameters, with the values that the shards have."""
        for owner, name, plain in self.slots:
            plain.data = whole(owner._parameters[name]).detach()
        for owner, name, plain in self.slots:
            owner._parameters[name] = plain
        for hooks, before in self.hooks:  # those that FSDP left expect shards
            for key in hooks.keys() - before:
                del hooks[key]


def whole(tensor: Any) -> Tensor:
    """All of a sharded tensor, in every process; another one as it is."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as `like` is if that is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
