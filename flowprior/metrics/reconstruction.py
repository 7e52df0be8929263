"""How well images come back."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.errors import InputError
from flowprior.metrics.rows import batches
from flowprior.tensors import as_input

_SMALLEST_MSE = 1e-10  # so that a perfect image counts 100 dB, not infinity


@dataclass(frozen=True)
class ReconstructionError:
    """Means over a set of images with pixels in [0, 1]."""

    mse: float  # squared error per pixel and channel
    squared_error: float  # summed over an image
    psnr: float  # dB, the mean over images of 10 log10(1 / mse); at most 100
    images: int


def reconstruction_error(
    images: Tensor, reconstruct: Callable[..., Tensor], context: Tensor | None = None,
    *, batch_size: int = 256, device: str | torch.device | None = None,
) -> ReconstructionError:  # fmt: skip
    """Squared errors of `reconstruct(x)` against x (N, ...) in batches, summed in float64, without gradients.

    With a context (N, ...) it is `reconstruct(x, context)`. Images and context are floats, or uint8 that are
    divided by 255; each batch is moved to `device` if one is given.

    Raises:
        InputError: if there are no images, the context has other rows, or `reconstruct` changes the shape.

    >>> reconstruction_error(torch.zeros(4, 1, 2, 2), lambda x: x + 0.5)
    ReconstructionError(mse=0.25, squared_error=1.0, psnr=6.020599913279624, images=4)
    """
    errors = []  # of each image, summed over its pixels
    with torch.inference_mode():
        for parts in batches("images", images, context, batch_size, device):
            batch = [as_input(part) for part in parts]
            x, back = batch[0], reconstruct(*batch)
            if back.shape != x.shape:
                got = f"`reconstruct` gave shape {tuple(back.shape)} for images of shape {tuple(x.shape)}"
                raise InputError(f"{got} but must keep the shape.")
            errors.append((back.double() - x.double()).square().flatten(1).sum(1).cpu())
    summed = torch.cat(errors)
    pixels = math.prod(images.shape[1:])
    psnr = -10 * (summed / pixels).clamp(min=_SMALLEST_MSE).log10()
    total = summed.mean().item()
    return ReconstructionError(total / pixels, total, psnr.mean().item(), len(images))
