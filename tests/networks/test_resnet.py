"""Dai & Wipf's residual autoencoder: parameters by hand from the published layers, shapes, options."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.networks import ResNetDecoder, ResNetEncoder


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(before: int, after: int) -> int:
    return 9 * before * after + after


def block(channels: int) -> int:
    """Two norms, two convolutions, and the shortcut's."""
    return 2 * 2 * channels + 3 * conv(channels, channels)


def dense(before: int, after: int) -> int:
    return before * after + after


@pytest.mark.parametrize("size", [32, 64, 128])
def test_published_encoder_counts(size):
    """Four scales of 32, 64, 128, 256 channels, FC-512 block; mean and log variance of 128 dimensions."""
    expected = conv(3, 32) + sum(block(channels) for channels in (32, 64, 128, 256))
    expected += conv(32, 64) + conv(64, 128) + conv(128, 256)
    expected += 2 * dense(256, 512) + dense(512, 512) + 2 * dense(512, 128)
    # 896 + 27,872 + 111,040 + 443,264 + 1,771,264 + 18,496 + 73,856 + 295,168 + 263,168 + 262,656 + 131,328
    assert count(ResNetEncoder(3, size, 256)) == expected == 3_399_008


@pytest.mark.parametrize(
    ("size", "channels"),
    [
        (32, (512, 256, 128, 64, 32)),
        (64, (1024, 512, 256, 128, 64, 32)),
        (128, (1024, 1024, 512, 256, 128, 64, 32)),
    ],
)
def test_published_decoder_counts(size, channels):
    """From 2x2 up, channels halving but for the cap of 1024."""
    expected = dense(128, 4 * channels[0]) + conv(32, 3)
    for before, after in pairwise(channels):
        expected += conv(before, after) + block(after)
    assert count(ResNetDecoder(128, 3, size)) == expected
    sides = [
        module.output_padding[0] and module.out_channels
        for module in ResNetDecoder(128, 3, size).modules()
        if isinstance(module, nn.ConvTranspose2d)
    ]
    assert sides == list(channels[1:])


def test_the_default_of_the_code_is_base_16():
    encoder = ResNetEncoder(1, 32, 128, base_channels=16)
    expected = conv(1, 16) + sum(block(c) for c in (16, 32, 64, 128))
    expected += conv(16, 32) + conv(32, 64) + conv(64, 128)
    expected += 2 * dense(128, 512) + dense(512, 512) + dense(512, 128)
    assert count(encoder) == expected


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("width", [0.0625, 0.125])
def test_shapes_and_widths(size, width):
    torch.manual_seed(0)
    images = torch.rand(2, 3, size, size)
    encoder = ResNetEncoder(3, size, 6, width=width)
    h = encoder(images)
    assert h.shape == (2, 6)
    assert ResNetDecoder(6, 3, size, width=width)(h).shape == images.shape
    convolutions = [module for module in encoder.layers if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [int(width * c) for c in (32, 64, 128, 256)]


def test_blocks_are_their_layers():
    """Pre-activation: BN, ReLU, conv twice, and a shortcut of the raw input."""
    torch.manual_seed(0)
    maps = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    residual = ResNetEncoder(3, 32, 4, width=0.25).double().layers[1]
    _, _, conv1, _, _, conv2 = residual.layers

    def normalized(value):
        mean, var = value.mean((0, 2, 3), keepdim=True), value.var((0, 2, 3), correction=0, keepdim=True)
        return (value - mean) / (var + 1e-5).sqrt()

    first = nn.functional.conv2d(normalized(maps).relu(), conv1.weight, conv1.bias, padding=1)
    second = nn.functional.conv2d(normalized(first).relu(), conv2.weight, conv2.bias, padding=1)
    shortcut = nn.functional.conv2d(maps, residual.shortcut.weight, residual.shortcut.bias, padding=1)
    torch.testing.assert_close(residual(maps), second + shortcut)
    head = ResNetEncoder(3, 32, 4, width=0.25).double().layers[-2]
    vectors = torch.randn(5, head.shortcut.in_features, dtype=torch.float64)
    _, linear1, _, linear2 = head.layers
    torch.testing.assert_close(
        head(vectors), linear2(linear1(vectors.relu()).relu()) + head.shortcut(vectors)
    )


def test_first_weights_are_glorot_uniform():
    torch.manual_seed(0)
    for module in ResNetEncoder(3, 32, 64, width=0.5).modules():
        if isinstance(module, nn.Conv2d):
            bound = (6 / (9 * (module.in_channels + module.out_channels))) ** 0.5
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    encoder, decoder = ResNetEncoder(3, 32, 4, width=0.125), ResNetDecoder(4, 3, 32, width=0.125)
    decoder(encoder(torch.rand(8, 3, 32, 32))).square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
        if name.endswith("weight"):  # a bias before a batch norm has none
            assert parameter.grad.abs().sum() > 0, name


def test_momentum_is_passed_on():
    for network in (ResNetEncoder(3, 32, 2, momentum=0.3), ResNetDecoder(2, 3, 32, momentum=0.3)):
        assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.3}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ResNetEncoder(3, 28, 4), "`size` (=28)"),
        (lambda: ResNetDecoder(4, 3, 48), "32, 64, 128, 256"),
        (lambda: ResNetEncoder(0, 32, 4), "`channels` (=0)"),
        (lambda: ResNetEncoder(3, 32, 0), "`out_features` (=0)"),
        (lambda: ResNetDecoder(0, 3, 32), "`in_features` (=0)"),
        (lambda: ResNetEncoder(3, 32, 4, base_channels=0), "`base_channels` (=0)"),
        (lambda: ResNetEncoder(3, 32, 4, scales=0), "`scales` (=0)"),
        (lambda: ResNetEncoder(3, 32, 4, scales=7), "`scales` (=7)"),
        (lambda: ResNetDecoder(4, 3, 32, width=-1.0), "`width` (=-1.0)"),
    ],
)
def test_bad_arguments_are_named(build, words):
    with pytest.raises(InputError) as caught:
        build()
    assert words in str(caught.value)


def test_wrong_input_is_named():
    with pytest.raises(InputError, match=r"\(N, 3, 32, 32\)"):
        ResNetEncoder(3, 32, 4, width=0.125)(torch.rand(2, 3, 64, 64))
    with pytest.raises(InputError, match=r"\(N, 4\)"):
        ResNetDecoder(4, 3, 32, width=0.125)(torch.rand(2, 5))
