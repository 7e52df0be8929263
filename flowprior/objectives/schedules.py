"""Weights of a loss that change with the optimizer step."""

from dataclasses import dataclass

from flowprior.errors import InputError
from flowprior.objectives.objective import check_weight


@dataclass(frozen=True)
class LinearAnnealing:
    """`start` up to step `after`, then linearly to `end` within `steps` optimizer steps, then `end`.

    Args:
        steps: length of the ramp.
        start, end: the weights before and behind it, not negative.
        after: the step at which it begins.

    Raises:
        InputError: on a weight that is negative or not finite, or a number of steps that does not fit.

    Source: Bowman et al. 2016, section 3.1 (the KL's weight rises from 0 to 1).

    >>> ramp = LinearAnnealing(steps=4, after=10)
    >>> [ramp(step) for step in (0, 10, 11, 14, 99)]
    [0.0, 0.0, 0.25, 1.0, 1.0]
    """

    steps: int
    start: float = 0.0
    end: float = 1.0
    after: int = 0

    def __post_init__(self) -> None:
        check_weight("start", self.start)
        check_weight("end", self.end)
        for name, value, least in (("steps", self.steps, 1), ("after", self.after, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"`{name}` (={value!r}) must be an int of at least {least}, such as 1000.")

    def __call__(self, step: int) -> float:
        """The weight at an optimizer step."""
        share = min(max((step - self.after) / self.steps, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


class Beta:
    """β in [0, 1]: a constant, or annealed.

    Raises:
        InputError: if a value of it is not a number in [0, 1].

    >>> Beta(0.5).at(3), Beta(LinearAnnealing(steps=10)).at(3)
    (0.5, 0.3)
    """

    def __init__(self, value: float | LinearAnnealing) -> None:
        ends = (value.start, value.end) if isinstance(value, LinearAnnealing) else (value,)
        for end in ends:
            if isinstance(end, bool) or not isinstance(end, int | float) or not 0 <= end <= 1:
                raise InputError(
                    f"`beta` (={value!r}) must be a number in [0, 1], 0 for no pull on the encoder and 1 for "
                    "all of it, or a LinearAnnealing between two such numbers."
                )
        self.value = value

    @property
    def annealed(self) -> bool:
        """Whether it changes."""
        return isinstance(self.value, LinearAnnealing)

    def at(self, step: int) -> float:
        """β at an optimizer step."""
        return self.value(step) if isinstance(self.value, LinearAnnealing) else float(self.value)
