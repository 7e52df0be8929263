"""When a number is not finite: which step, which term, which module."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.objectives import Objective


def find_fault(
    objective: Objective, player: str, batch: Mapping[str, Tensor], step: int, autocast: Callable[[], Any]
) -> str:
    """The first thing that is not finite in a step, which is repeated, in words.

    In the order of cause and effect: the batch, parameters and buffers, outputs of modules in the order of
    the forward pass, the named losses, gradients in the order of the backward pass.
    """
    for name, tensor in batch.items():
        if not _finite(tensor):
            rows = (~tensor.isfinite()).reshape(len(tensor), -1).any(1)
            return f'batch "{name}" ({int(rows.sum())} of {len(tensor)} rows)'
    for name, tensor in [*objective.named_parameters(), *objective.named_buffers()]:
        if not _finite(tensor):
            owner = _spell(objective, name.rpartition(".")[0])
            return f'"{name}" of {owner} before the step'
    with _Watch(objective) as watch, autocast():
        terms = objective.losses(player, batch, step)
    bad = [name for name, value in terms.items() if not _finite(value)]
    if bad:
        source = watch.output or f"{type(objective).__name__} itself: every submodule's output is finite"
        return f"the loss {', '.join(map(repr, bad))}, first seen in {source}"
    parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(terms["loss"], list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and not _finite(gradient):
            source = watch.gradient or _spell(objective, name.rpartition(".")[0])
            return f'the gradient of the loss for "{name}", first seen in {source}'
    return "a loss or gradient of another process, or one that a repetition of the step does not show again"


class _Watch(ExitStack):
    """Hooks on every submodule that note the first output, and the first gradient, that is not finite."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.output = self.gradient = ""
        for name, module in objective.named_modules():
            if module is not objective:
                handle = module.register_forward_hook(self._hook(_spell(objective, name)))
                self.callback(handle.remove)

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def on_gradient(gradient: Tensor) -> None:
            if not self.gradient and not _finite(gradient):
                self.gradient = f"the gradient that reaches the output of {name}"

        def on_output(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if not self.output and not _finite(tensor):
                    self.output = f"the output of {name}"
                if tensor.requires_grad:
                    tensor.register_hook(on_gradient)

        return on_output


def _tensors(value: Any) -> Iterable[Tensor]:
    items = value if isinstance(value, tuple | list) else [value]
    return [item for item in items if isinstance(item, Tensor)]


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _spell(objective: nn.Module, path: str) -> str:
    return f"module `{path or '(objective)'}` ({type(objective.get_submodule(path)).__name__})"
