"""Metrics: functions of tensors and callables, never of models."""

from flowprior.metrics.classifier import classifier_features
from flowprior.metrics.features import FeatureNetwork, extract, inception_features, squeezenet_features
from flowprior.metrics.frechet import (
    FeatureStatistics,
    FewSamplesWarning,
    FrechetResult,
    cached_statistics,
    frechet,
    frechet_distance,
    statistics,
)
from flowprior.metrics.kernel_distance import KernelDistance, kernel_distance
from flowprior.metrics.likelihood import LatentNLL, latent_nll
from flowprior.metrics.precision_recall import PrecisionRecall, prd
from flowprior.metrics.reconstruction import ReconstructionError, reconstruction_error

__all__ = [
    "FeatureNetwork",
    "FeatureStatistics",
    "FewSamplesWarning",
    "FrechetResult",
    "KernelDistance",
    "LatentNLL",
    "PrecisionRecall",
    "ReconstructionError",
    "cached_statistics",
    "classifier_features",
    "extract",
    "frechet",
    "frechet_distance",
    "inception_features",
    "kernel_distance",
    "latent_nll",
    "prd",
    "reconstruction_error",
    "squeezenet_features",
    "statistics",
]
