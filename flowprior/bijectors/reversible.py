"""The gradient of a chain of invertible steps without its activations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.func import functional_call

from flowprior.tensors import without_autocast

_Named = dict[str, Tensor]
_Tensors = tuple[Tensor, ...]


def through_inverse(
    chain: nn.Module, value: Tensor, context: Tensor | None, to_base: bool
) -> tuple[Tensor, Tensor]:
    """`chain(value, context, to_base)`, whose backward pass goes back through the inverse, step by step.

    Only the results are kept. The gradients carry the rounding of the inverse. A gradient that is to be
    differentiated itself (`create_graph`), a compiler, a torch.func transform and forward mode see the chain
    as it is.

    Reference: Gomez et al., The Reversible Residual Network (2017), section 3.1.
    """
    if is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return chain(value, context, to_base)
    return _ThroughInverse.apply(chain, to_base, value, context, *chain.parameters())


class _ThroughInverse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chain: Any, to_base: bool, value: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        mapped, logabsdet = chain(value, context, to_base)
        ctx.chain, ctx.to_base = chain, to_base
        ctx.save_for_backward(mapped, value, context, *parameters)
        return mapped, logabsdet

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        mapped, value, context, *parameters = ctx.saved_tensors
        named = {name: each for (name, _), each in zip(ctx.chain.named_parameters(), parameters, strict=True)}
        again = torch.is_grad_enabled()
        with without_autocast(value.device.type):
            back, start = (_again, value) if again else (_by_step, mapped)
            return None, None, *back(ctx.chain, ctx.to_base, start, context, named, gradients)


def _again(
    chain: Any, to_base: bool, value: Tensor, context: Tensor | None, named: _Named, gradients: _Tensors
) -> list[Tensor | None]:
    """The gradients with a graph of their own, by a second run.

    It differentiates with respect to aliases of the inputs, on which only this run depends: the value itself
    may have been computed from the parameters.
    """
    value, seen = value.view_as(value), None if context is None else context.view_as(context)
    named = {name: parameter.view_as(parameter) for name, parameter in named.items()}
    results = functional_call(chain, named, (value, seen, to_base))
    return _gradients(results, (value, seen, *named.values()), gradients, create_graph=True)


def _by_step(
    chain: Any, to_base: bool, value: Tensor, context: Tensor | None, named: _Named, gradients: _Tensors
) -> list[Tensor | None]:
    """The gradients from the results, one step at a time; `gradients` are those of value and logabsdet."""
    gradient, of_logabsdet = gradients
    of_context: Tensor | None = None
    of_parameters: dict[str, Tensor | None] = {}
    for index in reversed(range(len(chain.steps))) if to_base else range(len(chain.steps)):
        step, home = _Step(chain, chain.steps[index]), f"steps.{index}."
        own = {name: each for name, each in named.items() if name.startswith(home)}
        leaves = {
            f"step.{name.removeprefix(home)}": each.detach().requires_grad_(each.requires_grad)
            for name, each in own.items()
        }
        with torch.no_grad():
            value, _ = functional_call(step, leaves, (value, context, not to_base))
        with torch.enable_grad():
            before = value.detach().requires_grad_()
            seen = None if context is None else context.detach().requires_grad_()
            results = functional_call(step, leaves, (before, seen, to_base))
            inputs = (before, seen, *leaves.values())
            gradient, more, *rest = _gradients(results, inputs, (gradient, of_logabsdet))
        if more is not None:
            of_context = more if of_context is None else of_context + more
        of_parameters |= zip(own, rest, strict=True)
    return [gradient, of_context, *(of_parameters[name] for name in named)]


class _Step(nn.Module):
    """One step of a chain in either direction, by a call."""

    def __init__(self, chain: Any, step: nn.Module) -> None:
        super().__init__()
        self.run, self.step = chain.run, step

    def forward(self, value: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        return self.run([self.step], value, context, to_base)


def _gradients(
    results: _Tensors, inputs: Sequence[Tensor | None], gradients: _Tensors, create_graph: bool = False
) -> list[Any]:
    """Of each input, None where it is absent or frozen or does not matter."""
    asked = [each for each in inputs if each is not None and each.requires_grad]
    pairs = [pair for pair in zip(results, gradients, strict=True) if pair[0].requires_grad]
    outputs, weights = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    answers = iter(torch.autograd.grad(outputs, asked, weights, create_graph=create_graph, allow_unused=True))
    return [next(answers) if each is not None and each.requires_grad else None for each in inputs]
