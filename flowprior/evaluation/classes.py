"""What is measured of class-conditional models: a classifier learns on samples or data."""

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.evaluation.context import CHUNK, Evaluation, Result
from flowprior.registry import metric

OF_CLASSES = ("images", "labels", "conditional model")


@metric("gan_train", better="higher", unit="share", needs=OF_CLASSES)
def _gan_train(evaluation: Evaluation) -> Result:
    """Accuracy on the test images of a small classifier trained on `count` samples: quality and coverage.

    Source: Shmelkov et al. 2018; Lucas et al. 2019, section 5.6.
    """
    images, labels = _labeled_samples(evaluation)
    test = evaluation.test
    network = metrics.classifier_logits(
        images, labels, test.x, test.label, seed=evaluation.seed, device=evaluation.model.device
    )
    return {"gan_train": float(network.facts["test_accuracy"])}, {"samples": len(images)}


@metric("gan_test", better="higher", unit="share", needs=(*OF_CLASSES, "classifier logits"))
def _gan_test(evaluation: Evaluation) -> Result:
    """Accuracy on `count` samples of a small classifier trained on the training images: quality alone.

    "real" in the facts is its accuracy on the test images. Source: as for `gan_train`.
    """
    images, labels = _labeled_samples(evaluation)
    network = evaluation.backbone("classifier logits")
    chunks = images.split(CHUNK)
    logits = torch.cat([part.cpu() for chunk in chunks for part in metrics.extract(chunk, network)])
    right = (logits.argmax(1) == labels).double().mean().item()
    return {"gan_test": right}, {"samples": len(images), "real": network.facts["test_accuracy"]}


def _labeled_samples(evaluation: Evaluation) -> tuple[Tensor, Tensor]:
    """Samples at the test set's classes in turn, as stored images (n, C, H, W), and their labels (n,)."""
    label = evaluation.test.label
    parts = list(evaluation.at_conditions(evaluation.count, 1))
    rows = torch.cat([rows for rows, _ in parts])
    images = torch.cat([(each[:, 0].clamp(0, 1) * 255).round().to(torch.uint8).cpu() for _, each in parts])
    return images, torch.zeros(0) if label is None else label[rows]
