"""A prior that is a network applied to noise: samples, and no density."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprior.bijectors.recipes import as_widths
from flowprior.checks import check_count, check_one_of
from flowprior.priors.prior import Prior
from flowprior.tensors import numel

Noise = Literal["normal", "uniform"]


class ImplicitPrior(Prior):
    """z = g(u), u ~ N(0, I) or U(-1, 1): fully connected layers FC - (batch norm) - ReLU, and a last FC.

    It learns from comparisons of its draws with codes (`AdversarialAutoencoder`, `MomentMatching`). Without a
    density `log_prob` and `kl` say so. While `rsample` draws in training mode, batch norms use the statistics
    of that batch and count them; `sample` always takes the running ones: its draws are independent.

    Args:
        features: the event shape of z, an int or a tuple such as `(4, 8, 8)`.
        noise_features: entries of u; None for as many as z has.
        hidden_features: widths of the hidden layers.
        batch_norm: before each ReLU.
        noise: "normal" or "uniform".

    Raises:
        InputError: if an argument is none of these.

    Sources: Morrow & Chiu, section 4 and A.2 (three layers of 1024; the width R of the last layer, dim(z)/2
    as A.1 defines it, must there be dim(z)); Li et al. 2015 (GMMN: uniform noise, no batch norm).

    >>> prior = ImplicitPrior(4, hidden_features=(16,))
    >>> prior.sample(3).shape, prior.rsample(3).requires_grad
    (torch.Size([3, 4]), True)
    """

    has_density = False

    def __init__(
        self,
        features: int | Sequence[int],
        *,
        noise_features: int | None = None,
        hidden_features: Sequence[int] = (1024, 1024, 1024),
        batch_norm: bool = True,
        noise: Noise = "normal",
    ) -> None:
        super().__init__(features)
        check_one_of("noise", noise, ("normal", "uniform"))
        noise_features = numel(self.event_shape) if noise_features is None else noise_features
        widths = [check_count("noise_features", noise_features), *as_widths(hidden_features)]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            # A norm would remove a bias before it.
            layers.append(nn.Linear(width, following, bias=not batch_norm))
            layers += [_Norm(following), nn.ReLU()] if batch_norm else [nn.ReLU()]
        layers.append(nn.Linear(widths[-1], numel(self.event_shape)))
        self.layers = nn.Sequential(*layers)
        self.noise_features, self.noise = noise_features, noise
        self._arguments = {
            "noise_features": noise_features,
            "hidden_features": tuple(widths[1:]),
            "batch_norm": batch_norm,
            "noise": noise,
        }

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | self._arguments

    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        uniform = self.noise == "uniform"
        u = self._noise(count, self.noise_features, generator=generator, uniform=uniform)
        if uniform:
            u = 2 * u - 1
        return self.layers(temperature * u).reshape(count, *self.event_shape)


class _Norm(nn.BatchNorm1d):
    """Batch norm whose batch statistics are those of draws that something learns from, and of no others."""

    def forward(self, draws: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and len(draws) > 1:
            return super().forward(draws)
        return nn.functional.batch_norm(
            draws, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )
