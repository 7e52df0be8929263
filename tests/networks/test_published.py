"""The autoencoders of public codes: layer by layer, and the number of their weights, counted by hand."""

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.networks import PublishedDecoder, PublishedEncoder
from flowprior.networks.published import PLANS

SHAPES = {  # (channels, side) behind each convolution, as the comments of dpVAE's code count them
    "burgess": [(32, 32), (32, 16), (32, 8), (32, 4)],
    "kim": [(32, 32), (32, 16), (64, 8), (64, 4), (256, 1)],
    "dpvae_mnist": [(32, 14), (32, 12), (32, 6), (32, 4)],
    "dpvae_mnist_factor": [(32, 14), (64, 12), (64, 6), (256, 4), (256, 1)],
    "dpvae_svhn": [(32, 16), (32, 16), (32, 8), (32, 8), (32, 6), (32, 6), (32, 4), (32, 4)],
    "dpvae_celeba": [(32, 32), (64, 16), (128, 8), (256, 4), (256, 2)],
}
DECODED = {  # likewise of the decoder, the image last
    "burgess": [(32, 8), (32, 16), (32, 32), (1, 64)],
    "kim": [(64, 4), (64, 8), (32, 16), (32, 32), (1, 64)],
    "dpvae_mnist": [(32, 6), (32, 12), (32, 14), (1, 28)],
    "dpvae_mnist_factor": [(256, 4), (64, 6), (64, 12), (32, 14), (1, 28)],
    "dpvae_svhn": [(32, 6), (32, 6), (32, 8), (32, 8), (32, 16), (32, 16), (32, 32), (1, 32)],
    "dpvae_celeba": [(256, 4), (128, 8), (64, 16), (32, 32), (1, 64)],
}


def shapes_of(network: nn.Module, inputs: torch.Tensor) -> list[tuple[int, int]]:
    seen = []
    for layer in network.layers:
        inputs = layer(inputs)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            seen.append((inputs.shape[1], inputs.shape[2]))
    return seen


@pytest.mark.parametrize("plan", PLANS)
def test_layers_have_the_published_shapes(plan):
    size = PLANS[plan].size
    assert shapes_of(PublishedEncoder(1, 4, plan), torch.rand(2, 1, size, size)) == SHAPES[plan]
    assert shapes_of(PublishedDecoder(3, 1, plan), torch.rand(2, 3)) == DECODED[plan]


def test_weights_of_the_mnist_network_counted_by_hand():
    convolutions = (16 + 32 * 9 + 32 * 16 + 32 * 9) * 32 + 4 * 32
    dense = (512 * 256 + 256) + (256 * 256 + 256) + (256 * 4 + 4)
    count = sum(parameter.numel() for parameter in PublishedEncoder(1, 4, "dpvae_mnist").parameters())
    assert count == convolutions + dense


def test_wrong_plans_and_sizes_are_said():
    with pytest.raises(InputError, match=r"`plan` \(='dpvae'\) must be one of"):
        PublishedEncoder(1, 4, "dpvae")
    with pytest.raises(InputError, match=r"reads \(N, 1, 64, 64\)"):
        PublishedEncoder(1, 4)(torch.rand(2, 1, 28, 28))
