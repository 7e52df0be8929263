"""Flows on images: log-determinants against autograd, inverses in both modes, shapes kept at all scales."""

import math

import pytest
import torch
from torch import Tensor, nn

from flowprior import Bijector, InputError
from flowprior.bijectors import ImageCoupling, MultiScale, Pixels, RunningNorm, Squeeze
from flowprior.bijectors.image import squeeze, unsqueeze
from flowprior.bijectors.weight_norm import WeightNormConv2d, WeightNormUp2d, starting_from_data

SHAPE = (3, 4, 4)


def moved(bijector: Bijector) -> Bijector:
    """In float64, evaluation mode, every parameter and statistic off its start."""
    torch.manual_seed(1)
    bijector = bijector.double().eval()
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in bijector.modules():
            if isinstance(module, RunningNorm):
                module.mean.normal_()
                module.variance.uniform_(0.5, 2)
    return bijector


BIJECTORS = {
    "scale": lambda: Pixels(SHAPE),
    "logit": lambda: Pixels(SHAPE, "logit"),
    "checkerboard": lambda: ImageCoupling(SHAPE, hidden_channels=4),
    "checkerboard, flipped": lambda: ImageCoupling(SHAPE, flip=True, hidden_channels=4),
    "channel": lambda: ImageCoupling(SHAPE, "channel", hidden_channels=4),
    "channel, flipped": lambda: ImageCoupling(SHAPE, "channel", True, hidden_channels=4, blocks=1),
    "norm": lambda: RunningNorm(SHAPE),
    "squeeze": lambda: Squeeze(SHAPE, ImageCoupling((12, 2, 2), "channel", hidden_channels=4)),
    "one scale": lambda: MultiScale(SHAPE, hidden_channels=4),
    "three scales": lambda: MultiScale(SHAPE, 3, 2, 1, hidden_channels=4),
}


@pytest.mark.parametrize("name", BIJECTORS)
def test_log_determinants_are_those_of_autograd_and_the_inverse_is_exact(name: str) -> None:
    bijector = moved(BIJECTORS[name]())
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    y, logabsdet = bijector.to_base(x)
    assert y.shape == x.shape
    back, inverse = bijector.from_base(y)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse, -logabsdet)
    for row, volume in zip(x, logabsdet, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: bijector.to_base(v[None])[0][0], row)
        square = jacobian.reshape(48, 48)
        torch.testing.assert_close(torch.linalg.slogdet(square).logabsdet, volume)


@pytest.mark.parametrize("scales", [1, 3])
def test_the_inverse_is_exact_in_training_too(scales: int) -> None:
    flow = moved(MultiScale((3, 8, 8), scales, 2, 1, hidden_channels=4)).train()
    x = torch.rand(6, 3, 8, 8, dtype=torch.float64) * 3 + 1
    before = flow.to_base(x)[0]
    y = flow.to_base(x)[0]
    assert not torch.equal(before, y), "the statistics move with each batch"
    torch.testing.assert_close(flow.from_base(y)[0], x, rtol=1e-9, atol=1e-9)
    ordinary = nn.BatchNorm2d(3).double()
    unlike = ordinary.train()(x) * (ordinary.running_var.sqrt()[:, None, None])
    unlike = unlike + ordinary.running_mean[:, None, None]
    assert (unlike - x).abs().max() > 0.1, "what the running statistics are for"


def test_running_statistics_converge_to_those_of_the_data_and_pass_gradients() -> None:
    norm = RunningNorm((2, 4, 4)).double()
    x = (torch.randn(64, 2, 4, 4, dtype=torch.float64) * 3 + 5).requires_grad_()
    for _ in range(200):
        y, _ = norm.to_base(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3)), torch.ones(2, dtype=torch.float64), atol=2e-3, rtol=0)
    decay, eps = norm.decay, 1e-5
    mean, variance = norm.mean.clone(), norm.variance.clone()

    def by_hand(x: Tensor) -> Tensor:
        m = decay * mean + (1 - decay) * x.mean((0, 2, 3))
        v = decay * variance + (1 - decay) * x.var((0, 2, 3), correction=0)
        return ((x - m[:, None, None]) / (v + eps).sqrt()[:, None, None]).pow(3).sum()

    (wanted,) = torch.autograd.grad(by_hand(x), x)
    (got,) = torch.autograd.grad(norm.to_base(x)[0].pow(3).sum(), x)
    torch.testing.assert_close(got, wanted)


