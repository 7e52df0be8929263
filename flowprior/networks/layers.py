"""What the networks share: a stack of layers with a check of its input, widths and the first weights."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from flowprior.checks import check_count, check_number, check_one_of
from flowprior.errors import InputError

SIZES = (32, 64, 128, 256)  # pixels a side that the deeper networks are built for
FIRST_WEIGHTS = partial(nn.init.normal_, std=0.02)  # as in InfoGAN's and DCGAN's code


class Stack(nn.Module):
    """Layers one after the other, for inputs of one shape.

    Args:
        name, input_shape: of one input; the name is for errors.
        layers: in their order.
        initialize: sets a weight tensor in place; biases start at zero. None leaves torch's first weights.
    """

    def __init__(
        self,
        name: str,
        input_shape: tuple[int, ...],
        layers: Iterable[nn.Module],
        initialize: Callable[[Tensor], object] | None = FIRST_WEIGHTS,
    ) -> None:
        super().__init__()
        self.name, self.input_shape = name, input_shape
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if initialize and isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                initialize(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, *input_shape) -> what the class says; raises InputError on another shape."""
        return self.layers(check_input(self.name, inputs, self.input_shape))


def dense(
    name: str, features: int, hidden: Sequence[int], out_features: int, activation: Callable[[], nn.Module]
) -> list[nn.Module]:
    """Linear layers from `features`, called `name` in errors, with activations between them."""
    widths = [check_count(name, features), *(check_count("hidden", width) for width in hidden)]
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), activation())]
    return [*layers, nn.Linear(widths[-1], out_features)]


def normalized(
    layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module, momentum: float = 0.1
) -> list[nn.Module]:
    """A layer, which should carry no bias as the norm would remove it, batch normalization, an activation."""
    if isinstance(layer, nn.Linear):
        return [layer, nn.BatchNorm1d(layer.out_features, momentum=momentum), activation]
    return [layer, nn.BatchNorm2d(layer.out_channels, momentum=momentum), activation]


def check_size(size: int) -> int:
    """`size`; raises InputError unless it is one of `SIZES`."""
    return check_one_of("size", size, SIZES, "resize or pad the images")


def check_input(name: str, value: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """`value` (N, *event_shape); raises InputError on another shape."""
    if value.shape[1:] != event_shape:
        expected = ", ".join(map(str, event_shape))
        raise InputError(
            f"`{name}` has shape {tuple(value.shape)} but this network reads (N, {expected}): "
            "build it for the data, or resize the data."
        )
    return value


def scaled(count: int, width: float) -> int:
    """`count` units times a positive width multiplier, never below 1: `scaled(64, 0.25)` is 16."""
    return max(1, round(count * check_number("width", width, above=0, fix="1.0 is the paper's size")))
