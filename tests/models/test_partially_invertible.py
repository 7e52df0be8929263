"""Partially invertible models where the truth is known: exact likelihoods, uniform noise, scalings."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.distributions.transforms import AffineTransform

from flowprior import Bijector, InputError, StandardNormal
from flowprior.bijectors import MultiScale, Pixels, as_bijector
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior, PartiallyInvertible
from flowprior.networks import MLP
from flowprior.objectives import CoverageQuality

SHAPE = (1, 8, 8)


class Linear(Bijector):
    """y = A x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(len(matrix))
        self.matrix = nn.Parameter(matrix)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z @ self.matrix.T, torch.linalg.slogdet(self.matrix).logabsdet.expand(len(z))

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        volume = -torch.linalg.slogdet(self.matrix).logabsdet.expand(len(z0))
        return torch.linalg.solve(self.matrix, z0.T).T, volume


def linear_gaussian() -> tuple[Autoencoder, Tensor, Tensor, float]:
    """y = W z + b + σ ε with orthogonal columns of W, and its exact posterior, which then is factorized."""
    torch.manual_seed(0)
    columns = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64)).Q * torch.tensor([1.5, 0.7]).double()
    offset, variance = torch.randn(4, dtype=torch.float64), 0.3
    encoder, decoder = MLP(4, 4, hidden=()).double(), MLP(2, 4, hidden=()).double()
    precision = columns.square().sum(0) + variance
    with torch.no_grad():
        decoder.layers[0].weight.copy_(columns)
        decoder.layers[0].bias.copy_(offset)
        encoder.layers[0].weight.zero_()
        encoder.layers[0].weight[:2] = columns.T / precision[:, None]
        encoder.layers[0].bias[:2] = -(columns.T @ offset) / precision
        std = (variance / precision).sqrt() - 1e-6
        encoder.layers[0].bias[2:] = torch.log(torch.expm1(std))
    likelihood = GaussianLikelihood(variance, "identity").double()
    prior = StandardNormal(2).double()
    model = Autoencoder(encoder, decoder, prior, posterior=GaussianPosterior(), likelihood=likelihood)
    return model, columns, offset, variance


