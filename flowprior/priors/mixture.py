"""A learnable mixture of Gaussians, as a prior of its own or as the base of a flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprior.checks import check_count, check_one_of
from flowprior.errors import InputError
from flowprior.priors.expectation import Moments, floor_of, kmeans, maximize, scikit_learn_em
from flowprior.priors.prior import Prior

_MOST, _ROWS_A_COMPONENT = 128, 100  # components where the data may decide
_MOST_OF_ALL = 2**20
_LARGEST_FULL = 64  # features up to which the default covariance is full
_NO_WEIGHT = -1e4  # a logit whose softmax, and so its gradient, is exactly zero in float32 and float64
_CHUNK = 2**22  # elements of a (K, N, D) or (N, D, D) block that the full covariance holds at a time


class MixturePrior(Prior):
    """p(z) = Σ_k w_k N(z; m_k, C_k), with w, m and C as parameters.

    Log-weights, means and Cholesky factors of the covariances are learned by gradient; `initialize` starts
    them from data. `start="em", covariance="full"` is the Gaussian mixture that the papers fit on codes. A
    draw picks a component, and a pick has no path gradient: `has_rsample` is False.

    Args:
        features: the event shape, an int or a tuple; components are Gaussians over the flattened event.
        components: K. None means 128, of which `initialize` uses one for each hundred latents where it sees
            fewer than 12,800: with less data a component learns its few points by heart. The others stay,
            with a weight of exactly zero.
        covariance: "diagonal" or "full"; None means full up to 64 features and diagonal beyond, where K
            matrices of D x D grow too large (compared in benchmarks/fit_fashion.py).
        start: what `initialize` runs, "kmeans" (weights, means and covariances of k-means clusters) or "em"
            (expectation maximization to convergence, scikit-learn's GaussianMixture).

    Raises:
        InputError: if an argument is not one of these.

    >>> prior = MixturePrior(2, components=3)
    >>> latents = torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0], [51.0, 0.0], [90.0, 0.0], [91.0, 0.0]])
    >>> prior.initialize(latents)
    >>> sorted(prior.means[:, 0].tolist())
    [0.5, 50.5, 90.5]
    """

    has_rsample = False

    def __init__(
        self,
        features: int | Sequence[int],
        components: int | None = None,
        covariance: Literal["diagonal", "full"] | None = None,
        start: Literal["kmeans", "em"] = "kmeans",
    ) -> None:
        super().__init__(features)
        self._follows_data = components is None
        self._folded: Tensor | None = None  # inverses of the Cholesky factors, in an export
        self.components = components = check_count(
            "components", _MOST if components is None else components, most=_MOST_OF_ALL
        )
        if covariance is None:
            covariance = "full" if self.event_shape.numel() <= _LARGEST_FULL else "diagonal"
        check_one_of("covariance", covariance, ("diagonal", "full"))
        check_one_of("start", start, ("kmeans", "em"))
        self.covariance, self.start = covariance, start
        size = self.event_shape.numel()
        # Until it is initialized the mixture looks like N(0, I): spread ½ of the means plus ¾ within them
        # gives unit variance, and the random means let the gradient tell the components apart.
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(0.5 * torch.randn(components, size))
        self.log_scales = nn.Parameter(torch.full((components, size), 0.5 * math.log(0.75)))
        # Below the diagonal of the Cholesky factors; one feature has nothing there.
        full = covariance == "full" and size > 1
        self.lower = nn.Parameter(torch.zeros(components, size, size)) if full else None

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {
            "components": None if self._follows_data else self.components,
            "covariance": self.covariance,
            "start": self.start,
        }

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factors of the covariances, (K, D, D)."""
        diagonal = torch.diag_embed(self.log_scales.exp())
        return diagonal if self.lower is None else diagonal + self.lower.tril(-1)

    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        size = self.event_shape.numel()
        if count == 0:
            return self.means.new_empty(0, *self.event_shape)
        weights = self.logits.softmax(0)
        weights = weights if generator is None else weights.to(generator.device)
        index = torch.multinomial(weights, count, replacement=True, generator=generator)  # (N,)
        index = index.to(self.device)
        noise = temperature * self._noise(count, size, generator=generator)
        if self.lower is None:
            noise = self.log_scales.exp()[index] * noise
        else:
            # one product a component, of its rows side by side; their numbers are asked for once
            order, counts = index.argsort(), index.bincount(minlength=self.components).tolist()
            parts = zip(noise[order].split(counts), self.scale_tril.mT, strict=True)
            noise[order] = torch.cat([rows @ factor for rows, factor in parts if len(rows)])
        return (self.means[index] + noise).reshape(count, *self.event_shape)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        rows = z.flatten(1)  # (N, D)
        distance = (self._diagonal_distance if self.lower is None else self._full_distance)(rows)  # (N, K)
        log_weights = self.logits.log_softmax(0) - self.log_scales.sum(-1)  # (K,)
        log_prob = torch.logsumexp(log_weights - 0.5 * distance, -1)
        constant = 0.5 * self.event_shape.numel() * math.log(2 * math.pi)
        return (log_prob - constant).to(z.dtype)

    def _diagonal_distance(self, rows: Tensor) -> Tensor:
        # Σ (x - m)² / s² as three matrix products: (N, K) in memory instead of (N, K, D). The terms cancel,
        # so they are summed in float64 (which MPS lacks).
        dtype = rows.dtype if rows.device.type == "mps" else torch.float64
        x, means = rows.to(dtype), self.means.to(dtype)
        precision = (-2 * self.log_scales.to(dtype)).exp()  # (K, D)
        cross = x @ (means * precision).T
        return x.square() @ precision.T - 2 * cross + (means.square() * precision).sum(-1)

    def _full_distance(self, rows: Tensor) -> Tensor:
        inverse = self._inverse() if self._folded is None else self._folded
        step = max(1, _CHUNK // (self.components * rows.shape[-1]))
        blocks = []
        for chunk in (rows,) if torch.compiler.is_exporting() else rows.split(step):
            offset = chunk - self.means[:, None]  # (K, n, D)
            blocks.append((offset @ inverse.mT).square().sum(-1).T)  # (n, K)
        return torch.cat(blocks)

    def _inverse(self) -> Tensor:
        """The inverses of the Cholesky factors, (K, D, D)."""
        factors = self.scale_tril
        identity = torch.eye(factors.shape[-1], device=factors.device, dtype=factors.dtype)
        return torch.linalg.solve_triangular(factors, identity, upper=False)

    def fold(self) -> None:
        self._folded = None if self.lower is None else self._inverse()

    def _initialize(
        self, latents: Tensor, context: Tensor | None, seed: int, other: Tensor | None = None
    ) -> None:
        """`other` are the same rows on another scale, whose clusters are taken if they are more likely."""
        follows = min(_MOST, max(1, len(latents) // _ROWS_A_COMPONENT))
        used = follows if self._follows_data else self.components
        if len(latents) < used:
            raise InputError(
                f"`latents` has {len(latents)} rows but a mixture of `components` (={used}) "
                "needs at least as many: give more rows or fewer components."
            )
        rows = latents.flatten(1).double().cpu()
        if self.start == "em":
            self.start_from(scikit_learn_em(rows, used, self.covariance, seed))
            return
        pull = 1 if self.covariance == "diagonal" else rows.shape[1] + 1
        shares, centers = kmeans(rows, used, seed)
        found = [maximize(rows, shares, centers, self.covariance, pull, floor_of(rows))]
        if other is not None:
            shares, _ = kmeans(other.flatten(1).double().cpu(), used, seed)
            centers = shares.T @ rows / shares.sum(0).clamp(min=1)[:, None]
            found.append(maximize(rows, shares, centers, self.covariance, pull, floor_of(rows)))
        self.start_from(min(found, key=lambda moments: moments.nll(rows)))

    @torch.no_grad()
    def start_from(self, moments: Moments) -> None:
        """Take over a mixture, in place, of at most as many components and of this kind of covariance."""
        factors = moments.factors
        diagonal = factors if factors.dim() == 2 else factors.diagonal(dim1=1, dim2=2)
        started = {"logits": moments.weights.log(), "means": moments.means, "log_scales": diagonal.log()}
        if self.lower is not None:
            started["lower"] = factors.tril(-1)
        for name, value in started.items():
            getattr(self, name).copy_(_filled(name, value, self.components))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Earlier versions stored only the components in use where their number followed the data.
        if self._follows_data and len(state_dict.get(f"{prefix}logits", ())) in range(1, self.components):
            for name, _ in self.named_parameters():
                if (key := f"{prefix}{name}") in state_dict:
                    state_dict[key] = _filled(name, state_dict[key], self.components)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _filled(name: str, value: Tensor, components: int) -> Tensor:
    """A parameter of some components, and behind them of the unused ones: standard normals of no weight."""
    rest = value.new_zeros(components - len(value), *value.shape[1:])
    return torch.cat((value, rest + _NO_WEIGHT if name == "logits" else rest))
