"""Metrics: functions of tensors and callables, never of models; what they return is defined beside them."""

from flowprior.metrics.aggregate import AggregatePosterior
from flowprior.metrics.agreement import edge_agreement, silhouette_iou
from flowprior.metrics.classifier import attribute_classifier, classifier_features, classifier_logits
from flowprior.metrics.dependence import dimension_kl, mapped_total_correlation, total_correlation
from flowprior.metrics.disentanglement import (
    DCI,
    attribute_predictability,
    beta_vae_score,
    dci,
    factor_vae_score,
    modularity,
    mutual_information_gap,
)
from flowprior.metrics.divergence import density_skl, neighbor_skl
from flowprior.metrics.diversity import pair_diversity
from flowprior.metrics.factors import conditional_spread, factor_distance
from flowprior.metrics.features import (
    FeatureNetwork,
    extract,
    inception_features,
    inception_logits,
    squeezenet_features,
)
from flowprior.metrics.frechet import (
    FeatureStatistics,
    FewSamplesWarning,
    cached_features,
    cached_statistics,
    frechet,
    frechet_distance,
    frechet_error,
    statistics,
)
from flowprior.metrics.importance import importance_nll
from flowprior.metrics.inception_score import inception_score
from flowprior.metrics.kernel_distance import kernel_distance
from flowprior.metrics.leakage import CURVE_SHARES, leakage, leakage_curve, normal_thresholds
from flowprior.metrics.likelihood import latent_nll
from flowprior.metrics.manifolds import manifolds, nearest_ratio
from flowprior.metrics.path_length import perceptual_path_length
from flowprior.metrics.perceptual import PerceptualDistance, lpips_weights
from flowprior.metrics.pose import pose_error, pose_regressor
from flowprior.metrics.precision_recall import prd
from flowprior.metrics.pretrained import clip_features, dinov2_features, efficientnet_features
from flowprior.metrics.reconstruction import reconstruction_error
from flowprior.metrics.separability import conditional_entropy, separability

__all__ = [
    "CURVE_SHARES", "DCI", "AggregatePosterior", "FeatureNetwork", "FeatureStatistics",
    "FewSamplesWarning", "PerceptualDistance", "attribute_classifier", "attribute_predictability",
    "beta_vae_score", "cached_features", "cached_statistics", "classifier_features", "classifier_logits",
    "clip_features", "conditional_entropy", "conditional_spread", "dci", "density_skl", "dimension_kl",
    "dinov2_features", "edge_agreement", "efficientnet_features", "extract", "factor_distance",
    "factor_vae_score", "frechet", "frechet_distance", "frechet_error", "importance_nll",
    "inception_features", "inception_logits", "inception_score", "kernel_distance", "latent_nll",
    "leakage", "leakage_curve", "lpips_weights", "manifolds", "mapped_total_correlation", "modularity",
    "mutual_information_gap", "nearest_ratio", "neighbor_skl", "normal_thresholds", "pair_diversity",
    "perceptual_path_length", "pose_error", "pose_regressor", "prd", "reconstruction_error",
    "separability", "silhouette_iou", "squeezenet_features", "statistics", "total_correlation",
]  # fmt: skip
