"""Encoders, decoders and feature networks: pure modules that know nothing of latents or losses."""

from flowprior.networks.critics import LatentCritic
from flowprior.networks.infogan import InfoGANDecoder, InfoGANEncoder
from flowprior.networks.mlp import MLP
from flowprior.networks.resnet import ResNetDecoder, ResNetEncoder
from flowprior.networks.small import SmallDecoder, SmallEncoder
from flowprior.networks.variational_unet import (
    AppearanceEncoder,
    ShapeBranch,
    ShapeEmbedding,
    UnetDecoder,
    UnetScales,
)
from flowprior.networks.vgg import VGGFeatures

__all__ = [
    "MLP",
    "AppearanceEncoder",
    "InfoGANDecoder",
    "InfoGANEncoder",
    "LatentCritic",
    "ResNetDecoder",
    "ResNetEncoder",
    "ShapeBranch",
    "ShapeEmbedding",
    "SmallDecoder",
    "SmallEncoder",
    "UnetDecoder",
    "UnetScales",
    "VGGFeatures",
]
