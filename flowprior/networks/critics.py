"""Critics: they tell two kinds of latents apart."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from flowprior.networks.layers import Stack, dense


class LatentCritic(Stack):
    """Fully connected layers with leaky ReLU of slope 0.2: latents (N, features) -> 2 logits (N, 2).

    Args:
        features: entries of a latent.
        hidden: widths of the hidden layers.

    Raises:
        InputError: on a count that is not positive.

    Source: Kim & Mnih 2018 (FactorVAE), Appendix A: layers of 1000 units; five hidden ones in dpVAE's code.

    >>> import torch
    >>> LatentCritic(4, hidden=(8, 8))(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(self, features: int, hidden: Sequence[int] = (1000, 1000, 1000, 1000, 1000)) -> None:
        layers = dense("features", features, hidden, 2, partial(nn.LeakyReLU, 0.2))
        super().__init__("latents", (features,), layers, initialize=None)
