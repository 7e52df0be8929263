"""The networks inside couplings, the same modules for every backend."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowprior.bijectors.recipes import ACTIVATIONS, Recipe


class Network(nn.Module):
    """Network from the unchanged features and the context to a coupling's parameters.

    (N, in, ...) in all -> (N, out_features, ...), fully connected or, for maps, convolutional. Where there is
    nothing to read (one feature, no context) the outputs are free parameters, the same for every row.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden_features: tuple[int, ...], recipe: Recipe
    ) -> None:
        super().__init__()
        self.constant: nn.Parameter | None = None
        self.identity: Tensor | None = None
        if in_features == 0:
            self.constant = nn.Parameter(torch.zeros(out_features))
            return
        if recipe.coupling == "spatial":
            self.layers = convolutions(in_features, out_features, hidden_features, recipe.activation)
        else:
            layers: list[nn.Module] = []
            for fan_in, fan_out in pairwise((in_features, *hidden_features, out_features)):
                layers += [nn.Linear(fan_in, fan_out), _activation(recipe.activation)]
            self.layers = nn.Sequential(*layers[:-1])
        _start(self.layers, recipe)

    def forward(self, unchanged: Tensor, context: Tensor | None = None) -> Tensor:
        if self.constant is not None:
            return self.constant.expand(unchanged.shape[0], -1)
        h = unchanged if context is None else torch.cat((unchanged, context), dim=1)
        for layer in self.layers:
            h = layer(h)
        return h

    @torch.no_grad()
    def reset(self) -> None:
        """Make the outputs those that the coupling takes for the identity, whatever goes in."""
        for parameter in self._last():
            parameter.zero_()
        if self.identity is not None:
            self.start_at(self.identity)

    @torch.no_grad()
    def start_at(self, identity: Tensor) -> None:
        """Shift the outputs by `identity` (out_features,), on the CPU, which leaves the coupling idle."""
        self.identity, bias = identity, self._last()[-1]
        bias.add_(identity.to(bias.device))

    def _last(self) -> list[nn.Parameter]:
        return list(self.layers[-1].parameters()) if self.constant is None else [self.constant]


def convolutions(
    in_channels: int, out_channels: int, hidden_features: Sequence[int], activation: str = "elu"
) -> nn.Sequential:
    """Convolutions 3x3 - 1x1 - ... - 3x3 of these hidden channels, (N, in, h, w) -> (N, out, h, w)."""
    widths = [in_channels, *hidden_features, out_channels]
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        size = 3 if index in (0, len(widths) - 2) else 1
        layers += [nn.Conv2d(before, after, size, padding=size // 2), _activation(activation)]
    return nn.Sequential(*layers[:-1])


def _activation(name: str) -> nn.Module:
    """An activation behind a layer, in place where its gradient needs only the result."""
    return ACTIVATIONS[name](**({"inplace": True} if name in ("relu", "leaky_relu", "elu") else {}))


@torch.no_grad()
def _start(layers: nn.Sequential, recipe: Recipe) -> None:
    """Give the layers of a network the first weights that the recipe asks for."""
    weighted = [layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    if recipe.initialization == "glorot":
        for layer in weighted:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for parameter in weighted[-1].parameters():
        parameter.mul_(recipe.last_layer_gain)


class AffineConditioner(nn.Module):
    """Shift and log-scale of an affine coupling, z_b exp(log_scale) + shift.

    Unchanged (N, in, ...), context (N, ...) or None -> shift and log_scale, each (N, outputs, ...), by what
    `network` makes for a number of outputs. With `recipe.shift_first` the map is exp(log_scale) (z_b + t),
    and shift = t exp(log_scale).
    """

    def __init__(self, network: Callable[[int], nn.Module], outputs: int, recipe: Recipe) -> None:
        super().__init__()
        apart = recipe.separate_networks
        widths = {"shift": outputs, "scale": outputs} if apart else {"shift_and_scale": 2 * outputs}
        self.networks = nn.ModuleDict({name: network(width) for name, width in widths.items()})
        self.outputs, self.separate = outputs, apart
        self.sigmoid_scale, self.shift_first = recipe.scale == "sigmoid", recipe.shift_first
        self.tanh_outputs, self.log_scale_limit = recipe.output_activation == "tanh", recipe.log_scale_limit

    def forward(self, unchanged: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        networks = self.networks
        if self.separate:
            shift, s = networks["shift"](unchanged, context), networks["scale"](unchanged, context)
        else:
            both = networks["shift_and_scale"](unchanged, context)
            shift, s = both.split_with_sizes((self.outputs, self.outputs), 1)
        if self.tanh_outputs:
            shift, s = shift.tanh(), s.tanh()
        if (limit := self.log_scale_limit) is not None:
            # c tanh(s / c) = 2 c sigmoid(2 s / c) - c: a sigmoid costs less than a tanh, and c = 2 no factor
            gate = (s if limit == 2.0 else s * (2.0 / limit)).sigmoid()
            s = torch.rsub(gate, -limit, alpha=-2.0 * limit)
        log_scale = nn.functional.logsigmoid(s + 2.0) if self.sigmoid_scale else s
        return (shift * log_scale.exp() if self.shift_first else shift), log_scale
