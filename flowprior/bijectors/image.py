"""Flows on images that keep the images' shape: pixels to the real line, squeezing, several scales."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.image_coupling import ImageCoupling, RunningNorm, check_image_shape
from flowprior.checks import check_count, check_number, check_one_of
from flowprior.errors import InputError

LEVELS = 256  # of stored images, x = k / 255


class Pixels(Bijector):
    """Dequantized images in (0, 1) to the real line: 2x - 1, or logit(α + (1 - 2α) x).

    Stored images x = k / 255 have 256 levels; `dequantize` spreads level k evenly over
    [k / 256, (k + 1) / 256). Then the density p of dequantized images bounds the probability of stored ones,
    E_u log p(x + u) - n log 256 ≤ log P(x) over n entries (Theis et al. 2016, Eq. 4).

    Args:
        event_shape: of one image.
        transform: "scale" or "logit".
        margin: α of the logit; 0.05 in RealNVP's code.

    Raises:
        InputError: on another transform, or α outside (0, ½).

    Source: Dinh et al. 2017 (RealNVP), section 4.1.

    >>> pixels = Pixels((1, 2, 2))
    >>> y, logabsdet = pixels.to_base(torch.full((1, 1, 2, 2), 0.75))
    >>> y.unique().item(), round(logabsdet.item() / math.log(2), 4)
    (0.5, 4.0)
    """

    def __init__(
        self, event_shape: tuple[int, ...], transform: str = "scale", *, margin: float = 0.05
    ) -> None:
        super().__init__(event_shape)
        self.transform = check_one_of("transform", transform, ("scale", "logit"))
        self.margin = check_number("margin", margin, above=0, below=0.5)

    def dequantize(self, x: Tensor, noise: bool = True) -> Tensor:
        """Stored images x = k / 255 to (k + u) / 256, u uniform in [0, 1), or ½ without noise."""
        return (x * (LEVELS - 1) + (torch.rand_like(x) if noise else 0.5)) / LEVELS

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.transform == "scale":
            return 2 * z - 1, z.new_full((len(z),), self.features * math.log(2))
        squeezed = self.margin + (1 - 2 * self.margin) * z
        y = torch.logit(squeezed)
        return y, self._volume(y)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.transform == "scale":
            return (z0 + 1) / 2, z0.new_full((len(z0),), -self.features * math.log(2))
        return (torch.sigmoid(z0) - self.margin) / (1 - 2 * self.margin), -self._volume(z0)

    def _volume(self, y: Tensor) -> Tensor:
        """log|det dy/dx| of the logit: Σ log (1 - 2α) - log σ(y) - log σ(-y)."""
        each = functional.softplus(y) + functional.softplus(-y) + math.log(1 - 2 * self.margin)
        return each.flatten(1).sum(1)


class Squeeze(Bijector):
    """A bijector of (4C, H/2, W/2) on images (C, H, W): each 2x2 cell becomes four channels, and back.

    Args:
        event_shape: (C, H, W) with even sides.
        inner: of event shape (4C, H/2, W/2).

    Raises:
        InputError: on odd sides, or an inner bijector of another shape.

    Source: Dinh et al. 2017 (RealNVP), section 3.6.
    """

    def __init__(self, event_shape: tuple[int, int, int], inner: Bijector) -> None:
        super().__init__(event_shape)
        wanted = squeezed_shape(event_shape)
        if tuple(inner.event_shape) != wanted:
            got = tuple(inner.event_shape)
            raise InputError(f"`inner` has event shape {got} but images {event_shape} squeeze to {wanted}.")
        self.inner = inner

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z0, logabsdet = self.inner._to_base(squeeze(z), context)
        return unsqueeze(z0), logabsdet

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z, logabsdet = self.inner._from_base(squeeze(z0), context)
        return unsqueeze(z), logabsdet

    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Of the inner bijector."""
        self.inner.initialize(squeeze(z), context)


