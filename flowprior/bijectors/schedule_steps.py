"""The steps of a schedule: what each does to the features, and to their gradients.

Every step maps columns to columns, whole (N, D) or in two parts, in both directions, and takes gradients back
through either (`gradient`, by hand: autograd's bookkeeping costs more than the arithmetic at common sizes).
What the gradient needs is saved on the run's tape, and loaded from its end. Both directions save the same, so
that the inverse of a step, from its results, makes the tape of the step itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowprior.bijectors.conditioner import AffineConditioner

aten = torch.ops.aten

# All features (N, D), or the two parts of a coupling.
Columns = tuple[Tensor, ...]
Layers = dict[str, Any]  # the live dictionary of an nn.Sequential: a layer replaced later is the one used

# Activations that may overwrite a linear layer's output, and their gradients from their own output h, which
# may overwrite that of h: memory that was just used is nearer than new memory.
ACTIVATE: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.ReLU: lambda layer, h: torch.relu_(h),
    nn.LeakyReLU: lambda layer, h: F.leaky_relu_(h, layer.negative_slope),
    nn.ELU: lambda layer, h: F.elu_(h, layer.alpha),
    nn.Tanh: lambda layer, h: torch.tanh_(h),
}
ACTIVATION_GRADIENT: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda layer, g, h: aten.threshold_backward.grad_input(g, h, 0, grad_input=g),
    nn.LeakyReLU: lambda layer, g, h: aten.leaky_relu_backward.grad_input(
        g, h, layer.negative_slope, True, grad_input=g
    ),
    nn.ELU: lambda layer, g, h: aten.elu_backward.grad_input(g, layer.alpha, 1, 1, True, h, grad_input=g),
    nn.Tanh: lambda layer, g, h: aten.tanh_backward.grad_input(g, h, grad_input=g),
}


class Run:
    """What the steps share and collect in one evaluation, or in taking its gradient."""

    def __init__(
        self,
        value: Tensor,
        context: Tensor | None,
        orders: Sequence[Tensor],
        parameters: Sequence[Tensor] | None = None,
        tape: list[Tensor] | None = None,
    ) -> None:
        self.value = value
        self.context = context  # (N, C)
        self.orders = orders
        self.parameters = None if parameters is None else iter(parameters)  # None: ask the modules
        self.tape = tape  # None where autograd records, or nobody asks for gradients
        self.scales: list[Tensor] = []  # (N, columns): log-scales, or the arguments of their log-sigmoid
        self.shared: list[Tensor] = []  # (D,): log-scales that are the same for every z
        self.summed: Tensor | None = None  # (N,): the log-determinant of what was collected and dropped
        self.parameter_gradients: list[Tensor | None] = []  # last parameter first
        self.context_gradient: Tensor | None = None
        self._numbers: dict[float, Tensor] = {}

    def number(self, value: float) -> Tensor:
        """`value` as a tensor: one a run instead of one an operation."""
        if value not in self._numbers:
            self._numbers[value] = self.value.new_full((), value)
        return self._numbers[value]

    def next_parameters(self) -> tuple[Tensor, Tensor]:
        """The two of the next layer, for a run that was given its parameters."""
        parameters: Any = self.parameters
        return next(parameters), next(parameters)

    def save(self, *tensors: Tensor) -> None:
        if self.tape is not None:
            self.tape += tensors

    def load(self) -> Tensor:
        """The last tensor that was saved and not yet loaded."""
        return self.tape.pop()  # type: ignore[union-attr]

    def logabsdet(self, sigmoid_scale: bool) -> Tensor:
        """(N,) in the direction to base."""
        if not self.scales:
            total = self.value.new_zeros(self.value.shape[0]) if self.summed is None else self.summed
        else:
            scales = torch.cat(self.scales, dim=1)
            total = (F.logsigmoid(scales) if sigmoid_scale else scales).sum(1)
            total = total if self.summed is None else self.summed + total
        return total + torch.cat(self.shared).sum() if self.shared else total

    def sum_up(self, sigmoid_scale: bool) -> None:
        """Drop what was collected for the log-determinant, and keep its sum."""
        self.summed = self.logabsdet(sigmoid_scale)
        self.scales.clear()
        self.shared.clear()


class Split:
    """Whole -> the first columns, the others."""

    def __init__(self, first: int) -> None:
        self.first = first

    def to_base(self, columns: Columns, run: Run) -> Columns:
        (whole,) = columns
        return whole.split_with_sizes((self.first, whole.shape[1] - self.first), 1)

    def from_base(self, columns: Columns, run: Run) -> Columns:
        return (torch.cat(columns, dim=1),)

    def gradient(self, to_base: bool, columns: Columns, logabsdet: Tensor, run: Run) -> Columns:
        return self.from_base(columns, run) if to_base else self.to_base(columns, run)


class Merge:
    """The two parts -> whole."""

    def __init__(self, first: int) -> None:
        self.undo = Split(first)

    def to_base(self, columns: Columns, run: Run) -> Columns:
        return self.undo.from_base(columns, run)

    def from_base(self, columns: Columns, run: Run) -> Columns:
        return self.undo.to_base(columns, run)

    def gradient(self, to_base: bool, columns: Columns, logabsdet: Tensor, run: Run) -> Columns:
        return self.undo.gradient(not to_base, columns, logabsdet, run)


class Reorder:
    """Whole -> whole: column i becomes what column `orders[number][i]` was; the inverse is behind it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def to_base(self, columns: Columns, run: Run) -> Columns:
        return (columns[0].index_select(1, run.orders[self.number]),)

    def from_base(self, columns: Columns, run: Run) -> Columns:
        return (columns[0].index_select(1, run.orders[self.number + 1]),)

    def gradient(self, to_base: bool, columns: Columns, logabsdet: Tensor, run: Run) -> Columns:
        return self.from_base(columns, run) if to_base else self.to_base(columns, run)


