"""Moving averages of weights, and running means of what is logged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from flowprior.training.shards import sharded_as, whole


class WeightAverage:
    """Moving average of parameters: after step t = 0, 1, ..., average = d · average + (1 - d) · weights.

    d = min(decay, (1 + t) / (10 + t)), so that a short training is not held back by its first weights.

    Args:
        parameters: by name; the average starts from their values.
        decay: None for no average at all, so that every method does nothing.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float | None) -> None:
        self.names = list(parameters) if decay is not None else []
        self._weights = [parameters[name].detach() for name in self.names]
        self._values = [weights.clone() for weights in self._weights]
        self._decay = decay or 0.0

    def update(self, step: int) -> None:
        """Take the weights after step `step` into the average."""
        if self.names:
            decay = min(self._decay, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(decay)(self._values, self._weights, None)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the parameters hold the average; afterwards, bit by bit, their own values again."""
        own = [weights.clone() for weights in self._weights]
        self.adopt()
        try:
            yield
        finally:
            _copy(own, self._weights)

    def adopt(self) -> None:
        """Give the parameters the average for good."""
        _copy(self._values, self._weights)

    def state(self) -> dict[str, Tensor]:
        """The average by name, whole."""
        return {name: whole(value) for name, value in zip(self.names, self._values, strict=True)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """What `state` returned."""
        _copy([sharded_as(state[n], v) for n, v in zip(self.names, self._values, strict=True)], self._values)


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for new, old in zip(source, target, strict=True):
        old.copy_(new)


class Meter:
    """Collects named scalars without reading them: the device is asked once a window, not once a step."""

    def __init__(self) -> None:
        self.pending: dict[str, list[Tensor]] = {}
        self.sums: dict[str, float] = {}  # of the finished windows of this epoch
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Note a scalar of this step."""
        self.pending.setdefault(name, []).append(value)

    def close_window(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last call, `reduce`d over processes; they also count for the epoch."""
        if not self.pending:
            return {}
        stacked = [torch.stack(values).double().mean() for values in self.pending.values()]
        means = dict(zip(self.pending, reduce(torch.stack(stacked)).tolist(), strict=True))
        for name, mean in means.items():
            count = len(self.pending[name])
            self.sums[name] = self.sums.get(name, 0.0) + mean * count
            self.counts[name] = self.counts.get(name, 0) + count
        self.pending = {}
        return means

    def close_epoch(self) -> dict[str, float]:
        """The means since the last call; windows must be closed."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means
