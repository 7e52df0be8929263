"""Moving averages of weights, and running means of what is logged."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from flowprior.training.shards import sharded_as, whole


class WeightAverage:
    """Moving average of parameters: after step t = 0, 1, ..., average = d · average + (1 - d) · weights.

    d = min(decay, (1 + t) / (10 + t)), so that a short training is not held back by its first weights, from
    which the average starts. Without a `decay` there is no average, and every method does nothing.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float | None) -> None:
        self._weights = {} if decay is None else {name: p.detach() for name, p in parameters.items()}
        self._values = {name: weights.clone() for name, weights in self._weights.items()}
        self._decay = decay or 0.0

    def update(self, step: int) -> None:
        """Take the weights after step `step` into the average."""
        if self._values:
            decay = min(self._decay, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(decay)([*self._values.values()], [*self._weights.values()], None)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the parameters hold the average; afterwards, bit by bit, their own values again."""
        own = {name: weights.clone() for name, weights in self._weights.items()}
        self.adopt()
        try:
            yield
        finally:
            for name, weights in self._weights.items():
                weights.copy_(own[name])

    def adopt(self) -> None:
        """Give the parameters the average for good."""
        for name, weights in self._weights.items():
            weights.copy_(self._values[name])

    def restart(self, names: Iterable[str]) -> None:
        """Let the average of these parameters start again, from their weights as they are."""
        for name in self._weights.keys() & set(names):
            self._values[name].copy_(self._weights[name])

    def state(self) -> dict[str, Tensor]:
        """The average by name, whole."""
        return {name: whole(value) for name, value in self._values.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self._values.items():
            value.copy_(sharded_as(state[name], value))


class Meter:
    """Collects named scalars without reading them: the device is asked once a window, not once a step."""

    def __init__(self) -> None:
        self.pending: defaultdict[str, list[Tensor]] = defaultdict(list)  # of each step
        self.sums: dict[str, float] = {}  # of the finished windows of this epoch
        self.counts: dict[str, int] = {}

    def close_window(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last call, `reduce`d over processes; they also count for the epoch."""
        if not self.pending:
            return {}
        stacked = torch.stack([torch.stack(values).double().mean() for values in self.pending.values()])
        means = dict(zip(self.pending, reduce(stacked).tolist(), strict=True))
        for name, values in self.pending.items():
            self.sums[name] = self.sums.get(name, 0.0) + means[name] * len(values)
            self.counts[name] = self.counts.get(name, 0) + len(values)
        self.pending.clear()
        return means

    def close_epoch(self) -> dict[str, float]:
        """The means since the last call; windows must be closed."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means
