"""A cascade for inference alone: a copy of its numbers, with what does not depend on z worked out before.

Actnorms go into the weights of the couplings behind them, weights are stored as the products read them, and
nothing is asked of modules any more. What an actnorm does to a feature is carried along as scale u + shift,
where u is what is computed: a conditioner that reads the feature takes both into its first layer, a coupling
that scales value + t takes the shift into the last layer of t. Elsewhere, and at the end, they are applied.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.cascade import Cascade
from flowprior.bijectors.conditioner import ACTIVATIONS
from flowprior.bijectors.schedule_steps import ACTIVATE, Columns, Couple, Merge, Reorder, Run, Scale, Split
from flowprior.errors import InputError


class FoldedCascade(nn.Module):
    """`to_base` and `from_base` of a cascade with a schedule, as they are now, without its modules.

    Later changes of the cascade do not reach it. Gradients reach z and the context; parameters it has none,
    nor a state dict.

    Args:
        bijector: affine couplings, actnorms and permutations that have a schedule.

    Raises:
        InputError: if there is no schedule, or a conditioner is not made of plain layers.
    """

    def __init__(self, bijector: Bijector) -> None:
        super().__init__()
        schedule = bijector.schedule if isinstance(bijector, Cascade) else None
        if schedule is None:
            raise InputError(
                f"`bijector` (a {type(bijector).__name__}) has nothing to fold: that takes an affine recipe, "
                "the backend 'nflows' and at least two features; use the prior as it is."
            )
        self.sigmoid_scale = schedule.sigmoid_scale
        self.orders = [order.clone() for order in schedule.buffers()]
        own = next(bijector.parameters())
        one = torch.ones(1, bijector.features, dtype=torch.float64, device=own.device)
        self.program, self.constant = _fold(schedule.program, self.orders, one)
        self.to(own.dtype)

    def to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (N, D), context (N, C) or None -> z0 (N, D), logabsdet (N,)."""
        return self._map(True, z, context)

    def from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z0 (N, D), context (N, C) or None -> z (N, D), logabsdet (N,)."""
        return self._map(False, z0, context)

    def _map(self, to_base: bool, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        run = Run(value, context, self.orders)
        columns: Columns = (value,)
        for step in self.program if to_base else reversed(self.program):
            columns = (step.to_base if to_base else step.from_base)(columns, run)
        logabsdet = run.logabsdet(self.sigmoid_scale)
        if self.constant is not None:
            logabsdet = logabsdet + self.constant
        return columns[0], logabsdet if to_base else -logabsdet

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FoldedCascade":
        """What `to`, `double`, ... do to the tensors."""
        self.orders = [fn(order) for order in self.orders]
        self.constant = None if self.constant is None else fn(self.constant)
        for step in self.program:
            if isinstance(step, FoldedCouple | Affine):
                step.convert(fn)
        return super()._apply(fn, recurse)


class Affine:
    """value = scale u + shift, of the columns of a part (0 also where they are whole)."""

    def __init__(self, scale: Tensor, shift: Tensor, part: int = 0) -> None:
        self.scale, self.shift, self.part = scale, shift, part

    def to_base(self, columns: Columns, run: Run) -> Columns:
        return self._replaced(columns, torch.addcmul(self.shift, columns[self.part], self.scale))

    def from_base(self, columns: Columns, run: Run) -> Columns:
        return self._replaced(columns, (columns[self.part] - self.shift) / self.scale)

    def convert(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.scale, self.shift = fn(self.scale), fn(self.shift)

    def _replaced(self, columns: Columns, mapped: Tensor) -> Columns:
        return (*columns[: self.part], mapped, *columns[self.part + 1 :])


class FoldedCouple(Couple):
    """A coupling with tensors of its own; a layer is [weight (in, out), bias, activation or None]."""

    def __init__(self, couple: Couple, dtype: torch.dtype) -> None:
        vars(self).update(vars(couple))
        self.layers = [_plain_layers(network.values(), dtype) for network in couple.networks]
        self.networks = []
        self.absorbs = self.shift_first and not self.tanh_outputs
        if self.limit is None and not self.tanh_outputs:
            bias = self.layers[-1][-1][1]  # its last outputs are the log-scales
            bias[len(bias) // 2 if len(self.layers) == 1 else 0 :] += self.offset
            self.offset = 0.0

    def read(self, scale: Tensor, shift: Tensor) -> None:
        """Let the conditioner read u for scale u + shift, both (1, kept)."""
        size = scale.shape[1]
        for network in self.layers:
            weight, bias, _ = network[0]
            bias += (shift @ weight[:size])[0]
            weight[:size] *= scale.t()

    def absorb(self, scale: Tensor, shift: Tensor) -> None:
        """Let t' + u, times `scale`, be t + scale u + shift, both (1, changed)."""
        size = scale.shape[1]
        weight, bias, _ = self.layers[0][-1]  # its first outputs are the shifts
        weight[:, :size] /= scale
        bias[:size] += shift[0]
        bias[:size] /= scale[0]

    def convert(self, fn: Callable[[Tensor], Tensor]) -> None:
        for network in self.layers:
            for layer in network:
                layer[:2] = fn(layer[0]), fn(layer[1])

    def _outputs(self, inputs: Tensor, run: Run) -> list[Tensor]:
        found = []
        for network in self.layers:
            h = inputs
            for weight, bias, activation in network:
                h = torch.addmm(bias, h, weight)
                if activation is not None:
                    activate = ACTIVATE.get(type(activation))
                    h = activation(h) if activate is None else activate(activation, h)
            found.append(h)
        return found


