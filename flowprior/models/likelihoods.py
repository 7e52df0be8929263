"""Likelihoods p(x|z): they read a decoder's output as a mean and give -log p(x|z) in nats per example."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.checks import check_number, check_one_of
from flowprior.errors import InputError

ACTIVATIONS = {"sigmoid": torch.sigmoid, "identity": lambda output: output}


class Likelihood(nn.Module, ABC):
    """The contract: `mean` of the decoder's output and its `nll`, both from the same raw output."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Decoder output (N, *event) -> mean of p(x|z), same shape."""

    @abstractmethod
    def sample(self, output: Tensor) -> Tensor:
        """A draw x ~ p(x|z) for each decoder output (N, *event), same shape, with the gradient of the path
        where there is one."""

    @abstractmethod
    def _nll(self, output: Tensor, x: Tensor) -> Tensor:
        """(N, *event) twice, of one dtype -> (N,) in nats."""

    def nll(self, output: Tensor, x: Tensor) -> Tensor:
        """-log p(x|z) in nats, constants included: output and x (N, *event) -> (N,).

        Outputs in half precision are summed in the precision of `x`. Raises InputError if the shapes differ.
        """
        if output.shape != x.shape:
            raise InputError(
                f"The decoder's output has shape {tuple(output.shape)} but `x` has {tuple(x.shape)}: "
                "build the decoder for the size and channels of the data."
            )
        return self._nll(output.to(x.dtype), x)

    def learned_parameters(self) -> list[nn.Parameter]:
        """The parameters that training may change."""
        return list(self.parameters())


class LocatedLikelihood(Likelihood):
    """A likelihood around an activation of the output, of one scale for all entries that may be learned.

    Args:
        name: of the scale; `log_<name>` is a buffer, or a parameter where it is learned.
        value: a positive number, or "learned", which starts at 1.
        activation: "sigmoid" for images in [0, 1] or "identity" for vectors.

    Raises:
        InputError: on any other value or activation.
    """

    def __init__(self, name: str, value: float | str, activation: str) -> None:
        super().__init__()
        self.activation = check_one_of("activation", activation, ACTIVATIONS)
        if value == "learned":
            self.register_parameter(f"log_{name}", nn.Parameter(torch.zeros(())))
        else:
            number = check_number(name, value, above=0, fix="or 'learned'")  # type: ignore[arg-type]
            self.register_buffer(f"log_{name}", torch.tensor(math.log(number)))

    def mean(self, output: Tensor) -> Tensor:
        """The activation of the output, same shape."""
        return ACTIVATIONS[self.activation](output)


class GaussianLikelihood(LocatedLikelihood):
    """p(x|z) = N(a(output), v·I): nll = ‖x - a(output)‖² / 2v + (n/2) log 2πv over the n entries of x.

    `variance=1.0` is the usual squared error. `variance="learned"` makes log v one trained scalar that starts
    at zero: Dai & Wipf's γ² = v, and GLF's "learnable β" = 1/v. Arguments, errors: `LocatedLikelihood`.

    Source: Dai & Wipf 2019, section 4 (learned γ); GLF, section 3.2.

    >>> GaussianLikelihood(activation="identity").nll(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([2.8379])
    """

    log_variance: Tensor

    def __init__(self, variance: float | str = 1.0, activation: str = "sigmoid") -> None:
        super().__init__("variance", variance, activation)

    @property
    def variance(self) -> Tensor:
        """v, a scalar; GLF's β is 1/v."""
        return self.log_variance.exp()

    def sample(self, output: Tensor) -> Tensor:
        """a(output) + √v ε, ε ~ N(0, I)."""
        return self.mean(output) + (0.5 * self.log_variance).exp().to(output) * torch.randn_like(output)

    def _nll(self, output: Tensor, x: Tensor) -> Tensor:
        residual = (x - self.mean(output)).flatten(1)
        log_variance = self.log_variance.to(x.dtype)
        constant = residual.shape[1] * (log_variance + math.log(2 * math.pi))
        return 0.5 * (residual.square().sum(1) * torch.exp(-log_variance) + constant)