class Scale:
    """An actnorm on whole columns; `number` is that of their order, None if it is the features' own."""

    def __init__(self, step: nn.Module, number: int | None) -> None:
        self.step: Any = step
        self.number = number

    def parameters(self) -> list[Tensor] | None:
        return [self.step.log_scale, self.step.shift]

    def to_base(self, columns: Columns, run: Run) -> Columns:
        log_scale, shift = self._in_order(run)
        scale = log_scale.exp()
        run.save(columns[0], scale)
        return (torch.addcmul(shift, columns[0], scale),)

    def from_base(self, columns: Columns, run: Run) -> Columns:
        log_scale, shift = self._in_order(run)
        scale = log_scale.exp()
        mapped = (columns[0] - shift) / scale
        run.save(mapped, scale)
        return (mapped,)

    def gradient(self, to_base: bool, columns: Columns, logabsdet: Tensor, run: Run) -> Columns:
        scale, z = run.load(), run.load()
        run.next_parameters()
        (g,) = columns
        back = g * scale if to_base else g / scale
        log_scale = torch.mul(back if to_base else g, z).sum(0) + logabsdet.sum()
        shift = (g if to_base else back).sum(0)
        if self.number is not None:
            undo = run.orders[self.number + 1]
            log_scale, shift = log_scale[undo], shift[undo]
        run.parameter_gradients += (shift, log_scale) if to_base else (-shift, -log_scale)
        return (back,)

    def _in_order(self, run: Run) -> tuple[Tensor, Tensor]:
        if run.parameters is None:
            log_scale, shift = self.step.log_scale, self.step.shift
        else:
            log_scale, shift = run.next_parameters()
        run.shared.append(log_scale)
        if self.number is not None:
            order = run.orders[self.number]
            log_scale, shift = log_scale[order], shift[order]
        return log_scale, shift


