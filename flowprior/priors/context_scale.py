"""What puts the contexts of a prior on one scale."""

import torch
from torch import Tensor, nn


class ContextScale(nn.Module):
    """c -> (c - loc) / scale, of each entry of a vector or of a sequence's elements, or each channel of maps.

    It is the identity at first.

    `fit` fills the buffers in place. What does not vary is centered and keeps its scale.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, context_shape: torch.Size) -> None:
        super().__init__()
        self.shape = context_shape
        self.axis = 2 if len(context_shape) == 2 else 1  # of the entries or channels, in rows
        shape = [size if axis == self.axis else 1 for axis, size in enumerate(context_shape, 1)]
        self.register_buffer("loc", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, context: Tensor) -> Tensor:
        """Contexts (N, *context_shape) on the common scale."""
        return (context - self.loc) / self.scale

    def fit(self, scaled: Tensor) -> Tensor:
        """Take mean and deviation of contexts, as `forward` gave them, and scale them by these instead."""
        context = scaled * self.scale + self.loc
        axes = [axis for axis in range(context.dim()) if axis != self.axis]
        std, mean = torch.std_mean(context.double(), axes, correction=0, keepdim=True)
        self.loc.copy_(mean[0])
        self.scale.copy_(torch.where(std > 1e-6 * mean.abs(), std, torch.ones_like(std))[0])
        return self(context)
