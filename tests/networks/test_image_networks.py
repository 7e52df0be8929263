"""Shapes, parameter counts and options of the convolutional networks and the MLP."""

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.networks import MLP, InfoGANDecoder, InfoGANEncoder, SmallDecoder, SmallEncoder


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", [28, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [0.0625, 0.25])
def test_infogan_shapes(size, channels, width):
    torch.manual_seed(0)
    images = torch.rand(2, channels, size, size)
    h = InfoGANEncoder(channels, size, 6, width=width)(images)
    assert h.shape == (2, 6)
    assert InfoGANDecoder(6, channels, size, width=width)(h).shape == images.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_small_shapes(channels, width):
    torch.manual_seed(0)
    images = torch.rand(2, channels, 8, 8)
    h = SmallEncoder(channels, 5, width=width)(images)
    assert h.shape == (2, 5)
    assert SmallDecoder(5, channels, width=width)(h).shape == images.shape


def infogan_encoder_count(channels: int, side: int, features: int, unit: int = 64) -> int:
    """Weights and biases, then 2 per channel for each batch norm; `side` pixels are left after two stages."""
    first = channels * 16 * unit + unit
    second = unit * 16 * 2 * unit + 2 * 2 * unit
    hidden = 2 * unit * side**2 * 16 * unit + 2 * 16 * unit
    return first + second + hidden + 16 * unit * features + features


def test_paper_size_parameter_counts():
    # 1,088 + 131,328 + 6,424,576 + 20,500 by hand from the layer list of the paper.
    assert count(InfoGANEncoder(1, 28, 20)) == infogan_encoder_count(1, 7, 20) == 6_577_492
    assert count(InfoGANEncoder(3, 32, 64)) == infogan_encoder_count(3, 8, 64) == 8_590_720
    # FC 20-1024 BN, FC 1024-6272 BN, deconv 128-64 BN, deconv 64-1 with its bias.
    decoder = 20_480 + 2_048 + 6_422_528 + 12_544 + 131_072 + 128 + 1_025
    assert count(InfoGANDecoder(20, 1, 28)) == decoder == 6_589_825


def test_quarter_width_and_extra_stage_counts():
    assert count(InfoGANEncoder(1, 28, 20, width=0.25)) == infogan_encoder_count(1, 7, 20, unit=16)
    convolutions = [m for m in InfoGANEncoder(3, 256, 4, width=0.125).modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [8, 16, 32, 64, 64]  # doubling stops at the cap 512 / 8


def test_first_weights_have_the_papers_scale():
    torch.manual_seed(0)
    for network in (InfoGANEncoder(1, 28, 20, width=0.5), InfoGANDecoder(20, 1, 28, width=0.5)):
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                tolerance = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a deviation
                assert abs(module.weight.std().item() / 0.02 - 1) < tolerance
                assert module.bias is None or not module.bias.any()


def test_spectral_norm_bounds_every_layer():
    torch.manual_seed(0)
    network = InfoGANEncoder(1, 28, 20, width=0.25, spectral_norm=True)
    images = torch.rand(8, 1, 28, 28)
    for _ in range(30):  # each pass is one power iteration
        network(images)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.1)
    assert not any(hasattr(m, "parametrizations") for m in InfoGANEncoder(1, 28, 20, width=0.25).modules())


def test_batch_norm_momentum_is_passed_on():
    for network in (InfoGANEncoder(1, 28, 2, momentum=0.3), InfoGANDecoder(2, 1, 28, momentum=0.3)):
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {0.3}


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    for encoder, decoder, size in (
        (InfoGANEncoder(1, 28, 4, width=0.25), InfoGANDecoder(4, 1, 28, width=0.25), 28),
        (SmallEncoder(1, 4), SmallDecoder(4, 1), 8),
    ):
        decoder(encoder(torch.rand(8, 1, size, size))).square().sum().backward()
        for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_mlp_is_its_layers():
    torch.manual_seed(0)
    network = MLP(3, 2, hidden=(5,), activation="tanh")
    first, _, last = network.layers
    vectors = torch.randn(4, 3)
    expected = torch.tanh(vectors @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(network(vectors), expected)
    assert count(MLP(3, 2, hidden=())) == 8


@pytest.mark.parametrize(
    ("network", "wrong", "expected"),
    [
        (InfoGANEncoder(1, 28, 4, width=0.25), torch.rand(2, 1, 32, 32), "(N, 1, 28, 28)"),
        (InfoGANEncoder(3, 32, 4, width=0.25), torch.rand(2, 1, 32, 32), "(N, 3, 32, 32)"),
        (InfoGANDecoder(4, 1, 28, width=0.25), torch.rand(2, 5), "(N, 4)"),
        (SmallEncoder(1, 4), torch.rand(2, 64), "(N, 1, 8, 8)"),
        (SmallDecoder(4, 1), torch.rand(2, 2, 4), "(N, 4)"),
        (MLP(2, 3), torch.rand(2, 4), "(N, 2)"),
    ],
)
def test_wrong_input_is_named(network, wrong, expected):
    with pytest.raises(InputError) as caught:
        network(wrong)
    assert expected in str(caught.value)
    assert str(tuple(wrong.shape)) in str(caught.value)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: InfoGANEncoder(1, 30, 20), "`size` (=30)"),
        (lambda: InfoGANDecoder(20, 1, 48), "28, 32, 64, 128, 256"),
        (lambda: InfoGANEncoder(0, 28, 20), "`channels` (=0)"),
        (lambda: InfoGANEncoder(1, 28, 2.5), "`out_features` (=2.5)"),
        (lambda: InfoGANDecoder(0, 1, 28), "`in_features` (=0)"),
        (lambda: InfoGANEncoder(1, 28, 20, width=0), "`width` (=0)"),
        (lambda: SmallEncoder(1, 4, width=float("nan")), "`width` (=nan)"),
        (lambda: SmallDecoder(4, True), "`channels` (=True)"),
        (lambda: MLP(2, 2, activation="swish"), "`activation` (='swish')"),
        (lambda: MLP(2, 2, hidden=(64, -1)), "`hidden` (=-1)"),
    ],
)
def test_bad_arguments_are_named(build, word):
    with pytest.raises(InputError) as caught:
        build()
    assert word in str(caught.value)
