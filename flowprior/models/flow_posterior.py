"""A posterior made flexible by inverse autoregressive steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional

from flowprior.bijectors import InverseAutoregressive
from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.models.posteriors import MIN_STD, Posterior, gaussian
from flowprior.tensors import as_event_shape


class FlowPosterior(Posterior):
    """q(z|x): ε ~ N(μ, diag σ²), z = f(ε; c), with (μ, r, c) from the encoder and σ = softplus(r) + 1e-6.

    f is made of `InverseAutoregressive` steps that see c, one number an entry of z; between two steps the
    order of the entries is reversed. It starts as the identity, so that q starts as `GaussianPosterior`.

    Args:
        features: the event shape, an int or, for maps, a tuple such as (32, 8, 8).
        hidden_features: of each step's network.
        steps: one in Lucas et al.

    Raises:
        InputError: if an argument is none of these, or a prior's event shape is another one.

    Source: Kingma et al. 2016 (IAF), Algorithm 1; Lucas et al. 2019, A.2; the "flow posterior" of GLF.

    >>> q = FlowPosterior(20)(torch.zeros(3, 60))
    >>> z = q.rsample()
    >>> z.shape, q.log_prob(z).shape
    (torch.Size([3, 20]), torch.Size([3]))
    """

    multiplier = 3

    def __init__(
        self, features: int | Sequence[int], hidden_features: Sequence[int] = (64, 64), steps: int = 1
    ) -> None:
        super().__init__()
        self.event_shape = shape = as_event_shape(features)
        made = (
            InverseAutoregressive(shape, shape if len(shape) == 3 else shape.numel(),
                                  hidden_features=hidden_features)
            for _ in range(check_count("steps", steps))
        )  # fmt: skip
        self.steps = nn.ModuleList(made)

    def _distribution(self, parts: list[Tensor]) -> Distribution:
        mean, raw, context = parts
        if mean.shape[1:] != self.event_shape:
            raise InputError(
                f"`features` (={tuple(self.event_shape)}) of the FlowPosterior must be the prior's event "
                f"shape {tuple(mean.shape[1:])}: build it with that."
            )
        return Flowed(gaussian(mean, functional.softplus(raw) + MIN_STD), self, context)

    def from_base(self, noise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """ε and c (*batch, *event) -> z, and log|det dz/dε| (*batch,)."""
        return self._run(noise, context, False)

    def to_base(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """What undoes `from_base`, in as many passes a step as z has entries."""
        return self._run(z, context, True)

    def _run(self, value: Tensor, context: Tensor, to_base: bool) -> tuple[Tensor, Tensor]:
        dims = len(self.event_shape)
        rows = context.reshape(*context.shape[: context.dim() - dims], *self.event_shape)
        if dims != 3:
            rows = rows.flatten(-dims)
        order = list(range(-dims, 0))
        total: Any = 0.0
        for index, step in enumerate(reversed(self.steps) if to_base else self.steps):
            value = value.flip(order) if index else value
            hook = step.to_base if to_base else step.from_base
            value, logabsdet = hook(value, rows)  # type: ignore[operator]
            total = total + logabsdet
        return value, total


class Flowed(Distribution):
    """The distribution of z = f(ε), ε ~ `base`, batch shape (N,).

    `log_prob` of the very tensor that `rsample` or `sample` returned last costs nothing; of any other it
    inverts f. `entropy` is the base's, exact, plus the volume at the last draw: unbiased, not exact. `mean`
    is f at the base's mean, a code of the example; the expectation has no closed form.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = True

    def __init__(self, base: Distribution, flow: FlowPosterior, context: Tensor) -> None:
        self.base, self.flow, self.context = base, flow, context
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None  # z, ε and log|det dz/dε|
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """ε of the base, mapped: (*sample_shape, N, *event)."""
        noise = self.base.rsample(sample_shape)
        z, logabsdet = self.flow.from_base(noise, self.context)
        self._drawn = z, noise, logabsdet
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x) in nats: (*sample_shape, N, *event) -> (*sample_shape, N)."""
        if self._drawn is not None and value is self._drawn[0]:
            _, noise, logabsdet = self._drawn
            return self.base.log_prob(noise) - logabsdet
        noise, logabsdet = self.flow.to_base(value, self.context)
        return self.base.log_prob(noise) + logabsdet

    def entropy(self) -> Tensor:
        """Of q(z|x), (N,), estimated from the last draw, or a new one."""
        if self._drawn is None or self._drawn[2].shape != self.batch_shape:
            self.rsample()
        _, _, logabsdet = self._drawn  # type: ignore[misc]
        return self.base.entropy() + logabsdet

    @property
    def mean(self) -> Tensor:
        """f at the base's mean, (N, *event)."""
        return self.flow.from_base(self.base.mean, self.context)[0]
