"""Batches by index from tensors that live on the device: no per-image Python."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from flowprior.checks import check_count
from flowprior.errors import InputError

RESIDENT_BYTES = 8 * 2**30  # a larger tensor stays where it is; only its batches travel to the device

_IMAGES = ("x", "context")  # the entries whose bytes are gray levels


class Batches:
    """Shuffled batches of equally long tensors; an epoch's order follows from `(seed, epoch)` alone.

    Resume is exact. Global batch k is the k-th run of `batch_size * world_size` entries of the order;
    the ranks share it out in turns, so that all draw equally many batches of one size. A uint8 entry `"x"` or
    `"context"` leaves as float32 in [0, 1]; everything else leaves as it is.

    Args:
        tensors: named tensors (N, ...); those up to `RESIDENT_BYTES` are moved to `device` once.
        batch_size, seed, device: examples per batch and rank; the seed of the order; where batches are made.
        rank, world_size: this process among those that share the set.
        drop_last: drop the last, partial global batch, unless it is the only one. A kept partial batch is
            filled up to a multiple of `world_size` with the order's first entries.

    Raises:
        InputError: on no tensors, empty or unequally long ones, or a bad size, rank or start.

    >>> batches = Batches({"x": torch.arange(6, dtype=torch.uint8)[:, None]}, 4, drop_last=False)
    >>> len(batches), [len(batch["x"]) for batch in batches.epoch(0)]
    (2, [4, 2])
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        batch_size: int,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        lengths = {name: len(tensor) if tensor.dim() else 0 for name, tensor in tensors.items()}
        if not lengths or min(lengths.values()) == 0 or len(set(lengths.values())) > 1:
            expected = "must hold at least one tensor, all of the same, positive length"
            raise InputError(f"`tensors` (lengths {lengths}) {expected}: pass one row per example in each.")
        check_count("batch_size", batch_size)
        check_count("rank", rank, least=0, most=check_count("world_size", world_size) - 1)
        self.size = next(iter(lengths.values()))
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.device = torch.device(device)
        resident = {name: tensor.nbytes <= RESIDENT_BYTES for name, tensor in tensors.items()}
        self.tensors = {name: x.to(self.device) if resident[name] else x for name, x in tensors.items()}
        whole, rest = divmod(self.size, batch_size * world_size)
        self._length = whole if whole and (drop_last or not rest) else whole + 1

    def __len__(self) -> int:
        """Batches per epoch, equal on all ranks."""
        return self._length

    def order(self, epoch: int) -> Tensor:
        """The permutation of all N examples in `epoch`, on the CPU: (N,) int64."""
        digest = hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        return torch.randperm(self.size, generator=generator)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of `epoch` from the `start`-th on: {name: (batch_size, ...)}."""
        fix = "resume with the data set and batch size of the interrupted run"
        check_count("start", start, least=0, most=len(self), fix=fix)
        return self._batches(self.order(epoch), start)

    def _batches(self, order: Tensor, start: int) -> Iterator[dict[str, Tensor]]:
        stride = self.batch_size * self.world_size
        missing = -self.size % self.world_size  # so that a kept partial batch splits evenly over the ranks
        order = torch.cat([order, order.repeat(1 + missing // self.size)[:missing]]).to(self.device)
        for step in range(start, len(self)):
            rows = order[step * stride : (step + 1) * stride][self.rank :: self.world_size]
            yield {name: self._select(name, rows) for name in self.tensors}

    def _select(self, name: str, rows: Tensor) -> Tensor:
        source = self.tensors[name]
        chosen = source.index_select(0, rows.to(source.device)).to(self.device)
        return chosen.float().div_(255) if name in _IMAGES and chosen.dtype == torch.uint8 else chosen
