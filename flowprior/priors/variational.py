"""A variational autoencoder of the codes: the second stage of the two-stage VAE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.bijectors.recipes import as_widths
from flowprior.checks import check_count
from flowprior.priors.prior import Prior
from flowprior.priors.standard_normal import normal_kl
from flowprior.tensors import numel

MIN_STD = 1e-6  # of q(u|z), as in Dai & Wipf's code


class VariationalPrior(Prior):
    """p(z) = ∫ N(z; f(u), γ² I) N(u; 0, I) du, a VAE whose data are codes, with one learned γ.

    Encoder and decoder are fully connected ReLU layers; the input is joined to the last hidden layer, so that
    the heads see it as well. There is no density, but a bound of it, `log_bound`, which `LatentNLL`, and so
    a `prior_stage`, maximizes. A draw adds the noise γ. `initialize` makes the codes' columns standard, which
    the published code leaves out: γ starts at 1 in these units.

    Args:
        features: the event shape of z, an int or a tuple; the networks see it flat.
        noise_features: entries of u; None for as many as z has, as in the paper.
        hidden_features: widths of the hidden layers of both networks.

    Raises:
        InputError: if an argument is none of these.

    Source: Dai & Wipf 2019 (Diagnosing and enhancing VAE models), section 4 and their code: three layers of
    1024, log γ as the parameter.

    >>> prior = VariationalPrior(4, hidden_features=(16,))
    >>> prior.sample(3).shape, prior.log_bound(torch.zeros(5, 4)).shape
    (torch.Size([3, 4]), torch.Size([5]))
    """

    has_density = False
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        features: int | Sequence[int],
        *,
        noise_features: int | None = None,
        hidden_features: Sequence[int] = (1024, 1024, 1024),
    ) -> None:
        super().__init__(features)
        size = numel(self.event_shape)
        self.noise_features = check_count(
            "noise_features", size if noise_features is None else noise_features
        )
        self.hidden_features = as_widths(hidden_features)
        self.encoder = SkipNetwork(size, 2 * self.noise_features, self.hidden_features)
        self.decoder = SkipNetwork(self.noise_features, size, self.hidden_features)
        self.log_gamma = nn.Parameter(torch.zeros(()))
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {
            "noise_features": self.noise_features,
            "hidden_features": self.hidden_features,
        }

    def _initialize(self, latents: Tensor, context: Tensor | None, seed: int) -> None:
        rows = latents.flatten(1)
        std = rows.std(0)
        self.shift.copy_(rows.mean(0))
        self.scale.copy_(torch.where(std > 0, std, 1))  # a constant column keeps its unit

    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        u = temperature * self._noise(count, self.noise_features, generator=generator)
        mean = self.decoder(u)
        standard = mean + temperature * self.log_gamma.exp() * self._noise(*mean.shape, generator=generator)
        return (self.shift + self.scale * standard).reshape(count, *self.event_shape)

    def _log_bound(self, z: Tensor, context: Tensor | None) -> Tensor:
        """E_q[log p(z|u)] - KL(q(u|z) ‖ N(0, I)) from one draw u ~ q of each row."""
        standard = (z.flatten(1) - self.shift) / self.scale
        mean, raw = self.encoder(standard).chunk(2, 1)
        std = nn.functional.softplus(raw) + MIN_STD
        u = mean + std * torch.randn_like(mean)
        squares = (standard - self.decoder(u)).square() * torch.exp(-2 * self.log_gamma)
        likelihood = -0.5 * (squares + 2 * self.log_gamma + math.log(2 * math.pi)).sum(1)
        return likelihood - self.scale.log().sum() - normal_kl(mean, std, 1)


class SkipNetwork(nn.Module):
    """Fully connected ReLU layers, then a head that sees the last of them beside the input."""

    def __init__(self, in_features: int, out_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        layers = [step for pair in pairwise(widths) for step in (nn.Linear(*pair), nn.ReLU())]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] + in_features, out_features)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (N, in_features) -> (N, out_features)."""
        return self.head(torch.cat((self.body(rows), rows), 1))