class LaplaceLikelihood(LocatedLikelihood):
    """p(x|z) = Laplace(a(output), b) per entry: nll = Σ |x - a(output)| / b + n log 2b over n entries of x.

    The L1 loss of image-to-image translation, with its constant. `scale="learned"` makes log b one trained
    scalar that starts at zero, with the mean absolute error as optimum of b. Arguments, errors:
    `LocatedLikelihood`.

    >>> LaplaceLikelihood(activation="identity").nll(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([3.3863])
    """

    log_scale: Tensor

    def __init__(self, scale: float | str = 1.0, activation: str = "sigmoid") -> None:
        super().__init__("scale", scale, activation)

    @property
    def scale(self) -> Tensor:
        """b, a scalar."""
        return self.log_scale.exp()

    def sample(self, output: Tensor) -> Tensor:
        """a(output) + b ε, ε ~ Laplace(0, 1)."""
        uniform = torch.rand_like(output) - 0.5  # in [-½, ½); its left end would be infinite
        noise = -uniform.sign() * torch.log1p((-2 * uniform.abs()).clamp(min=-1 + 1e-7))
        return self.mean(output) + self.log_scale.exp().to(output) * noise

    def _nll(self, output: Tensor, x: Tensor) -> Tensor:
        distance = (x - self.mean(output)).abs().flatten(1)
        log_scale = self.log_scale.to(x.dtype)
        constant = distance.shape[1] * (log_scale + math.log(2))
        return distance.sum(1) * torch.exp(-log_scale) + constant


class BernoulliLikelihood(Likelihood):
    """p(x|z) = Bernoulli(sigmoid(output)) per entry: nll = cross-entropy summed over the entries.

    Entries of x between 0 and 1 are allowed and read as probabilities, as is usual for gray images.

    >>> BernoulliLikelihood().nll(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([1.3863])
    """

    def mean(self, output: Tensor) -> Tensor:
        """sigmoid(output), same shape."""
        return torch.sigmoid(output)

    def sample(self, output: Tensor) -> Tensor:
        """0 or 1 in each entry, without a gradient."""
        return torch.bernoulli(self.mean(output))

    def _nll(self, output: Tensor, x: Tensor) -> Tensor:
        entropies = functional.binary_cross_entropy_with_logits(output, x, reduction="none")
        return entropies.flatten(1).sum(1)


class PerceptualLikelihood(Likelihood):
    """Pixels plus network features: nll = pixel nll + weight · n · Σ_l mean|φ_l(x) - φ_l(x̂)|.

    x̂ is the mean image, φ_l the feature maps, n the entries of x: the pixels are summed where the published
    losses take means, so the feature means times n keep the ratio of the terms. The second is not normalized:
    the sum is an nll up to a constant. At weight 1 it is by far the larger, as in the published losses.

    Args:
        pixel: the likelihood of the pixels.
        features: images (N, C, H, W) in [0, 1] -> list of maps, e.g. `VGGFeatures()`. It is frozen here.
        weight: of the feature distances, not negative.

    Raises:
        InputError: if `weight` is negative or not finite.

    Source: Johnson et al. 2016, section 3; GLF, section 4.1 (L1 on VGG stages).
    """

    def __init__(self, pixel: Likelihood, features: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        self.pixel, self.weight = pixel, check_number("weight", weight, least=0)
        self.features = features.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualLikelihood":
        """As `nn.Module.train`, but the feature network stays in evaluation mode."""
        super().train(mode)
        self.features.eval()
        return self

    def learned_parameters(self) -> list[nn.Parameter]:
        """Those of the pixel likelihood: the feature network is never trained."""
        return self.pixel.learned_parameters()

    def mean(self, output: Tensor) -> Tensor:
        """The pixel likelihood's mean image."""
        return self.pixel.mean(output)

    def sample(self, output: Tensor) -> Tensor:
        """A draw of the pixel likelihood; the feature term has no density to draw from."""
        return self.pixel.sample(output)

    def feature_distance(self, image: Tensor, x: Tensor) -> Tensor:
        """Σ_l mean|φ_l(x) - φ_l(image)|: (N, C, H, W) twice -> (N,)."""
        with torch.no_grad():
            wanted = self.features(x)
        pairs = zip(self.features(image), wanted, strict=True)
        return torch.stack([(got - goal).abs().flatten(1).mean(1) for got, goal in pairs]).sum(0)

    def _nll(self, output: Tensor, x: Tensor) -> Tensor:
        scale = self.weight * x[0].numel()
        return self.pixel.nll(output, x) + scale * self.feature_distance(self.mean(output), x)
