"""What the networks share: a stack of layers with a check of its input, widths and the first weights."""

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn

from flowprior.checks import check_number, check_one_of
from flowprior.errors import InputError

SIZES = (32, 64, 128, 256)  # pixels a side that the deeper networks are built for
FIRST_WEIGHTS = partial(nn.init.normal_, std=0.02)  # as in InfoGAN's and DCGAN's code


class Stack(nn.Module):
    """Layers one after the other, for inputs of one shape.

    Args:
        name: of the input, for errors.
        input_shape: of one input.
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
        """(N, *input_shape) -> what the class says.

        Raises:
            InputError: if the input has another shape.
        """
        return self.layers(check_input(self.name, inputs, self.input_shape))


def normalized(
    layer: nn.Module, channels: int, activation: nn.Module, momentum: float = 0.1
) -> list[nn.Module]:
    """A layer, which should carry no bias as the norm would remove it, batch normalization, an activation."""
    norm = nn.BatchNorm1d if isinstance(layer, nn.Linear) else nn.BatchNorm2d
    return [layer, norm(channels, momentum=momentum), activation]


def check_size(size: int) -> int:
    """`size`, one of `SIZES`.

    Raises:
        InputError: if it is anything else.
    """
    return check_one_of("size", size, SIZES, "resize or pad the images")


def check_input(name: str, value: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """`value` (N, *event_shape).

    Raises:
        InputError: if it has another shape.
    """
    if value.shape[1:] != event_shape:
        expected = ", ".join(map(str, event_shape))
        raise InputError(
            f"`{name}` has shape {tuple(value.shape)} but this network reads (N, {expected}): "
            "build it for the data, or resize the data."
        )
    return value


def scaled(count: int, width: float) -> int:
    """`count` channels or units times the width multiplier: `scaled(64, 0.25)` is 16, and never below 1.

    Raises:
        InputError: if `width` is not a positive number.
    """
    return max(1, round(count * check_number("width", width, above=0, fix="1.0 is the paper's size")))