class MultiScale(Bijector):
    """RealNVP whose factored scales are put back in place: y = f(x) has the shape of x.

    Each scale but the last: `couplings` with checkerboard masks, squeeze, `couplings` with channel masks;
    then half of the channels are done and the others go on. The last scale: `couplings` with checkerboard
    masks. Masks alternate, and a `RunningNorm` stands before each coupling but the first.

    Args:
        event_shape: (C, H, W), sides divisible by 2^(scales - 1).
        scales, couplings, blocks: blocks are those of each coupling's conditioner.
        hidden_channels: of the conditioners.

    Raises:
        InputError: on a count that is not positive, or sides that do not divide.

    Source: Dinh et al. 2017 (RealNVP), section 3.6; Lucas et al. 2019, A.4 ("three NVP layers with a single
    scale and two residual blocks") and C.

    >>> flow = MultiScale((3, 8, 8), scales=2, hidden_channels=4)
    >>> y, logabsdet = flow.to_base(torch.rand(5, 3, 8, 8))
    >>> y.shape, logabsdet.shape
    (torch.Size([5, 3, 8, 8]), torch.Size([5]))
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        scales: int = 1,
        couplings: int = 3,
        blocks: int = 2,
        *,
        hidden_channels: int = 32,
    ) -> None:
        super().__init__(event_shape)
        shape = check_image_shape(self.event_shape)
        check_count("scales", scales)
        options = {"hidden_channels": hidden_channels, "blocks": blocks}
        steps: list[Bijector] = []

        def stack(shape: tuple[int, int, int], mask: str) -> list[Bijector]:
            found: list[Bijector] = []
            for index in range(check_count("couplings", couplings)):
                found += [RunningNorm(shape)] if steps or found else []
                found.append(ImageCoupling(shape, mask, index % 2 == 1, **options))
            return found

        steps += stack(shape, "checkerboard")
        if scales > 1:
            channels, height, width = inner = squeezed_shape(shape)
            rest = MultiScale((channels // 2, height, width), scales - 1, couplings, blocks,
                              hidden_channels=hidden_channels)  # fmt: skip
            steps.append(Squeeze(shape, Steps(inner, [*stack(inner, "channel"), HalfChannels(inner, rest)])))
        self.steps = Steps(shape, steps)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.steps._to_base(z, context)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.steps._from_base(z0, context)

    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Start norms, and inside `starting_from_data` convolutions, from images (N, C, H, W)."""
        self.steps.initialize(z, context)


class Steps(Bijector):
    """Bijectors of one event shape, one after the other."""

    def __init__(self, event_shape: tuple[int, ...], steps: list[Bijector]) -> None:
        super().__init__(event_shape)
        self.steps = nn.ModuleList(steps)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, True)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(z0, context, False)

    def _run(self, value: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        total = value.new_zeros(len(value))
        for step in self.steps if to_base else reversed(self.steps):
            hook = step._to_base if to_base else step._from_base
            value, logabsdet = hook(value, context)  # type: ignore[operator]
            total = total + logabsdet
        return value, total

    @torch.no_grad()
    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Of each step, from what reaches it."""
        for step in self.steps:
            step.initialize(z, context)  # type: ignore[operator]
            z, _ = step._to_base(z, context)  # type: ignore[operator]


class HalfChannels(Bijector):
    """A bijector of the second half of the channels; the first half passes."""

    def __init__(self, event_shape: tuple[int, int, int], inner: Bijector) -> None:
        super().__init__(event_shape)
        self.inner = inner

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        done, rest = z.chunk(2, 1)
        rest, logabsdet = self.inner._to_base(rest, context)
        return torch.cat((done, rest), 1), logabsdet

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        done, rest = z0.chunk(2, 1)
        rest, logabsdet = self.inner._from_base(rest, context)
        return torch.cat((done, rest), 1), logabsdet

    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Of the inner bijector."""
        self.inner.initialize(z.chunk(2, 1)[1], context)


def squeezed_shape(event_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(C, H, W) -> (4C, H/2, W/2); raises InputError on odd sides."""
    channels, height, width = event_shape
    if height % 2 or width % 2:
        raise InputError(f"`event_shape` (={tuple(event_shape)}) must have even sides to be squeezed.")
    return 4 * channels, height // 2, width // 2


def squeeze(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 4C, H/2, W/2); all channels of a cell's first pixel come first."""
    return rearrange(maps, "n c (h i) (w j) -> n (i j c) h w", i=2, j=2)


def unsqueeze(maps: Tensor) -> Tensor:
    """What undoes `squeeze`."""
    return rearrange(maps, "n (i j c) h w -> n c (h i) (w j)", i=2, j=2)
