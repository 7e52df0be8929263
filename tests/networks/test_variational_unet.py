"""The Variational U-net's networks: shapes, what reaches what, weight normalization and its start."""

import pytest
import torch
from torch import nn

from flowprior.bijectors.weight_norm import WeightNormConv2d, starting_from_data
from flowprior.errors import InputError
from flowprior.networks import AppearanceEncoder, ShapeBranch, UnetDecoder, UnetScales
from flowprior.networks.weight_norm import ResidualBlock, SubpixelUp


def small(size: int = 32, blocks: int = 1, **options) -> UnetScales:
    return UnetScales(size, filters=4, max_filters=8, blocks=blocks, **options)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize(("size", "bottleneck"), [(32, 4), (64, 4), (64, 2), (32, 16), (128, 16)])
def test_shapes(size, bottleneck, blocks):
    torch.manual_seed(0)
    scales = small(size, blocks, bottleneck=bottleneck)
    x, y = torch.rand(2, 3, size, size), torch.rand(2, 1, size, size)
    branch = ShapeBranch(1, scales)
    maps = branch(y)
    sides = [size >> index // blocks for index in range(len(maps))]
    assert [each.shape[-1] for each in maps] == sides
    assert sides[-1] == bottleneck
    assert tuple(tuple(each.shape[1:]) for each in branch.latent_maps(maps)) == scales.context_shapes
    z = AppearanceEncoder(3, 1, 5, scales)(x, y)
    assert z.shape == (2, 5 * bottleneck**2 * 5)
    assert UnetDecoder(3, 5, scales)(z, maps).shape == x.shape


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_every_parameter_has_a_part_in_the_image(blocks):
    torch.manual_seed(0)
    scales = small(blocks=blocks, dropout=0.0)
    nets = nn.ModuleList(
        [ShapeBranch(2, scales), AppearanceEncoder(3, 2, 2, scales), UnetDecoder(3, 2, scales)]
    )
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 2, 32, 32)  # a single channel has no direction to learn
    nets[2](nets[1](x, y), nets[0](y)).square().sum().backward()
    missing = [name for name, p in nets.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_both_latent_maps_and_every_skip_reach_the_image():
    torch.manual_seed(0)
    scales = small(blocks=2)
    maps = [each.detach().requires_grad_() for each in ShapeBranch(1, scales)(torch.rand(1, 1, 32, 32))]
    z = torch.randn(1, 2 * 16 + 2 * 64, requires_grad=True)
    UnetDecoder(3, 2, scales)(z, maps).square().sum().backward()
    assert all(each.grad.abs().sum() > 0 for each in maps)
    assert (z.grad != 0).all()


def test_the_fine_map_follows_the_coarse_mean_and_reads_its_own_numbers():
    """Coarse numbers do not depend on what only the fine scale computes; the fine ones do on the coarse."""
    torch.manual_seed(0)
    encoder = AppearanceEncoder(3, 1, 2, small()).eval()
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    before = encoder(x, y)
    with torch.no_grad():
        encoder.fine_read.bias.add_(1.0)
    torch.testing.assert_close(encoder(x, y), torch.cat([before[:, :32], before[:, 32:] + 1], 1))
    with torch.no_grad():
        encoder.coarse_read.bias.add_(1.0)
    after = encoder(x, y)
    torch.testing.assert_close(after[:, :32], before[:, :32] + 1)
    assert ((after[:, 32:] - before[:, 32:] - 1).abs() > 1e-6).any()


def test_first_numbers_stand_before_second_ones():
    torch.manual_seed(0)
    encoder = AppearanceEncoder(3, 1, 2, small(), multiplier=2).eval()
    with torch.no_grad():
        for read in (encoder.coarse_read, encoder.fine_read):
            read.gain.zero_()
            read.bias.copy_(torch.tensor([1.0, 1.0, 2.0, 2.0]))
    numbers = encoder(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32))
    torch.testing.assert_close(numbers, torch.tensor([1.0, 2.0]).repeat_interleave(160)[None])


def test_weight_norm_is_torchs():
    torch.manual_seed(0)
    ours = WeightNormConv2d(3, 5, stride=2)
    theirs = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3, stride=2, padding=1))
    with torch.no_grad():
        ours.gain.uniform_(0.5, 2.0)
        ours.bias.normal_()
        theirs.bias.copy_(ours.bias)
        theirs.parametrizations.weight.original0.copy_(ours.gain[:, None, None, None])
        theirs.parametrizations.weight.original1.copy_(ours.direction)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x))


