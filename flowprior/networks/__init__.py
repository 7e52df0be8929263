"""Encoders, decoders and feature networks: pure modules that know nothing of latents or losses."""

from flowprior.networks.critics import LatentCritic as LatentCritic
from flowprior.networks.image_critics import ImageCritic as ImageCritic
from flowprior.networks.infogan import InfoGANDecoder as InfoGANDecoder
from flowprior.networks.infogan import InfoGANEncoder as InfoGANEncoder
from flowprior.networks.ladder import LadderDecoder as LadderDecoder
from flowprior.networks.ladder import LadderEncoder as LadderEncoder
from flowprior.networks.mlp import MLP as MLP
from flowprior.networks.published import PublishedDecoder as PublishedDecoder
from flowprior.networks.published import PublishedEncoder as PublishedEncoder
from flowprior.networks.resnet import ResNetDecoder as ResNetDecoder
from flowprior.networks.resnet import ResNetEncoder as ResNetEncoder
from flowprior.networks.small import SmallDecoder as SmallDecoder
from flowprior.networks.small import SmallEncoder as SmallEncoder
from flowprior.networks.variational_unet import AppearanceEncoder as AppearanceEncoder
from flowprior.networks.variational_unet import ShapeBranch as ShapeBranch
from flowprior.networks.variational_unet import ShapeEmbedding as ShapeEmbedding
from flowprior.networks.variational_unet import UnetDecoder as UnetDecoder
from flowprior.networks.variational_unet import UnetScales as UnetScales
from flowprior.networks.vgg import VGGFeatures as VGGFeatures