def test_initialize_standardizes_what_reaches_each_norm_and_each_convolution() -> None:
    torch.manual_seed(0)
    flow = MultiScale((3, 8, 8), 2, 2, 1, hidden_channels=8).eval()
    x = torch.rand(64, 3, 8, 8) * 5 - 7
    with starting_from_data(flow):
        flow.initialize(x)
    y, _ = flow.to_base(x)
    torch.testing.assert_close(y[:, :, ::2].var(correction=0), torch.tensor(1.0), atol=0.2, rtol=0)
    assert all(module.gain.abs().max() < 100 for module in flow.modules() if hasattr(module, "gain"))
    torch.testing.assert_close(flow.from_base(y)[0], x, atol=1e-4, rtol=1e-4)


def test_squeezing_moves_every_pixel_to_its_cell() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    squeezed = squeeze(x)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cell = 2 * row + column
        assert torch.equal(squeezed[:, 3 * cell : 3 * cell + 3], x[:, :, row::2, column::2])
    assert torch.equal(unsqueeze(squeezed), x)


def test_dequantization_fills_the_unit_interval_evenly() -> None:
    pixels = Pixels((1, 16, 16))
    torch.manual_seed(0)
    x = torch.randint(256, (64, 1, 16, 16)) / 255
    u = pixels.dequantize(x)
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.equal((u * 256).floor(), (x * 255).round()), "each level stays in its own bin"
    torch.testing.assert_close(u.var(), torch.tensor(1 / 12), atol=1e-3, rtol=0)
    middle = pixels.dequantize(x, noise=False)
    torch.testing.assert_close(middle, ((x * 255).round() + 0.5) / 256)
    torch.testing.assert_close(pixels.from_base(pixels.to_base(u)[0])[0], u)
    logit = Pixels((1, 16, 16), "logit", margin=1e-6)
    assert logit.to_base(u)[0].abs().max() < 14


def test_gains_and_biases_of_a_class_are_those_of_its_own_convolution() -> None:
    for kind, options in ((WeightNormConv2d, {"stride": 2}), (WeightNormUp2d, {})):
        torch.manual_seed(0)
        of_classes, plain = kind(3, 5, classes=4, **options), kind(3, 5, **options)
        for parameter in (of_classes.gain, of_classes.bias):
            nn.init.normal_(parameter)
        plain.direction = of_classes.direction
        x, labels = torch.randn(4, 3, 6, 6), torch.tensor([2, 0, 3, 2])
        got = of_classes(x, nn.functional.one_hot(labels, 4).float())
        for row, label in enumerate(labels):
            plain.gain.data, plain.bias.data = of_classes.gain[label].data, of_classes.bias[label].data
            torch.testing.assert_close(got[row], plain(x[row : row + 1])[0])
    with pytest.raises(InputError, match="`context` is missing: this convolution is for 4 classes"):
        of_classes(x)


def test_up_is_torchs_transposed_convolution() -> None:
    torch.manual_seed(0)
    ours = WeightNormUp2d(3, 5)
    theirs = nn.ConvTranspose2d(3, 5, 4, 2, 1)
    norm = ours.direction.flatten(1).norm(dim=1)[:, None, None, None]
    theirs.weight.data = (ours.direction / norm).transpose(0, 1).detach()
    theirs.bias.data.zero_()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pixels((3, 4, 4), "log"), "`transform` \\(='log'\\) must be one of 'scale', 'logit'"),
        (lambda: Pixels((3, 4, 4), margin=0.5), "`margin` \\(=0.5\\) must be a finite number above 0"),
        (lambda: ImageCoupling((3, 4, 4), "rows"), "`mask` \\(='rows'\\)"),
        (lambda: ImageCoupling((1, 4, 4), "channel"), "needs two channels or more"),
        (lambda: MultiScale((12,)), "must be that of images"),
        (lambda: MultiScale((3, 6, 6), 3), "must have even sides"),
        (lambda: Squeeze((3, 4, 4), RunningNorm((3, 4, 4))), "squeeze to \\(12, 2, 2\\)"),
    ],
)
def test_wrong_arguments_are_named(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]


def test_bits_of_the_logit_by_quadrature() -> None:
    """The volume of the logit integrates the density of a Gaussian in y to one over x."""
    pixels = Pixels((1,), "logit", margin=0.01).double()
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5)[:, None] / 200_000
    y, volume = pixels.to_base(x)
    density = (-0.5 * y[:, 0].square() - 0.5 * math.log(2 * math.pi) + volume).exp()
    inside = torch.distributions.Normal(0.0, 1.0).cdf(pixels.to_base(torch.ones(1, 1).double())[0]).item()
    assert density.mean().item() == pytest.approx(2 * inside - 1, abs=1e-6)
