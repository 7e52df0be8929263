"""The mean and the spread of a metric over seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import Any


def summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, standard deviation (None for one value, which has none) and the values; a value that could not be
    had is infinite, and so is the mean then.

    >>> summary([1.0, 3.0])
    {'mean': 2.0, 'std': 1.4142135623730951, 'values': [1.0, 3.0]}
    """
    numbers = [math.inf if value is None else float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        return {"mean": math.inf, "std": None, "values": numbers}
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.fmean(numbers), "std": spread, "values": numbers}