def test_a_linear_gaussian_model_with_a_linear_f_meets_its_exact_likelihood() -> None:
    model, columns, offset, variance = linear_gaussian()
    matrix = torch.randn(4, 4, dtype=torch.float64)
    whole = PartiallyInvertible(model, Linear(matrix).double())
    x = torch.randn(7, 4, dtype=torch.float64)
    y_law = MultivariateNormal(offset, columns @ columns.T + variance * torch.eye(4, dtype=torch.float64))
    exact = y_law.log_prob(x @ matrix.T) + torch.linalg.slogdet(matrix).logabsdet
    terms = whole.bound(x, closed_form=False)
    torch.testing.assert_close(-(terms.reconstruction + terms.kl), exact, rtol=1e-6, atol=1e-6)
    bounds = torch.stack([whole.log_bound(x) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(bounds, exact, rtol=0, atol=0.1)
    torch.manual_seed(0)
    drawn = whole.sample(100_000)
    inverse = torch.linalg.inv(matrix)
    wanted = inverse @ y_law.covariance_matrix @ inverse.T
    torch.testing.assert_close(drawn.T.cov(), wanted, rtol=0.03, atol=0.03 * wanted.abs().max().item())
    torch.testing.assert_close(drawn.mean(0), inverse @ offset, rtol=0, atol=0.03 * wanted.abs().max().item())


def test_without_f_it_is_the_inner_model() -> None:
    model = linear_gaussian()[0]
    x = torch.randn(5, 4, dtype=torch.float64)
    identity = PartiallyInvertible(model, Linear(torch.eye(4, dtype=torch.float64)).double())
    for built in (PartiallyInvertible(model), identity):
        torch.manual_seed(1)
        wanted = model.log_bound(x)
        torch.manual_seed(1)
        assert torch.equal(built.log_bound(x), wanted)
        z = torch.randn(3, 5, 2, dtype=torch.float64)
        torch.testing.assert_close(built.decode(z), model.decode(z))
        assert built.prior is model.prior
        mean = PartiallyInvertible(model, noise=False).reconstruct(x)
        torch.testing.assert_close(mean, model.reconstruct(x))
        assert built.reconstruct(x).sub(mean).std().item() == pytest.approx(0.3**0.5, abs=0.25)


class Blind(nn.Module):
    """A decoder that says the same of every latent."""

    def __init__(self, mean: float = 0.0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))

    def forward(self, z: Tensor) -> Tensor:
        return self.mean.expand(len(z), *SHAPE)


class BlindEncoder(nn.Module):
    """An encoder whose posterior is the prior."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(1 - 1e-6))))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), 2), self.raw.expand(len(x), 2)], 1)


def blind(variance: float, f: Bijector | None = None, transform: str = "scale", **options: float):
    likelihood = GaussianLikelihood(variance, "identity")
    inner = Autoencoder(
        BlindEncoder(), Blind(), StandardNormal(2), posterior=GaussianPosterior(), likelihood=likelihood
    )
    return PartiallyInvertible(inner, f, Pixels(SHAPE, transform, **options))


def bits(model: Autoencoder, x: Tensor) -> float:
    with torch.no_grad():
        return -model.log_bound(x).double().mean().item() / (64 * math.log(2)) + 8


def noise(n: int = 4000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, *SHAPE), generator=generator).float() / 255


def test_uniform_noise_costs_what_it_must() -> None:
    """8 + ½ log2(2πe/12) bits for a Gaussian on the pixels, 8.02 on their logits, and 8 at the very least."""
    assert bits(blind(4 / 12), noise()) == pytest.approx(
        8 + 0.5 * math.log2(2 * math.pi * math.e / 12), abs=2e-3
    )
    logits = blind(math.pi**2 / 3, transform="logit", margin=1e-7)
    assert bits(logits, noise()) == pytest.approx(8.0205, abs=2e-3)
    for variance in (0.25, 0.33, 0.5):
        assert bits(blind(variance), noise()) > 8.25


def test_a_flow_that_learns_uniform_noise_does_not_get_below_eight_bits() -> None:
    torch.manual_seed(0)
    model = blind(1.0, MultiScale(SHAPE, 1, 2, 1, hidden_channels=4))
    objective = CoverageQuality(model, quality=0.0)
    optimizer = torch.optim.Adamax(model.parameters(), 5e-3)
    x = noise(1600)
    for part in x.split(32):
        optimizer.zero_grad()
        objective.losses("model", {"x": part}, 0)["loss"].backward()
        optimizer.step()
    after = bits(model.eval(), noise())
    assert 8.0 < after < 8.9, "it started at 8.9"


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_rescaled_features_leave_the_bits_unchanged(factor: float) -> None:
    torch.manual_seed(3)
    plain = bits(blind(0.3), noise(50))
    scaling = as_bijector([AffineTransform(0.0, 1 / factor, event_dim=0)], SHAPE)
    torch.manual_seed(3)
    assert bits(blind(0.3 * factor**2, scaling), noise(50)) == pytest.approx(plain, rel=1e-5)


def test_samples_and_gradients_of_f_and_its_data_dependent_start() -> None:
    torch.manual_seed(0)
    model = blind(0.01, MultiScale(SHAPE, 2, 1, 1, hidden_channels=4))
    x = noise(200) * 0.2 + 0.4
    model.initialize({"x": x})
    y, _ = model.features(x)
    assert 0.3 < y.std().item() < 3
    state = {name: each.clone() for name, each in model.state_dict().items()}
    model.initialize({"x": 1 - x})
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    torch.testing.assert_close(
        model.images(model.features(x, noise=False)[0]), Pixels(SHAPE).dequantize(x, False)
    )
    with torch.no_grad():
        for parameter in model.f.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inner = model.model
    inner.likelihood = GaussianLikelihood("learned", "identity")
    torch.manual_seed(1)
    one = model.rsample(4, train_flow=True)
    torch.manual_seed(1)
    other = model.rsample(4, train_flow=False)
    assert torch.equal(one, other)
    other.square().sum().backward()
    assert all(p.grad is None for p in model.f.parameters()), "f does not learn from samples"
    assert inner.decoder.mean.grad.abs() > 0
    assert inner.likelihood.log_variance.grad.abs() > 0, "the variance does"
    one.square().sum().backward()
    assert any(p.grad is not None for p in model.f.parameters())


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(InputError, match="`f` has event shape \\(3, 8, 8\\) and `pixels` \\(1, 8, 8\\)"):
        blind(1.0, MultiScale((3, 8, 8)))
