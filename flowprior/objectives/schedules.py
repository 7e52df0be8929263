"""Weights of a loss that change with the optimizer step."""

from dataclasses import dataclass

from torch import Tensor

from flowprior.checks import check_count, check_number


@dataclass(frozen=True)
class LinearAnnealing:
    """`start` up to step `after`, then linearly to `end` within `steps` optimizer steps, then `end`.

    Args:
        steps, after: length of the ramp, and the step at which it begins.
        start, end: the weights before and behind it, not negative.

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
        check_number("start", self.start, least=0)
        check_number("end", self.end, least=0)
        check_count("steps", self.steps)
        check_count("after", self.after, least=0)

    def __call__(self, step: int) -> float:
        """The weight at an optimizer step."""
        share = min(max((step - self.after) / self.steps, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


class Beta:
    """β in [0, 1], which is checked: a constant, or annealed.

    >>> Beta(0.5).at(3), Beta(LinearAnnealing(steps=10)).at(3)
    (0.5, 0.3)
    """

    def __init__(self, value: float | LinearAnnealing) -> None:
        ends = (value.start, value.end) if isinstance(value, LinearAnnealing) else (value,)
        for end in ends:
            check_number("beta", end, least=0, most=1, fix="0 for no pull on the encoder, 1 for all of it")
        self.value = value

    def logged(self, step: int, like: Tensor) -> dict[str, Tensor]:
        """{"beta": ...} if it changes, to be logged."""
        return {"beta": like.new_tensor(self.at(step))} if isinstance(self.value, LinearAnnealing) else {}

    def at(self, step: int) -> float:
        """β at an optimizer step."""
        return self.value(step) if isinstance(self.value, LinearAnnealing) else float(self.value)
