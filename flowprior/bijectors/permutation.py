"""A fixed permutation of the features, kept in the state dict."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowprior.errors import InputError


class Permutation(nn.Module):
    """Reorder the features: z0 = z[:, permutation], a volume-preserving map.

    The order is a buffer, so that it is saved, loaded and moved with the module; both backends use it.

    Args:
        permutation: the D indices, each once.

    Shapes:
        (N, D) to (N, D) and a zero logabsdet (N,); calling it is the direction `to_base`.

    Raises:
        InputError: if `permutation` does not hold each of 0 ... D-1 once.

    >>> step = Permutation([2, 0, 1])
    >>> step(torch.tensor([[10.0, 11.0, 12.0]]))[0]
    tensor([[12., 10., 11.]])
    """

    permutation: Tensor

    def __init__(self, permutation: Tensor | Sequence[int]) -> None:
        super().__init__()
        order = torch.as_tensor(permutation, dtype=torch.long)
        if order.dim() != 1 or not torch.equal(order.sort().values, torch.arange(len(order))):
            raise InputError(
                f"`permutation` (={order.tolist()}) must hold each of 0 ... D-1 once, such as [2, 0, 1]."
            )
        self.register_buffer("permutation", order)

    @classmethod
    def random(cls, features: int, seed: int, size: int = 1) -> "Permutation":
        """The permutation of `features` that `seed` stands for, whatever the global random state.

        Each feature may be `size` columns that stay together, as the positions of a channel do.
        """
        order = torch.randperm(features, generator=torch.Generator().manual_seed(seed))
        return cls((order[:, None] * size + torch.arange(size)).flatten())

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.permutation), z.new_zeros(z.shape[0])

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z0.index_select(1, self.permutation.argsort()), z0.new_zeros(z0.shape[0])
