"""A fixed permutation of the features, kept in the state dict."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowprior.errors import InputError


class Permutation(nn.Module):
    """Reorder the features: z0 = z[:, permutation], a volume-preserving map.

    The order is a buffer, so that it is saved, loaded and moved with the module. Calling it is `to_base`:
    (N, D), or maps of D elements, to the same and a zero logabsdet (N,).

    Raises:
        InputError: if `permutation` does not hold each of 0 ... D-1 once.

    >>> step = Permutation([2, 0, 1])
    >>> step(torch.tensor([[10.0, 11.0, 12.0]]))[0]
    tensor([[12., 10., 11.]])
    """

    permutation: Tensor

    def __init__(self, permutation: Tensor | Sequence[int]) -> None:
        super().__init__()
        order = permutation.tolist() if isinstance(permutation, Tensor) else list(permutation)
        if not order or sorted(order) != list(range(len(order))):
            raise InputError(f"`permutation` (={order}) must hold each of 0 ... D-1 once, such as [2, 0, 1].")
        self.register_buffer("permutation", torch.tensor(order))

    @classmethod
    def random(cls, features: int, seed: int, size: int = 1) -> "Permutation":
        """The permutation of `features` that `seed` stands for, whatever the global random state.

        Each feature may be `size` columns that stay together, as the positions of a channel do.
        """
        order = torch.randperm(features, generator=torch.Generator().manual_seed(seed), device="cpu")
        return cls([feature * size + column for feature in order.tolist() for column in range(size)])

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.reorder(z, True), z.new_zeros(z.shape[0])

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.reorder(z0, False), z0.new_zeros(z0.shape[0])

    def reorder(self, value: Tensor, to_base: bool) -> Tensor:
        """`value` in the new order, or back in the old one."""
        order = self.permutation if to_base else self.permutation.argsort()
        if value.dim() == 2:
            return value.index_select(1, order)
        return value.flatten(1).index_select(1, order).view_as(value)
