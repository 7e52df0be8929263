"""The fast path through affine couplings, actnorms and permutations.

Same mathematics as the steps themselves, which stay the owners of the parameters and the reference, with less
around it. Features are rows here, (D, N), so that each part of a coupling is a contiguous tensor of its own; a
permutation only renames rows, which move at most once between two couplings; one call gives shift and scale;
the log-determinant is one sum at the end.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.conditioner import AffineConditioner
from flowprior.bijectors.permutation import Permutation

# What may overwrite its input when that is a linear layer's output, which nobody else holds.
IN_PLACE: dict[type[nn.Module], Callable[[nn.Module, Tensor], Tensor]] = {
    nn.ReLU: lambda layer, h: torch.relu_(h),
    nn.LeakyReLU: lambda layer, h: F.leaky_relu_(h, layer.negative_slope),  # type: ignore[arg-type]
    nn.ELU: lambda layer, h: F.elu_(h, layer.alpha),  # type: ignore[arg-type]
    nn.Tanh: lambda layer, h: torch.tanh_(h),
}

# Rows of all features (D, N), or of the two parts of a coupling.
Rows = tuple[Tensor, ...]


class Split:
    """Whole -> the first rows, the others."""

    def __init__(self, first: int) -> None:
        self.first = first

    def to_base(self, rows: Rows, run: "Run") -> Rows:
        (whole,) = rows
        return whole[: self.first], whole[self.first :]

    def from_base(self, rows: Rows, run: "Run") -> Rows:
        return (torch.cat(rows),)


class Merge:
    """The two parts -> whole."""

    def __init__(self, first: int) -> None:
        self.undo = Split(first)

    def to_base(self, rows: Rows, run: "Run") -> Rows:
        return self.undo.from_base(rows, run)

    def from_base(self, rows: Rows, run: "Run") -> Rows:
        return self.undo.to_base(rows, run)


class Reorder:
    """Whole -> whole: row i becomes what row `order[i]` was."""

    def __init__(self, number: int) -> None:
        self.number = number

    def to_base(self, rows: Rows, run: "Run") -> Rows:
        return (rows[0].index_select(0, run.orders[self.number]),)

    def from_base(self, rows: Rows, run: "Run") -> Rows:
        return (rows[0].index_select(0, run.orders[self.number + 1]),)


class Scale:
    """An actnorm on whole rows; `number` is that of the order of the rows, None if it is the natural one."""

    def __init__(self, step: nn.Module, number: int | None) -> None:
        self.step = step
        self.number = number

    def to_base(self, rows: Rows, run: "Run") -> Rows:
        log_scale, shift = self._columns(run)
        return (torch.addcmul(shift, rows[0], log_scale.exp()),)

    def from_base(self, rows: Rows, run: "Run") -> Rows:
        log_scale, shift = self._columns(run)
        return ((rows[0] - shift) * log_scale.neg().exp(),)

    def _columns(self, run: "Run") -> tuple[Tensor, Tensor]:
        log_scale, shift = self.step.log_scale, self.step.shift
        run.row_free.append(log_scale)  # type: ignore[arg-type]
        if self.number is not None:
            order = run.orders[self.number]
            log_scale, shift = log_scale[order], shift[order]  # type: ignore[index]
        return log_scale.unsqueeze(1), shift.unsqueeze(1)  # type: ignore[operator]


class Couple:
    """An affine coupling on its two parts; `flipped` if it is the first one that it changes."""

    def __init__(self, conditioner: AffineConditioner, flipped: bool) -> None:
        self.flipped = flipped
        names = ("shift", "scale") if conditioner.separate else ("shift_and_scale",)
        # the live dictionaries, so that a layer replaced later is the one that is used
        self.networks = [conditioner.networks[name].layers._modules for name in names]
        self.sigmoid_scale = conditioner.sigmoid_scale
        self.shift_first = conditioner.shift_first
        self.tanh_outputs = conditioner.tanh_outputs
        self.limit = conditioner.log_scale_limit

    def to_base(self, rows: Rows, run: "Run") -> Rows:
        kept, changed = rows[::-1] if self.flipped else rows
        shift, scale = self._shift_and_scale(kept, run)
        changed = (changed + shift) * scale if self.shift_first else torch.addcmul(shift, changed, scale)
        return (changed, kept) if self.flipped else (kept, changed)

    def from_base(self, rows: Rows, run: "Run") -> Rows:
        kept, changed = rows[::-1] if self.flipped else rows
        shift, scale = self._shift_and_scale(kept, run)
        changed = changed / scale - shift if self.shift_first else (changed - shift) / scale
        return (changed, kept) if self.flipped else (kept, changed)

    def _shift_and_scale(self, kept: Tensor, run: "Run") -> tuple[Tensor, Tensor]:
        inputs = kept.t()
        if run.context is not None:
            inputs = torch.cat((inputs, run.context), dim=1)
        if len(self.networks) == 1:
            shift, s = _columns(self.networks[0], inputs).unsafe_chunk(2)
        else:
            shift, s = (_columns(layers, inputs) for layers in self.networks)
        if self.tanh_outputs:
            shift, s = shift.tanh(), s.tanh()
        if self.limit is not None:
            # c tanh(s / c) = 2 c sigmoid(2 s / c) - c: a tanh costs more than a sigmoid
            s = s if self.limit == 2.0 else s * (2.0 / self.limit)
            s = torch.add(run.number(-self.limit), s.sigmoid(), alpha=2.0 * self.limit)
        if self.sigmoid_scale:
            s = s + run.number(2.0)
            scale = s.sigmoid()
        else:
            scale = s.exp()
        run.scales.append(s)
        return shift, scale


class Run:
    """What the steps of one evaluation share and collect."""

    def __init__(self, value: Tensor, context: Tensor | None, orders: list[Tensor]) -> None:
        self.value = value
        self.context = context  # (N, C)
        self.orders = orders
        self.scales: list[Tensor] = []  # (rows, N): log-scales, or the arguments of their log-sigmoid
        self.row_free: list[Tensor] = []  # (D,): log-scales that are the same for every z
        self._numbers: dict[float, Tensor] = {}

    def number(self, value: float) -> Tensor:
        """`value` as a tensor: one a run instead of one an operation."""
        if value not in self._numbers:
            self._numbers[value] = self.value.new_full((), value)
        return self._numbers[value]

    def logabsdet(self, sigmoid_scale: bool) -> Tensor:
        """(N,) in the direction to base."""
        if not self.scales:
            total = self.value.new_zeros(self.value.shape[0])
        else:
            scales = torch.cat(self.scales)
            total = (F.logsigmoid(scales) if sigmoid_scale else scales).sum(0)
        return total + torch.cat(self.row_free).sum() if self.row_free else total


class Schedule(nn.Module):
    """The fast path of a cascade; `Schedule.of` makes one where there is one.

    It holds the steps without owning them: parameters are read from them at every evaluation. The order of
    the features is read from their buffers here, so that a schedule is made anew when these are loaded.
    """

    def __init__(self, steps: nn.ModuleList, features: int) -> None:
        super().__init__()
        self.program: list[Split | Merge | Reorder | Scale | Couple] = []
        self.owner = (steps,)  # in a tuple, so that they are not registered twice
        self.sigmoid_scale = False
        self.orders = 0
        self._schedule(list(steps), list(range(features)))
        called = [module for module in steps.modules() if not isinstance(module, nn.ModuleList | nn.ModuleDict)]
        self.hooks = [
            hooks
            for module in called
            for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        ]

    @classmethod
    def of(cls, steps: nn.ModuleList, features: int) -> "Schedule | None":
        """The schedule of these steps; None if one of them is not known here, or there is one feature."""
        couplings = [step for step in steps if _is_coupling(step)]
        known = all(_is_coupling(step) or isinstance(step, ActNormBase | Permutation) for step in steps)
        kinds = {step.transform_net.sigmoid_scale for step in couplings}  # type: ignore[union-attr]
        if not known or features == 1 or len(kinds) > 1:
            return None
        return cls(steps, features)

    def serves(self, steps: nn.Module) -> bool:
        """Whether it is for these steps, and none of their parts has a hook that must be called."""
        return self.owner[0] is steps and (torch.compiler.is_compiling() or not any(self.hooks))

    def to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (N, D), context (N, C) or None -> z0 (N, D), logabsdet (N,)."""
        run = self._run(z, context)
        rows: Rows = (z.t(),)
        for step in self.program:
            rows = step.to_base(rows, run)
        return rows[0].t().contiguous(), run.logabsdet(self.sigmoid_scale)

    def from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z0 (N, D), context (N, C) or None -> z (N, D), logabsdet (N,)."""
        run = self._run(z0, context)
        rows: Rows = (z0.t(),)
        for step in reversed(self.program):
            rows = step.from_base(rows, run)
        return rows[0].t().contiguous(), run.logabsdet(self.sigmoid_scale).neg()

    def _run(self, value: Tensor, context: Tensor | None) -> Run:
        return Run(value, context, list(self._buffers.values()))  # type: ignore[arg-type]

    def _schedule(self, steps: Sequence[nn.Module], order: list[int]) -> None:
        """Fill the program; `order` holds the feature that each row stands for."""
        natural = list(order)
        first: int | None = None  # rows in the first part, None while they are whole
        for step in steps:
            if isinstance(step, Permutation):
                place = {old: new for new, old in enumerate(step.permutation.tolist())}
                order = [place[feature] for feature in order]
                continue
            if isinstance(step, ActNormBase):
                first = self._merge(first)
                self.program.append(Scale(step, None if order == natural else self._order(order)))
                continue
            kept, changed = step.identity_features.tolist(), step.transform_features.tolist()  # type: ignore
            flipped = order == changed + kept
            if not (flipped or order == kept + changed):
                first = self._merge(first)
                flipped = natural == changed + kept  # rows in their own order need no move for an actnorm
                order = self._reorder(order, changed + kept if flipped else kept + changed)
            size = len(changed if flipped else kept)
            if first is not None and first != size:
                first = self._merge(first)
            if first is None:
                self.program.append(Split(size))
                first = size
            conditioner = step.transform_net
            self.program.append(Couple(conditioner, flipped))  # type: ignore[arg-type]
            self.sigmoid_scale = conditioner.sigmoid_scale  # type: ignore[union-attr,assignment]
        self._merge(first)
        self._reorder(order, natural)

    def _merge(self, first: int | None) -> None:
        if first is not None:
            self.program.append(Merge(first))

    def _reorder(self, order: list[int], wanted: list[int]) -> list[int]:
        if order != wanted:
            place = {feature: row for row, feature in enumerate(order)}
            self.program.append(Reorder(self._order([place[feature] for feature in wanted])))
        return wanted

    def _order(self, order: list[int]) -> int:
        """Keep an order of rows, and its inverse behind it; its number."""
        number = self.orders
        order_ = torch.tensor(order)
        for index in (order_, order_.argsort()):
            self.register_buffer(f"order{self.orders}", index, persistent=False)
            self.orders += 1
        return number


def _columns(layers: dict[str, nn.Module | None], h: Tensor) -> Tensor:
    """A network on h (N, inputs), its outputs as rows (outputs, N)."""
    *inner, last = layers.values()
    linear = False
    for layer in inner:
        kind = type(layer)
        if kind is nn.Linear:
            h = F.linear(h, layer._parameters["weight"], layer._parameters["bias"])  # type: ignore
            linear = True
        else:
            activate = IN_PLACE.get(kind) if linear else None  # type: ignore[arg-type]
            h = layer(h) if activate is None else activate(layer, h)  # type: ignore
            linear = False
    if type(last) is not nn.Linear:
        return last(h).t()  # type: ignore[misc]
    weight, bias = last._parameters["weight"], last._parameters["bias"]
    return torch.addmm(bias.unsqueeze(1), weight, h.t())  # type: ignore


def _is_coupling(step: nn.Module) -> bool:
    """Whether `step` is this library's affine coupling on nflows, with something to read."""
    from flowprior.bijectors.nflows_backend import AffineCoupling

    return (
        type(step) is AffineCoupling
        and type(step.transform_net) is AffineConditioner
        and step.unconditional_transform is None
        and all(len(network.layers) > 0 for network in step.transform_net.networks.values())
    )
