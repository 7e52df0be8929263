"""Multi-layer perceptron, for vectors."""

from collections.abc import Sequence

from flowprior.bijectors.recipes import ACTIVATIONS
from flowprior.checks import check_one_of
from flowprior.networks.layers import Stack, dense


class MLP(Stack):
    """Fully connected layers with an activation between them: (N, in_features) -> (N, out_features).

    It serves as encoder and as decoder of vectors (moons and other points).

    Args:
        in_features, out_features: entries of an input and an output vector.
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
        make = ACTIVATIONS[check_one_of("activation", activation, ACTIVATIONS)]
        layers = dense("in_features", in_features, hidden, out_features, make)
        super().__init__("vectors", (in_features,), layers, initialize=None)
