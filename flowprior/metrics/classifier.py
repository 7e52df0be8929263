"""A feature network trained on the data set's own labels: metric "fd_classifier", never "FID"."""

from math import ceil
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics.features import FeatureNetwork
from flowprior.metrics.learned import (
    Learned,
    Options,
    Recipe,
    Standardize,
    check_examples,
    convolution,
    learn,
    outputs,
)

_FEATURES = 64
_LARGEST = 32  # larger images are averaged down to this side


def classifier_features(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    **options: Unpack[Options],
) -> FeatureNetwork:
    """The 64 penultimate features of a small classifier of this data set, metric "fd_classifier".

    Three convolutions and a linear layer, each with batch normalization and ReLU, AdamW with a one-cycle
    schedule; images larger than 32 pixels are averaged down to 32. It is trained once and kept in the cache
    folder by the data's fingerprint, the recipe's version and the seed; `facts["test_accuracy"]` says how
    good it is (on the test set, or on a tenth held out when there is none). The global random state is left
    alone. The same seed gives the same network on the same kind of machine: the checksum tells.

    Args:
        images: (N, C, H, W), uint8 or floats in [0, 1].
        labels: (N,) integers, or (N, A) bool for attributes of which an image has any number.
        test_images, test_labels: the same for the test set.
        options: see `Options`.

    Raises:
        InputError: if images and labels do not fit together, or there are fewer than two classes.
    """
    learned = _learned(images, labels, test_images, test_labels, **options)
    return learned.features("fd_classifier", learned.network.body)


def attribute_classifier(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    **options: Unpack[Options],
) -> FeatureNetwork:
    """log p / (1 - p) of each attribute by a small classifier, (N, C, H, W) -> (N, A), for `separability`.

    The network of `classifier_features`, with its cache, arguments and errors. With integer labels (N,) every
    class is an attribute, this class against the rest, and the network is the very same; for attributes
    (N, A) bool it has a logistic output each, and `test_accuracy` is the mean over them.
    """
    learned = _learned(images, labels, test_images, test_labels, **options)
    head = learned.network if labels.dim() == 2 else nn.Sequential(learned.network, _AgainstTheRest())
    return learned.features("separability", head)


def classifier_logits(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    **options: Unpack[Options],
) -> FeatureNetwork:
    """The class logits (N, K) of a small classifier, for `inception_score`: metric "is_classifier".

    The very network of `classifier_features`, with its cache, arguments and errors; labels are integers.
    """
    if labels.dim() == 2:
        raise InputError("`labels` are attributes (N, A) but must be integers (N,), one for each image.")
    return _learned(images, labels, test_images, test_labels, **options).features("is_classifier")


def _learned(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None,
    test_labels: Tensor | None,
    **options: Unpack[Options],
) -> Learned["_Classifier"]:
    attributes = labels.dim() == 2
    classes = torch.arange(labels.shape[1]) if attributes else labels.unique().cpu()
    if len(classes) < 2 and not attributes:
        raise InputError(f"`labels` hold {len(classes)} class but a classifier needs two or more.")
    return learn(
        RECIPE,
        lambda: _Classifier(*images.shape[1:], classes=len(classes)),
        (images, labels, test_images, test_labels),
        lambda given: given.cpu() if attributes else _among(classes, given),
        variant=" | attributes" if attributes else "",
        **options,
    )


class _AgainstTheRest(nn.Module):
    """Logits of classes (N, K) to log p_k / (1 - p_k)."""

    def forward(self, logits: Tensor) -> Tensor:
        others = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        rest = logits[:, None, :].masked_fill(others, -torch.inf).logsumexp(2)  # (N, K)
        return logits - rest


class _Classifier(nn.Module):
    def __init__(self, channels: int, height: int, width: int, *, classes: int) -> None:
        super().__init__()
        if max(height, width) > _LARGEST:
            height = width = _LARGEST
        first = 16 if channels == 1 else 32
        stride = 2 if min(height, width) >= 16 else 1
        cells = 1
        for side in (height, width):
            cells *= ceil(ceil(side / stride) / 2)
        self.body = nn.Sequential(
            Standardize(channels, _LARGEST),
            *convolution(channels, first, kernel=5, stride=stride),
            *convolution(first, 2 * first, kernel=3, stride=2),
            *convolution(2 * first, 2 * first, kernel=3, stride=1),
            nn.Flatten(),
            nn.Linear(2 * first * cells, _FEATURES, bias=False),
            nn.BatchNorm1d(_FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(_FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.dim() == 2:
        return functional.binary_cross_entropy_with_logits(logits, targets.float())
    return functional.cross_entropy(logits, targets)


def _accuracy(network: nn.Module, images: Tensor, targets: Tensor) -> float:
    """The share of right classes, or of right attributes."""
    logits, y = outputs(network, images), targets.cpu()
    right = (logits > 0) == y if y.dim() == 2 else logits.argmax(1) == y
    return right.double().mean().item()


def _check(images: Tensor, labels: Tensor, images_name: str, labels_name: str) -> None:
    check_examples(images_name, images)
    attributes = labels.dim() == 2 and labels.dtype == torch.bool and len(labels) == len(images)
    if not attributes and (labels.is_floating_point() or labels.shape != images.shape[:1]):
        raise InputError(
            f"`{labels_name}` ({labels.dtype}, shape {tuple(labels.shape)}) must be integers, one for each "
            f"of the {len(images)} images in `{images_name}`, or rows of bool attributes."
        )


def _among(classes: Tensor, labels: Tensor) -> Tensor:
    """The position of each label in `classes`; -1, never predicted, for one that training has not seen."""
    position = torch.searchsorted(classes, labels.cpu().to(classes.dtype)).clamp(max=len(classes) - 1)
    return torch.where(classes[position] == labels.cpu(), position, -1)


RECIPE = Recipe("classifier", "labels", 2, "test_accuracy", 300_000, 5, _LARGEST, _check, _loss, _accuracy)
