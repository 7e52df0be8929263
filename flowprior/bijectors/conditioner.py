"""The networks inside couplings, the same modules for every backend."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from flowprior.bijectors.recipes import Recipe

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Network(nn.Module):
    """Fully connected network from the unchanged features and the context to a coupling's parameters.

    (N, in_features), (N, context_features) -> (N, out_features). Where there is nothing to read (one
    feature, no context) the outputs are free parameters, the same for every row.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: tuple[int, ...],
        context_features: int | None,
        recipe: "Recipe",
    ) -> None:
        super().__init__()
        widths = [in_features + (context_features or 0), *hidden_features, out_features]
        self.constant: nn.Parameter | None = None
        layers: list[nn.Module] = []
        if widths[0] == 0:
            self.constant = nn.Parameter(torch.zeros(out_features))
        else:
            for fan_in, fan_out in pairwise(widths):
                layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[recipe.activation]()]
            layers.pop()
            start([layer for layer in layers if isinstance(layer, nn.Linear)], recipe)
        self.layers = nn.Sequential(*layers)

    def forward(self, unchanged: Tensor, context: Tensor | None = None) -> Tensor:
        if self.constant is not None:
            return self.constant.expand(unchanged.shape[0], -1)
        return self.layers(unchanged if context is None else torch.cat((unchanged, context), dim=1))

    @torch.no_grad()
    def add_to_last_bias(self, value: Tensor) -> None:
        """Shift the outputs at initialization by `value` (out_features,)."""
        if self.constant is not None:
            self.constant.add_(value)
        else:
            self.layers[-1].bias.add_(value)  # type: ignore[operator]


@torch.no_grad()
def start(layers: Sequence[nn.Linear | nn.Conv2d], recipe: "Recipe") -> None:
    """Give the layers of a network the first weights that the recipe asks for."""
    if recipe.initialization == "glorot":
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for parameter in layers[-1].parameters():
        parameter.mul_(recipe.last_layer_gain)


class AffineConditioner(nn.Module):
    """Shift and log-scale of an affine coupling, z_b exp(log_scale) + shift.

    (N, in_features), (N, context_features) -> shift (N, out_features), log_scale (N, out_features). One
    network with two outputs a feature, or one for each (`recipe.separate_networks`). With
    `recipe.shift_first` the map is exp(log_scale) (z_b + t), and shift = t exp(log_scale).

    Args:
        network: makes a network of so many outputs.
        outputs: of the shift, and of the scale.
        recipe: the flow's.
    """

    def __init__(self, network: Callable[[int], nn.Module], outputs: int, recipe: "Recipe") -> None:
        super().__init__()
        widths = {"shift": outputs, "scale": outputs}
        if not recipe.separate_networks:
            widths = {"shift_and_scale": 2 * outputs}
        self.networks = nn.ModuleDict({name: network(width) for name, width in widths.items()})
        self.separate = recipe.separate_networks
        self.sigmoid_scale = recipe.scale == "sigmoid"
        self.shift_first = recipe.shift_first
        self.tanh_outputs = recipe.output_activation == "tanh"
        self.log_scale_limit = recipe.log_scale_limit

    def forward(self, unchanged: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.separate:
            shift = self.networks["shift"](unchanged, context)
            scale = self.networks["scale"](unchanged, context)
        else:
            shift, scale = self.networks["shift_and_scale"](unchanged, context).chunk(2, dim=-1)
        if self.tanh_outputs:
            shift, scale = shift.tanh(), scale.tanh()
        if self.log_scale_limit is not None:
            scale = self.log_scale_limit * (scale / self.log_scale_limit).tanh()
        log_scale = nn.functional.logsigmoid(scale + 2.0) if self.sigmoid_scale else scale
        return (shift * log_scale.exp() if self.shift_first else shift), log_scale
