"""Multi-layer perceptron, for vectors."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from flowprior.bijectors.recipes import ACTIVATIONS
from flowprior.checks import check_count, check_one_of
from flowprior.networks.layers import Stack


class MLP(Stack):
    """Fully connected layers with an activation between them: (N, in_features) -> (N, out_features).

    It serves as encoder and as decoder of vectors (moons and other points).

    Args:
        in_features: entries of an input vector.
        out_features: entries of an output vector.
        hidden: widths of the hidden layers; `()` makes a linear map.
        activation: one of "relu", "leaky_relu", "elu", "silu", "tanh".

    Raises:
        InputError: on a count that is not positive or an unknown activation.

    >>> import torch
    >>> MLP(2, 8, hidden=(64, 64))(torch.zeros(5, 2)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: Sequence[int] = (64, 64), activation: str = "relu"
    ) -> None:
        check_one_of("activation", activation, ACTIVATIONS)
        widths = [
            check_count("in_features", in_features),
            *(check_count("hidden", width) for width in hidden),
        ]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
        layers.append(nn.Linear(widths[-1], out_features))
        super().__init__("vectors", (in_features,), layers, initialize=None)