class Couple:
    """An affine coupling on its two parts; `flipped` if it is the first one that it changes."""

    def __init__(self, conditioner: AffineConditioner, flipped: bool) -> None:
        self.flipped = flipped
        names = ("shift", "scale") if conditioner.separate else ("shift_and_scale",)
        self.networks: list[Layers] = [conditioner.networks[name].layers._modules for name in names]  # type: ignore
        self.sigmoid_scale = conditioner.sigmoid_scale
        self.offset = 2.0 if conditioner.sigmoid_scale else 0.0  # of the log-sigmoid's argument
        self.shift_first = conditioner.shift_first
        self.tanh_outputs = conditioner.tanh_outputs
        self.limit = conditioner.log_scale_limit

    def parameters(self) -> list[Tensor] | None:
        """In the order in which a run meets them; None if a layer is one whose gradient is not known here."""
        found: list[Tensor] = []
        for layers in self.networks:
            linear = False
            for layer in layers.values():
                if type(layer) is nn.Linear and len(layer._parameters) == 2 and not linear:
                    found += layer._parameters.values()  # type: ignore[arg-type]
                elif type(layer) not in ACTIVATION_GRADIENT or not linear:
                    return None
                linear = not linear
            if not linear:
                return None
        return None if any(parameter is None for parameter in found) else found

    def to_base(self, columns: Columns, run: Run) -> Columns:
        kept, changed = columns[::-1] if self.flipped else columns
        shift, scale = self._shift_and_scale(kept, run)
        if self.shift_first:
            mapped = (changed + shift) * scale
            run.save(mapped, scale)
        else:
            mapped = torch.addcmul(shift, changed, scale)
            run.save(changed, scale)
        return (mapped, kept) if self.flipped else (kept, mapped)

    def from_base(self, columns: Columns, run: Run) -> Columns:
        kept, changed = columns[::-1] if self.flipped else columns
        shift, scale = self._shift_and_scale(kept, run)
        if self.shift_first:
            mapped = changed / scale - shift
            run.save(changed, scale)
        else:
            mapped = (changed - shift) / scale
            run.save(mapped, scale)
        return (mapped, kept) if self.flipped else (kept, mapped)

    def gradient(self, to_base: bool, columns: Columns, logabsdet: Tensor, run: Run) -> Columns:
        g_kept, g = columns[::-1] if self.flipped else columns
        scale, value = run.load(), run.load()
        back = g * scale if to_base else g / scale
        # `value` is z where the shift comes last and z0 where it comes first: with the gradient that reaches
        # it, the product is that of log_scale, up to the sign of the direction
        g_log = torch.addcmul(logabsdet, back if to_base != self.shift_first else g, value)
        g_shift = back if to_base == self.shift_first else g
        if not to_base:
            g_log, g_shift = -g_log, -g_shift
        if self.sigmoid_scale:
            g_log = torch.addcmul(g_log, g_log, scale, value=-1.0)
        if self.limit is not None:
            g_log = aten.sigmoid_backward.default(g_log, run.load()) * run.number(4.0)
        if self.tanh_outputs:
            s, shift = run.load(), run.load()
            g_shift, g_log = aten.tanh_backward.default(g_shift, shift), aten.tanh_backward.default(g_log, s)
        if run.context is not None:
            g_context = run.context_gradient
            if g_context is None:
                g_context = torch.zeros_like(run.context)
            g_kept = torch.cat((g_kept, g_context), dim=1)
        outputs = (torch.cat((g_shift, g_log), dim=1),) if len(self.networks) == 1 else (g_shift, g_log)
        for layers, g_outputs in zip(self.networks[::-1], outputs[::-1], strict=True):
            g_kept = _network_gradient(layers, g_outputs, g_kept, run)
        if run.context is not None:
            width = run.context.shape[1]
            g_kept, run.context_gradient = g_kept[:, :-width], g_kept[:, -width:]
        return (back, g_kept) if self.flipped else (g_kept, back)

    def _outputs(self, inputs: Tensor, run: Run) -> list[Tensor]:
        return [_network(layers, inputs, run) for layers in self.networks]

    def _shift_and_scale(self, kept: Tensor, run: Run) -> tuple[Tensor, Tensor]:
        inputs = kept if run.context is None else torch.cat((kept, run.context), dim=1)
        outputs = self._outputs(inputs, run)
        shift, s = outputs[0].unsafe_chunk(2, dim=1) if len(outputs) == 1 else outputs
        if self.tanh_outputs:
            shift, s = shift.tanh(), s.tanh()
            run.save(shift, s)
        if self.limit is not None:
            # c tanh(s / c) = 2 c sigmoid(2 s / c) - c: a tanh costs more than a sigmoid; rounds as c does
            gate = (s if self.limit == 2.0 else s * (2.0 / self.limit)).sigmoid()
            run.save(gate)
            s = torch.add(run.number(-self.limit), gate, alpha=2.0 * self.limit)
        if self.offset:
            s = s + run.number(self.offset)
        run.scales.append(s)
        return shift, s.sigmoid() if self.sigmoid_scale else s.exp()


def _network(layers: Layers, h: Tensor, run: Run) -> Tensor:
    """A network on h (N, inputs); layers that are not plain ones are called as they are."""
    linear = False
    parameters, tape = run.parameters, run.tape
    for layer in layers.values():
        kind = type(layer)
        if kind is nn.Linear and len(layer._parameters) == 2:  # some wrappers keep them elsewhere
            if parameters is None:
                weight, bias = layer._parameters.values()
            else:
                weight, bias = next(parameters), next(parameters)
            if tape is not None:
                tape.append(h)
            h, linear = F.linear(h, weight, bias), True
        else:
            activate = ACTIVATE.get(kind) if linear else None
            h, linear = (layer(h) if activate is None else activate(layer, h)), False
    return h


def _network_gradient(layers: Layers, g: Tensor, onto: Tensor, run: Run) -> Tensor:
    """`onto` plus the gradient of a network's inputs, from that of its outputs; its parameters' go to the
    run."""
    parameters: Any = run.parameters
    tape: Any = run.tape
    found = run.parameter_gradients
    h = weight = g
    for layer in [*layers.values()][::-1]:
        kind = type(layer)
        if kind is nn.Linear:
            h = tape.pop()
            bias, weight = next(parameters), next(parameters)
            found.append(g.sum(0) if bias.requires_grad else None)
            found.append(g.t().mm(h) if weight.requires_grad else None)
        else:  # between two of them
            g = ACTIVATION_GRADIENT[kind](layer, g.mm(weight), h)
    return torch.addmm(onto, g, weight)
