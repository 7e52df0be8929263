"""The learned elementwise affine map of Glow, with a start that is safe."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ActNormBase(nn.Module):
    """Parameters and data-dependent start of an actnorm, z0 = exp(log_scale) z + shift, for both backends.

    It starts as the identity and stays there until it is trained or `initialize` is called; nflows' own
    starts by itself, on the first training batch.

    Reference: Kingma & Dhariwal, Glow (2018), section 3.1; identity start as in Morrow & Chiu, A.1.
    """

    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("initialized", torch.tensor(False))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Make the outputs on z (N, D) of all ranks zero-mean and unit-variance, once and for all.

        A feature that does not vary (or a batch of one) is centered and keeps scale 1.
        """
        if self.initialized:
            return
        rows = _sum_over_ranks(torch.tensor(float(z.shape[0]), dtype=z.dtype, device=z.device))
        mean = _sum_over_ranks(z.sum(0)) / rows.clamp(min=1.0)
        std = (_sum_over_ranks((z - mean).square().sum(0)) / rows.clamp(min=1.0)).sqrt()
        varies = std > 1e-6 * mean.abs().clamp(min=1.0)
        scale = torch.where(varies, std, torch.ones_like(std)).reciprocal()
        self.log_scale.copy_(scale.log())
        self.shift.copy_(-mean * scale)
        self.initialized.fill_(True)  # in place: the flag stays on its device


def _sum_over_ranks(value: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value
