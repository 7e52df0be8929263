"""The invertible layers of RealNVP on images: masked affine couplings and the norm between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.weight_norm import WeightNormConv2d
from flowprior.checks import check_count, check_one_of
from flowprior.errors import InputError

MASKS = ("checkerboard", "channel")
LOG_SCALE_LIMIT = 2.0  # of one coupling, smoothly
VARIANCE_FLOOR = 1e-5


class ResidualConditioner(nn.Module):
    """conv3x3, `blocks` times h + conv3x3(relu(conv3x3(relu(h)))), conv1x1: (N, in, H, W) -> (N, out, H, W).

    All convolutions are weight-normalized; the outputs start at zero.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.start = WeightNormConv2d(in_channels, hidden)

        def block() -> nn.Module:
            first, second = WeightNormConv2d(hidden, hidden), WeightNormConv2d(hidden, hidden)
            return nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

        self.blocks = nn.ModuleList(block() for _ in range(blocks))
        self.end = WeightNormConv2d(hidden, out_channels, 1, gain=0.0)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.start(maps)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.end(hidden.relu())


class ImageCoupling(Bijector):
    """Affine coupling of images, b x + (1 - b) (x exp(s(b x)) + t(b x)) for a mask b, the identity at first.

    s is bounded smoothly by ±2. log|det| is the sum of s over the entries that change.

    Args:
        event_shape: (C, H, W).
        mask: "checkerboard", by the parity of row plus column, or "channel", by halves of the channels.
        flip: swaps the entries that change with those that are kept.
        hidden_channels, blocks: of the residual conditioner.

    Raises:
        InputError: on another mask, other shapes, or a count that is not positive.

    Source: Dinh et al. 2017 (RealNVP), Eq. 7 to 9, section 3.4 and Fig. 3.

    >>> coupling = ImageCoupling((3, 8, 8), hidden_channels=4)
    >>> coupling.to_base(torch.rand(2, 3, 8, 8))[1]
    tensor([0., 0.], grad_fn=<SumBackward1>)
    """

    kept: Tensor

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        mask: str = "checkerboard",
        flip: bool = False,
        *,
        hidden_channels: int = 32,
        blocks: int = 2,
    ) -> None:
        super().__init__(event_shape)
        check_one_of("mask", mask, MASKS)
        check_count("blocks", blocks)
        channels, height, width = check_image_shape(self.event_shape)
        if mask == "channel" and channels < 2:
            raise InputError(f"`mask` (='channel') needs two channels or more, but there is {channels}.")
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        kept = (rows + columns) % 2 == 0 if mask == "checkerboard" else None
        halves = (torch.arange(channels) < channels - channels // 2)[:, None, None]
        both = (halves if kept is None else kept).expand(channels, height, width)
        self.register_buffer("kept", (both ^ flip).float(), persistent=False)  # 1 where x passes
        hidden = check_count("hidden_channels", hidden_channels)
        self.network = ResidualConditioner(channels, 2 * channels, hidden, blocks)

    def _affine(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift, zero where nothing changes."""
        raw, shift = self.network(value * self.kept).chunk(2, 1)
        changed = 1 - self.kept
        return LOG_SCALE_LIMIT * torch.tanh(raw / LOG_SCALE_LIMIT) * changed, shift * changed

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._affine(z)
        return z * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._affine(z0)
        return (z0 - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)


class RunningNorm(Bijector):
    """Batch normalization by running statistics in either mode: (x - m) / √(v + ε), each channel by its own.

    In training `to_base` first moves the statistics towards the batch's, m ← ρ m + (1 - ρ) mean(x), and
    differentiates through the batch's part; `from_base` takes them as they are, so that it undoes the last
    `to_base` exactly, which ordinary batch statistics would not. In a distributed run each process sees its
    own part of the batch.

    Args:
        event_shape: (C, H, W).
        decay: ρ.

    Raises:
        InputError: on other shapes.

    Source: Dinh et al. 2017 (RealNVP), section 3.7 and appendix E.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, event_shape: tuple[int, int, int], *, decay: float = 0.9) -> None:
        super().__init__(event_shape)
        channels = check_image_shape(self.event_shape)[0]
        self.decay = decay
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    @torch.no_grad()
    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """The statistics of z (N, C, H, W)."""
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        self.mean.copy_(mean)
        self.variance.copy_(variance)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, variance = self.mean.clone(), self.variance.clone()
        if self.training and len(z):
            batch = torch.var_mean(z, (0, 2, 3), correction=0)
            mean = self.decay * mean + (1 - self.decay) * batch[1]
            variance = self.decay * variance + (1 - self.decay) * batch[0]
            self.mean.copy_(mean.detach())
            self.variance.copy_(variance.detach())
        log_scale = self._log_scale(variance)
        normalized = (z - mean[:, None, None]) * log_scale.exp()[:, None, None]
        return normalized, self._volume(log_scale, len(z))

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        # Copies: the backward pass must see the statistics of now when a later batch has moved them.
        mean, log_scale = self.mean.clone(), self._log_scale(self.variance)
        value = z0 * (-log_scale).exp()[:, None, None] + mean[:, None, None]
        return value, -self._volume(log_scale, len(z0))

    def _log_scale(self, variance: Tensor) -> Tensor:
        return -0.5 * (variance + VARIANCE_FLOOR).log()

    def _volume(self, log_scale: Tensor, count: int) -> Tensor:
        return (log_scale.sum() * self.event_shape[1:].numel()).expand(count)


def check_image_shape(event_shape: torch.Size) -> tuple[int, int, int]:
    """(C, H, W); raises InputError on anything else."""
    if len(event_shape) != 3:
        raise InputError(
            f"`event_shape` (={tuple(event_shape)}) must be that of images (C, H, W), as (3, 32, 32)."
        )
    channels, height, width = event_shape
    return channels, height, width
