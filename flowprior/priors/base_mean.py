"""The mean of z0 given a context, linear, with a start at the least squares."""

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from flowprior.bijectors.spatial import context_maps
from flowprior.tensors import numel

CHUNK = 1024  # rows whose patches are in memory at once


class LinearMean(nn.Linear):
    """m(c) = W c + b, which starts at zero: (N, *context_shape) -> (N, D).

    Linear is enough: one-hot contexts get a mean each, and the couplings bend the rest.
    """

    def __init__(self, context_shape: torch.Size, event_shape: torch.Size) -> None:
        super().__init__(numel(context_shape), numel(event_shape))
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, context: Tensor) -> Tensor:
        return super().forward(context.flatten(1))

    def start(self, context: Tensor, z0: Tensor) -> None:
        """Make it the best map of context (N, *context_shape) to z0 (N, *event)."""
        _least_squares(self, [(context.flatten(1), z0.flatten(1))])


class MapMean(nn.Conv2d):
    """m(c) = a 3x3 convolution of the context at the event's size, first 0: (N, K, H, W) -> (N, C, h, w)."""

    def __init__(self, context_shape: torch.Size, event_shape: torch.Size) -> None:
        super().__init__(context_shape[0], event_shape[0], 3, padding=1)
        self.map_size = event_shape[1:]
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, context: Tensor) -> Tensor:
        return super().forward(context_maps(context, *self.map_size))

    def start(self, context: Tensor, z0: Tensor) -> None:
        """Make it the best map of context (N, K, H, W) to z0 (N, C, h, w)."""
        chunks = zip(context.split(CHUNK), z0.split(CHUNK), strict=True)
        _least_squares(self, ((self._patches(c), rearrange(z, "n c h w -> (n h w) c")) for c, z in chunks))

    def _patches(self, context: Tensor) -> Tensor:
        """(N, K, H, W) -> the 3x3 patch around each position, (N h w, 9 K)."""
        patches = nn.functional.unfold(context_maps(context, *self.map_size), 3, padding=1)
        return rearrange(patches, "n patch position -> (n position) patch")


def _least_squares(layer: nn.Linear | nn.Conv2d, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make `layer` the best map of inputs (N, F) to targets (N, D); a ridge, as one-hot rows sum to 1.

    With fewer rows than inputs it stays as it is: the best map of those rows would say little of others.
    """
    gram, moments, count = None, None, 0
    for inputs, targets in pairs:
        rows = torch.cat((inputs, torch.ones_like(inputs[:, :1])), 1).double()  # (N, F + 1)
        gram = rows.T @ rows + (0 if gram is None else gram)
        moments = rows.T @ targets.double() + (0 if moments is None else moments)
        count += len(rows)
    if gram is None or moments is None or count < len(gram):
        return
    ridge = 1e-6 * count * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution = torch.linalg.solve(gram + ridge, moments)  # (F + 1, D)
    layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
    layer.bias.copy_(solution[-1])  # type: ignore[union-attr]
