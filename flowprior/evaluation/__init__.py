"""Evaluation: metrics of a trained model on its data set, one record each in `flowprior.registry`."""

from flowprior.evaluation import conditional, images, likelihood, overlap, spaces  # noqa: F401 (register)
from flowprior.evaluation.context import (
    BACKBONES,
    Backbone,
    Diverged,
    Evaluation,
    aggregate_over_training,
    backbone,
    contexts_of,
)
from flowprior.evaluation.measure import Measured, describe_metrics, higher_is_better, measure, prepare
from flowprior.evaluation.needs import applicable, check_metrics

__all__ = [
    "BACKBONES",
    "Backbone",
    "Diverged",
    "Evaluation",
    "Measured",
    "aggregate_over_training",
    "applicable",
    "backbone",
    "check_metrics",
    "contexts_of",
    "describe_metrics",
    "higher_is_better",
    "measure",
    "prepare",
]
