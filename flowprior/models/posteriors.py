"""Posteriors: they read an encoder's output as a distribution over z."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional

from flowprior.checks import check_number
from flowprior.errors import InputError
from flowprior.tensors import factorized, numel

MIN_STD = 1e-6  # Dai & Wipf: σ = softplus + 1e-6


class Posterior(nn.Module, ABC):
    """The contract: how many numbers the encoder must give, and which distribution they make.

    Subclasses must implement `_distribution`.
    """

    multiplier: int = 1  # the encoder's numbers per latent dimension
    deterministic: bool = False  # whether q(z|x) is a point

    def out_features(self, features: int | Sequence[int]) -> int:
        """The encoder outputs that a latent of `features` (an int or an event shape) needs.

        >>> GaussianPosterior().out_features(20), DeterministicPosterior().out_features((4, 8, 8))
        (40, 256)
        """
        return self.multiplier * numel((features,) if isinstance(features, int) else features)

    def forward(self, h: Tensor, event_shape: Sequence[int] | None = None) -> Distribution:
        """Encoder output (N, out_features) -> distribution of batch shape (N,) and event shape `event_shape`.

        Without `event_shape` the event is the vector (out_features / multiplier,). Numbers in half precision
        are read as float32. Raises InputError if `h` is not (N, out_features) of that event shape.
        """
        expected = None if event_shape is None else self.out_features(event_shape)
        if h.dim() != 2 or h.shape[1] % self.multiplier or (expected is not None and h.shape[1] != expected):
            wanted = f"a multiple of {self.multiplier}" if expected is None else str(expected)
            raise InputError(
                f"The encoder's output has shape {tuple(h.shape)} but {type(self).__name__} reads "
                f"(N, {wanted}): build the encoder with `out_features=posterior.out_features(features)`."
            )
        if h.dtype in (torch.float16, torch.bfloat16):
            h = h.float()
        shape = (h.shape[1] // self.multiplier,) if event_shape is None else tuple(event_shape)
        return self._distribution([part.reshape(-1, *shape) for part in h.chunk(self.multiplier, dim=1)])

    @abstractmethod
    def _distribution(self, parts: list[Tensor]) -> Distribution:
        """`multiplier` tensors (N, *event) -> the distribution, which lets NaN through to the loss, where the
        loop names step and term."""


class DeterministicPosterior(Posterior):
    """q(z|x) = δ(z - E(x)), the deterministic encoder of GLF (section 3.3); a Pyro `Delta`.

    >>> DeterministicPosterior()(torch.zeros(3, 20)).rsample().shape
    torch.Size([3, 20])
    """

    deterministic = True

    def _distribution(self, parts: list[Tensor]) -> Distribution:
        from flowprior.pyro_names import Delta

        return Delta(parts[0], event_dim=parts[0].dim() - 1, validate_args=False)


class GaussianPosterior(Posterior):
    """q(z|x) = N(μ, diag σ²) with (μ, r) from the encoder and σ = softplus(r) + 1e-6 (Dai & Wipf).

    >>> GaussianPosterior()(torch.zeros(3, 40)).entropy().shape
    torch.Size([3])
    """

    multiplier = 2

    def _distribution(self, parts: list[Tensor]) -> Distribution:
        mean, raw = parts
        return gaussian(mean, functional.softplus(raw) + MIN_STD)


class ConstantGaussianPosterior(Posterior):
    """q(z|x) = N(μ, std² I) with μ from the encoder and one fixed `std` for every code and dimension.

    The entropy is a constant, so that a flow prior trained along by the ELBO sees codes of a known
    resolution: they can neither collapse to points nor spread (SimFlow, 2025; its std is about 0.5).

    Raises:
        InputError: unless `std` is positive and finite; for std 0 take DeterministicPosterior and LatentFlow.

    >>> ConstantGaussianPosterior(0.25)(torch.zeros(3, 20)).stddev.unique()
    tensor([0.2500])
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = check_number("std", std, above=0)

    def _distribution(self, parts: list[Tensor]) -> Distribution:
        return gaussian(parts[0], torch.full_like(parts[0], self.std))


class UnitGaussianPosterior(ConstantGaussianPosterior):
    """q(z|x) = N(μ, I) with μ from the encoder, as the Variational U-net has it (Esser et al. 2018).

    >>> UnitGaussianPosterior()(torch.zeros(3, 20)).stddev.unique()
    tensor([1.])
    """

    def __init__(self) -> None:
        super().__init__(1.0)


def gaussian(mean: Tensor, std: Tensor) -> Distribution:
    """N(mean, diag std²) over the event of (N, *event) twice."""
    return Independent(Normal(mean, std, validate_args=False), mean.dim() - 1, validate_args=False)


def normal_moments(posterior: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N, *event) of a factorized Gaussian; raises InputError on another one."""
    base = factorized(posterior)
    if not isinstance(base, Normal):
        raise InputError(
            f"The posterior (a {type(base).__name__}) must be a factorized Gaussian, whose dimensions have "
            "densities of their own: build the model with GaussianPosterior()."
        )
    return base.loc, base.scale