def test_from_data_every_convolution_starts_at_mean_zero_and_variance_one():
    torch.manual_seed(0)
    scales = small(blocks=2, dropout=0.0)
    nets = nn.ModuleList(
        [ShapeBranch(1, scales), AppearanceEncoder(3, 1, 2, scales), UnetDecoder(3, 2, scales)]
    )
    x, y = 5 + 3 * torch.rand(8, 3, 32, 32), 0.1 * torch.rand(8, 1, 32, 32)
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.__setitem__(name, output.detach())

    for name, module in nets.named_modules():
        if isinstance(module, WeightNormConv2d):
            module.register_forward_hook(keep(name))
    run = lambda: nets[2](nets[1](x, y), nets[0](y))  # noqa: E731
    with starting_from_data(nets):
        started = run()
    assert len(seen) == sum(isinstance(module, WeightNormConv2d) for module in nets.modules())
    torch.testing.assert_close(run(), started)  # the hooks are gone, and the weights are what was run
    for name, output in seen.items():
        variance, mean = torch.var_mean(output, (0, 2, 3), correction=0)
        torch.testing.assert_close(
            mean, torch.zeros_like(mean), atol=1e-3, rtol=0, msg=lambda s, n=name: n + s
        )
        torch.testing.assert_close(variance, torch.ones_like(mean), atol=1e-3, rtol=0)


def test_a_constant_output_is_only_centred():
    torch.manual_seed(0)
    convolution = WeightNormConv2d(1, 3, 1)
    with starting_from_data(convolution):
        output = convolution(torch.full((4, 1, 8, 8), 2.0))
    torch.testing.assert_close(output, torch.zeros_like(output))
    torch.testing.assert_close(convolution.gain, torch.ones(3))


def test_residual_block_is_its_formula():
    torch.manual_seed(0)
    block = ResidualBlock(4, dropout=0.5, skip_channels=6).eval()
    maps, skip = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8)
    elu = nn.functional.elu
    hidden = torch.cat([elu(maps), elu(block.merge(elu(skip)))], 1)
    torch.testing.assert_close(block(maps, skip), maps + block.convolution(hidden))
    kept = [block.train()(maps, skip) for _ in range(2)]
    assert not torch.equal(*kept)  # dropout


def test_subpixels_are_channels():
    torch.manual_seed(0)
    up = SubpixelUp(3, 2)
    maps = torch.randn(1, 3, 4, 4)
    channels = up[0](maps)  # (1, 8, 4, 4)
    image = up(maps)
    assert image.shape == (1, 2, 8, 8)
    for row in range(2):
        for column in range(2):
            torch.testing.assert_close(image[:, :, row::2, column::2], channels[:, 2 * row + column :: 4])


def test_the_published_network_at_256_pixels():
    with torch.device("meta"):
        scales = UnetScales(256)
        nets = [ShapeBranch(3, scales), AppearanceEncoder(3, 3, 128, scales), UnetDecoder(3, 128, scales)]
        x = torch.empty(8, 3, 256, 256)
        maps = nets[0](x)
        z = nets[1](x, x)
        assert nets[2](z, maps).shape == x.shape
    assert scales.widths == (32, 64, 128, 128, 128, 128, 128)
    assert z.shape == (8, 128 * (16 + 64))
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [2_253_216, 4_108_032, 6_129_766]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: UnetScales(48), r"`size` \(=48\) must be one of 32, 64, 128, 256"),
        (lambda: UnetScales(64, bottleneck=3), r"`bottleneck` \(=3\)"),
        (lambda: UnetScales(64, bottleneck=64), r"`bottleneck` \(=64\)"),
        (lambda: UnetScales(64, blocks=0), r"`blocks` \(=0\)"),
        (
            lambda: UnetScales(64, filters=64, max_filters=32),
            r"`max_filters` \(=32\) must be an int of at least 64",
        ),
        (lambda: UnetScales(64, dropout=1.0), r"`dropout` \(=1.0\)"),
        (lambda: ShapeBranch(0, small()), r"`context_channels` \(=0\)"),
        (lambda: UnetDecoder(3, 0, small()), r"`latent_channels` \(=0\)"),
        (lambda: ShapeBranch(1, small())(torch.zeros(2, 3, 32, 32)), r"`context` has shape \(2, 3, 32, 32\)"),
        (
            lambda: AppearanceEncoder(3, 1, 2, small())(torch.zeros(2, 3, 32, 32), torch.zeros(3, 1, 32, 32)),
            "`context` has 3 rows but must have one for each of the 2 images",
        ),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(InputError, match=words):
        build()
