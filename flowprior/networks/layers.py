"""What the convolutional networks share: checks of their arguments, widths and the first weights."""

from torch import Tensor, nn

from flowprior.errors import InputError

SIZES = (32, 64, 128, 256)  # pixels a side that the deeper networks are built for
INIT_STD = 0.02  # standard deviation of the first weights in InfoGAN's and DCGAN's code


def check_size(size: int) -> int:
    """`size`, one of `SIZES`.

    Raises:
        InputError: if it is anything else.
    """
    if size not in SIZES:
        raise InputError(
            f"`size` (={size!r}) must be one of {', '.join(map(str, SIZES))}: resize or pad the images."
        )
    return size


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
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise InputError(
            f"`width` (={width!r}) must be a positive number: 1.0 for the paper's, 0.25 for a quarter."
        )
    return max(1, round(count * width))


def initialize_weights(network: nn.Module, std: float = INIT_STD) -> None:
    """Weights of linear and convolution layers from N(0, std²), their biases zero, as in InfoGAN's code."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
