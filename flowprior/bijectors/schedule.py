"""The fast path through affine couplings, actnorms and permutations.

Same mathematics as the steps themselves, which stay the owners of the parameters and the reference, with less
around it: the parts of a coupling are tensors of their own; a permutation only renames columns, which move at
most once between two couplings; one call gives shift and scale; the log-determinant is one sum at the end;
and the gradient of all of it is one node of the graph. On request that node keeps only its results, and gets
back to what the gradient needs through the inverse.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.conditioner import AffineConditioner
from flowprior.bijectors.permutation import Permutation
from flowprior.bijectors.schedule_steps import Columns, Couple, Merge, Reorder, Run, Scale, Split
from flowprior.tensors import without_autocast


class Schedule(nn.Module):
    """The fast path of a cascade; `Schedule.of` makes one where there is one.

    It holds the steps without owning them: parameters are read from them at every evaluation. The order of
    the features is read from their buffers here, so a schedule is made anew when these are loaded.

    A `reversible` one keeps no activations for its gradient, whatever the depth: the backward pass computes
    them again, from the results through the inverse. Its gradients then carry the rounding of the inverse.

    Reference: Gomez et al., The Reversible Residual Network (2017), section 3.1.
    """

    def __init__(self, steps: nn.ModuleList, features: int, reversible: bool = False) -> None:
        super().__init__()
        self.reversible = reversible
        self.program: list[Split | Merge | Reorder | Scale | Couple] = []
        self.owner = (steps,)  # in a tuple, so that they are not registered twice
        self.sigmoid_scale = False
        self._schedule(list(steps), list(range(features)))
        called = [
            module for module in steps.modules() if not isinstance(module, nn.ModuleList | nn.ModuleDict)
        ]
        self.hooks = [
            hooks
            for module in called
            for hooks in (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._backward_hooks,
                module._backward_pre_hooks,
            )
        ]

    @classmethod
    def of(cls, steps: nn.ModuleList, features: int, reversible: bool = False) -> "Schedule | None":
        """The schedule of these steps; None if one of them is not known here, or there is one feature."""
        couplings: list[Any] = [step for step in steps if _is_coupling(step)]
        known = all(_is_coupling(step) or isinstance(step, ActNormBase | Permutation) for step in steps)
        kinds = {step.transform_net.sigmoid_scale for step in couplings}
        return cls(steps, features, reversible) if known and features > 1 and len(kinds) <= 1 else None

    @property
    def has_own_gradient(self) -> bool:
        """Whether the gradient of every layer is known here, as a reversible run needs."""
        return self._parameters_met(True) is not None

    def serves(self, steps: nn.Module) -> bool:
        """Whether it is for these steps, and none of their parts has a hook that must be called.

        A compiled call does not look for hooks, as `torch.compile` itself does not.
        """
        return self.owner[0] is steps and (torch.compiler.is_compiling() or not any(self.hooks))

    def to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (N, D), context (N, C) or None -> z0 (N, D), logabsdet (N,)."""
        return self._map(True, z, context)

    def from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z0 (N, D), context (N, C) or None -> z (N, D), logabsdet (N,)."""
        return self._map(False, z0, context)

    def _map(self, to_base: bool, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        parameters = (
            self._parameters_met(to_base) if torch.is_grad_enabled() and _is_plain_autograd() else None
        )
        if parameters is None:
            return self.run(to_base, value, context)
        return _OneNode.apply(self, to_base, value, context, *parameters)

    def run(
        self,
        to_base: bool,
        value: Tensor,
        context: Tensor | None,
        parameters: Sequence[Tensor] | None = None,
        tape: list[Tensor] | None = None,
        summing: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The evaluation itself, with the modules' own parameters if they are not given.

        What the gradient needs goes to `tape`. If it is `summing`, the log-determinant is summed up step by
        step, which takes more calls and no memory.
        """
        run = Run(value, context, self._orders(), parameters, tape)
        columns: Columns = (value,)
        for step in self.program if to_base else reversed(self.program):
            columns = (step.to_base if to_base else step.from_base)(columns, run)
            if summing and isinstance(step, Couple | Scale):
                run.sum_up(self.sigmoid_scale)
        logabsdet = run.logabsdet(self.sigmoid_scale)
        return columns[0], logabsdet if to_base else -logabsdet

    def gradient(
        self,
        to_base: bool,
        context: Tensor | None,
        parameters: Sequence[Tensor],
        tape: list[Tensor],
        mapped: Tensor,
        logabsdet: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """The gradients of value, context and parameters, from those of the results of `run`."""
        run = Run(mapped, context, self._orders(), parameters[::-1], tape)
        columns: Columns = (mapped,)
        logabsdet = logabsdet.unsqueeze(1)
        for step in reversed(self.program) if to_base else self.program:
            columns = step.gradient(to_base, columns, logabsdet, run)
        return columns[0], run.context_gradient, *reversed(run.parameter_gradients)

    def gradient_by_inverse(
        self,
        to_base: bool,
        context: Tensor | None,
        parameters: Sequence[Tensor],
        results: Tensor,
        mapped: Tensor,
        logabsdet: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """As `gradient`, from the results of a run (N, D) instead of its tape."""
        run = Run(mapped, context, self._orders(), tape=[])
        values: Columns = (results,)
        columns: Columns = (mapped,)
        left = list(parameters)
        logabsdet = logabsdet.unsqueeze(1)
        for step in reversed(self.program) if to_base else self.program:
            own: list[Tensor] = []
            if isinstance(step, Couple | Scale):
                first = len(left) - len(step.parameters() or ())
                own = left[first:]
                del left[first:]
            run.parameters = iter(own)
            values = (step.from_base if to_base else step.to_base)(values, run)
            run.scales.clear()
            run.shared.clear()
            run.parameters = iter(own[::-1])
            columns = step.gradient(to_base, columns, logabsdet, run)
        return columns[0], run.context_gradient, *reversed(run.parameter_gradients)

    def _orders(self) -> list[Tensor]:
        return list(self._buffers.values())  # type: ignore[arg-type]

    def _parameters_met(self, to_base: bool) -> list[Tensor] | None:
        """The parameters in the order of a run; None if a layer's gradient is not known."""
        found: list[Tensor] = []
        for step in self.program if to_base else reversed(self.program):
            if isinstance(step, Couple | Scale):
                parameters = step.parameters()
                if parameters is None:
                    return None
                found += parameters
        return found

    def _schedule(self, steps: Sequence[Any], order: list[int]) -> None:
        """Fill the program; `order` holds the feature that each column stands for."""
        natural = list(order)
        first: int | None = None  # columns in the first part, None while they are whole
        for step in steps:
            if isinstance(step, Permutation):
                place = {old: new for new, old in enumerate(step.permutation.tolist())}
                order = [place[feature] for feature in order]
                continue
            if isinstance(step, ActNormBase):
                self._merge(first)
                first = None
                self.program.append(Scale(step, None if order == natural else self._order(order)))
                continue
            kept, changed = step.identity_features.tolist(), step.transform_features.tolist()
            flipped = order == changed + kept
            if not flipped and order != kept + changed:
                self._merge(first)
                first = None
                flipped = natural == changed + kept  # in their own order actnorms need no indexing
                order = self._reorder(order, changed + kept if flipped else kept + changed)
            size = len(changed if flipped else kept)
            if first != size:
                self._merge(first)
                self.program.append(Split(size))
                first = size
            self.program.append(Couple(step.transform_net, flipped))
            self.sigmoid_scale = step.transform_net.sigmoid_scale
        self._merge(first)
        self._reorder(order, natural)

    def _merge(self, first: int | None) -> None:
        """Append what makes the columns whole, unless they are (`first` is None)."""
        if first is not None:
            self.program.append(Merge(first))

    def _reorder(self, order: list[int], wanted: list[int]) -> list[int]:
        if order != wanted:
            place = {feature: column for column, feature in enumerate(order)}
            self.program.append(Reorder(self._order([place[feature] for feature in wanted])))
        return wanted

    def _order(self, order: list[int]) -> int:
        """Keep an order of columns, and its inverse behind it; its number."""
        number = len(self._buffers)
        index = torch.tensor(order)
        self.register_buffer(f"order{number}", index, persistent=False)
        self.register_buffer(f"order{number + 1}", index.argsort(), persistent=False)
        return number


class _OneNode(torch.autograd.Function):
    """A schedule's run as one node of the graph, with its gradient by hand.

    Where the gradient itself is to be differentiated, it is taken by autograd through the same run.
    """

    @staticmethod
    def forward(
        ctx: Any,
        schedule: Schedule,
        to_base: bool,
        value: Tensor,
        context: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tape: list[Tensor] = []
        if schedule.reversible:
            results = schedule.run(to_base, value, context, parameters, summing=True)
            tape.append(results[0])
        else:
            results = schedule.run(to_base, value, context, parameters, tape)
        ctx.schedule, ctx.to_base = schedule, to_base
        ctx.conditional = context is not None
        ctx.inputs = 1 + ctx.conditional + len(parameters)
        ctx.save_for_backward(*(() if context is None else (context,)), *tape, value, *parameters)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(gradients[0].device.type):
            return _OneNode._backward(ctx, gradients)

    @staticmethod
    def _backward(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        context = saved.pop(0) if ctx.conditional else None
        schedule, to_base = ctx.schedule, ctx.to_base
        inputs = saved[len(saved) - (ctx.inputs - ctx.conditional) :]
        if torch.is_grad_enabled():
            every = (inputs[0], context, *inputs[1:])
            asked = [tensor for tensor in every if tensor is not None and tensor.requires_grad]
            results = schedule.run(to_base, inputs[0], context, inputs[1:])
            of_asked = iter(
                torch.autograd.grad(results, asked, gradients, create_graph=True, allow_unused=True)
            )
            return None, None, *(next(of_asked) if t is not None and t.requires_grad else None for t in every)
        del saved[len(saved) - len(inputs) :]
        if schedule.reversible:
            (result,) = saved
            found = schedule.gradient_by_inverse(to_base, context, inputs[1:], result, *gradients)
        else:
            found = schedule.gradient(to_base, context, inputs[1:], saved, *gradients)
        return None, None, *found


def _is_plain_autograd() -> bool:
    """Whether gradients are those of autograd alone: no compiler, torch.func transform or forward mode."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _is_coupling(step: Any) -> bool:
    """Whether `step` is this library's affine coupling on nflows, with something to read."""
    from flowprior.bijectors.nflows_backend import AffineCoupling

    return (
        type(step) is AffineCoupling
        and type(step.transform_net) is AffineConditioner
        and step.unconditional_transform is None
        and all(network.constant is None for network in step.transform_net.networks.values())
    )
