"""Nearest training examples: does a prior remember, or make something new?"""

import torch
from torch import Tensor

from flowprior.checks import check_count, check_shapes

_CHUNK_VALUES = 2**24  # float64 values of one chunk of examples: 128 MiB


@torch.no_grad()
def nearest_neighbors(queries: Tensor, examples: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """The `k` examples nearest to each query in pixels (GLF Appendix G), by Euclidean distance.

    Searched exactly, a chunk of examples at a time, in float64; uint8 images count as values in [0, 1].
    Queries (Q, *event), examples (N, *event) -> distances (Q, k) float64, ascending, and rows (Q, k) int64.

    Raises:
        InputError: if the event shapes differ, or `k` is not in 1..N.

    >>> distance, row = nearest_neighbors(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0], [3.0]]), k=2)
    >>> row.tolist()
    [[1, 0]]
    """
    fix = "bring both to one event shape"
    check_shapes(fix, queries=(queries, "Q *event"), examples=(examples, "N *event"))
    check_count("k", k, most=len(examples))
    query = _flat(queries)  # (Q, D)
    best = query.new_empty(len(query), 0)
    rows = best.long()
    chunk = max(1, _CHUNK_VALUES // max(query.shape[1], 1))
    for start in range(0, len(examples), chunk):
        part = _flat(examples[start : start + chunk]).to(query.device)
        squared = part.square().sum(1) - 2 * query @ part.T  # |q|^2 is left out: the same for all examples
        nearest, at = squared.topk(min(k, len(part)), largest=False)
        best, rows = torch.cat([best, nearest], 1), torch.cat([rows, at + start], 1)
        best, order = best.sort(dim=1, stable=True)
        best, rows = best[:, :k], rows.gather(1, order)[:, :k]
    # The distances again, without the cancellation of the expanded square.
    close = [_flat(examples[row.to(examples.device)]).to(query.device) for row in rows]  # Q times (k, D)
    distances = torch.stack([(near - each).norm(dim=1) for near, each in zip(close, query, strict=True)])
    distances, order = distances.sort(dim=1, stable=True)
    return distances, rows.gather(1, order)


def _flat(value: Tensor) -> Tensor:
    flat = value.flatten(1).double()
    return flat / 255 if value.dtype == torch.uint8 else flat