Step = Split | Merge | Reorder | FoldedCouple | Affine


@torch.no_grad()
def _fold(program: Sequence[Any], orders: list[Tensor], one: Tensor) -> tuple[list[Step], Tensor | None]:
    """The program without actnorms, and their log-determinant; `one` (1, D) is of the dtype to work in."""
    run = Run(one, None, orders)
    scales: list[Tensor] = [one]  # what is carried: the steps move it as they move the columns
    shifts: list[Tensor] = [torch.zeros_like(one)]
    folded: list[Step] = []
    constant: Tensor | None = None

    def apply(part: int) -> None:
        if bool((scales[part] != 1).any() or (shifts[part] != 0).any()):
            folded.append(Affine(scales[part], shifts[part], part))
            scales[part], shifts[part] = torch.ones_like(scales[part]), torch.zeros_like(shifts[part])

    for step in program:
        if isinstance(step, Scale):
            log_scale, shift = step.step.log_scale.to(one.dtype), step.step.shift.to(one.dtype)
            constant = log_scale.sum() if constant is None else constant + log_scale.sum()
            order = slice(None) if step.number is None else orders[step.number]
            scale = log_scale[order].exp()
            scales, shifts = [scales[0] * scale], [shifts[0] * scale + shift[order]]
        elif isinstance(step, Couple):
            couple = FoldedCouple(step, one.dtype)
            kept, changed = (1, 0) if step.flipped else (0, 1)
            couple.read(scales[kept], shifts[kept])
            if couple.absorbs:
                couple.absorb(scales[changed], shifts[changed])
                shifts[changed] = torch.zeros_like(shifts[changed])
            else:
                apply(changed)
            folded.append(couple)
        else:
            scales, shifts = ([*step.to_base(tuple(each), run)] for each in (scales, shifts))
            last = folded[-1] if folded else None
            if isinstance(step, Split) and isinstance(last, Merge) and last.undo.first == step.first:
                folded.pop()  # there was only an actnorm between
            else:
                folded.append(step)
    apply(0)
    return folded, constant


def _plain_layers(layers: Iterable[nn.Module], dtype: torch.dtype) -> list[list[Any]]:
    """[weight (in, out), bias, the activation behind it or None] of each linear layer, copied.

    Raises:
        InputError: if there are other layers.
    """
    found: list[list[Any]] = []
    linear = False
    for layer in layers:
        if type(layer) is nn.Linear and len(layer._parameters) == 2 and layer.bias is not None and not linear:
            weight = layer.weight.detach().to(dtype, copy=True).t().contiguous()
            found.append([weight, layer.bias.detach().to(dtype, copy=True), None])
        elif linear and type(layer) in ACTIVATIONS.values():
            found[-1][2] = copy.deepcopy(layer)
        else:
            raise InputError(
                f"`bijector` has a layer of its own in a conditioner ({type(layer).__name__}), which has no "
                "folded form: remove its parametrization, or use the prior as it is."
            )
        linear = not linear
    return found
