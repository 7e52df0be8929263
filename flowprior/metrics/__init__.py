"""Metrics: functions of tensors and callables, never of models."""

from flowprior.metrics.aggregate import AggregatePosterior
from flowprior.metrics.classifier import classifier_features
from flowprior.metrics.divergence import SymmetricKL, density_skl, neighbor_skl
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
from flowprior.metrics.importance import ImportanceNLL, importance_nll
from flowprior.metrics.kernel_distance import KernelDistance, kernel_distance
from flowprior.metrics.leakage import CURVE_SHARES, Leakage, leakage, leakage_curve, normal_thresholds
from flowprior.metrics.likelihood import LatentNLL, latent_nll
from flowprior.metrics.precision_recall import PrecisionRecall, prd
from flowprior.metrics.reconstruction import ReconstructionError, reconstruction_error

__all__ = [
    "CURVE_SHARES",
    "AggregatePosterior",
    "FeatureNetwork",
    "FeatureStatistics",
    "FewSamplesWarning",
    "FrechetResult",
    "ImportanceNLL",
    "KernelDistance",
    "LatentNLL",
    "Leakage",
    "PrecisionRecall",
    "ReconstructionError",
    "SymmetricKL",
    "cached_statistics",
    "classifier_features",
    "density_skl",
    "extract",
    "frechet",
    "frechet_distance",
    "importance_nll",
    "inception_features",
    "kernel_distance",
    "latent_nll",
    "leakage",
    "leakage_curve",
    "neighbor_skl",
    "normal_thresholds",
    "prd",
    "reconstruction_error",
    "squeezenet_features",
    "statistics",
]
