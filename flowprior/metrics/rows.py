"""What metrics over the rows of a set share: their batches, and the error of a mean."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowprior.checks import check_count, check_rows, check_shapes


def batches(
    name: str, x: Tensor, context: Tensor | None, batch_size: int, device: str | torch.device | None
) -> Iterator[list[Tensor]]:
    """Parts of x (N, ...), each with its rows of a context (N, ...) if there is one, on `device` if given."""
    check_shapes("", **{name: (x, "N>0 *event")})
    if context is not None:
        check_rows("context", context, len(x), f"rows of `{name}`")
    tensors = [x] if context is None else [x, context]
    parts = zip(*(tensor.split(check_count("batch_size", batch_size)) for tensor in tensors), strict=True)
    return ([part if device is None else part.to(device) for part in each] for each in parts)


def standard_error(values: Tensor) -> float:
    """The standard error of the mean of values (N,); NaN for one."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
