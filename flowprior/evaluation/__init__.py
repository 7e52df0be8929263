"""Evaluation: metrics of a trained model on its data set, one record each in `flowprior.registry`."""

from flowprior.evaluation import (  # noqa: F401 (register)
    classes,
    conditional,
    disentanglement,
    images,
    likelihood,
    overlap,
    spaces,
)
from flowprior.evaluation.context import BACKBONES, Backbone, Evaluation, backbone, contexts_of
from flowprior.evaluation.measure import Measured, describe_metrics, higher_is_better, measure, prepare
from flowprior.evaluation.needs import applicable, check_metrics

__all__ = [
    "BACKBONES", "Backbone", "Evaluation", "Measured", "applicable", "backbone", "check_metrics",
    "contexts_of", "describe_metrics", "higher_is_better", "measure", "prepare",
]  # fmt: skip
