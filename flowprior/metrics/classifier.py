"""A feature network trained on the data set's own labels: metric "fd_classifier", never "FID"."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil, prod
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics.features import FeatureNetwork
from flowprior.metrics.learned import Given, Options, Recipe, Standardize, convolution, learn

_FEATURES = 64
_LARGEST = 32  # larger images are averaged down to this side


def classifier_features(
    images: Tensor, labels: Tensor, test_images: Tensor | None = None, test_labels: Tensor | None = None,
    **options: Unpack[Options],
) -> FeatureNetwork:  # fmt: skip
    """The 64 penultimate features of a small classifier of this data set, metric "fd_classifier".

    Three convolutions and a linear layer, each with batch normalization and ReLU; images larger than 32
    pixels are averaged down to 32. It is trained once and kept in the cache folder by the data's fingerprint,
    the recipe's version and the seed; `facts["test_accuracy"]` is on the test set, or on a tenth held out.
    The same seed gives the same network on the same kind of machine: the checksum tells.

    Args:
        images, test_images: (N, C, H, W), uint8 or floats in [0, 1].
        labels, test_labels: (N,) integers, or (N, A) bool for attributes of which an image has any number.
        options: see `Options`.

    Raises:
        InputError: if images and labels do not fit together, or there are fewer than two classes.
    """
    given = images, labels, test_images, test_labels
    return _learn(given, "fd_classifier", lambda network: network.body, **options)


def attribute_classifier(
    images: Tensor, labels: Tensor, test_images: Tensor | None = None, test_labels: Tensor | None = None,
    **options: Unpack[Options],
) -> FeatureNetwork:  # fmt: skip
    """log p / (1 - p) of each attribute by a small classifier, (N, C, H, W) -> (N, A), for `separability`.

    The network of `classifier_features`, with its cache, arguments and errors. With integer labels (N,) every
    class is an attribute, this class against the rest, and the network is the very same; for attributes
    (N, A) bool it has a logistic output each, sees images at full resolution, by a convolution more for each
    doubling beyond 32 pixels, and `test_accuracy` is the mean over them.
    """
    given = images, labels, test_images, test_labels
    if labels.dim() == 2:
        return _learn(given, "separability", **options)
    return _learn(given, "separability", lambda network: nn.Sequential(network, _AgainstTheRest()), **options)


def classifier_logits(
    images: Tensor, labels: Tensor, test_images: Tensor | None = None, test_labels: Tensor | None = None,
    **options: Unpack[Options],
) -> FeatureNetwork:  # fmt: skip
    """The class logits (N, K) of a small classifier, for `inception_score`: metric "is_classifier".

    The very network of `classifier_features`, with its cache, arguments and errors; labels are integers.
    """
    if labels.dim() == 2:
        raise InputError("`labels` are attributes (N, A) but must be integers (N,), one for each image.")
    return _learn((images, labels, test_images, test_labels), "is_classifier", **options)


def _learn(
    given: Given, metric: str, part: Callable[["_Classifier"], nn.Module] = lambda network: network,
    **options: Unpack[Options],
) -> FeatureNetwork:  # fmt: skip
    images, labels, *_ = given
    attributes = labels.dim() == 2
    classes = torch.arange(labels.shape[1]) if attributes else labels.unique().cpu()
    if len(classes) < 2 and not attributes:
        raise InputError(f"`labels` hold {len(classes)} class but a classifier needs two or more.")

    largest = max(_LARGEST, *images.shape[2:]) if attributes else _LARGEST

    def build() -> _Classifier:
        return _Classifier(*images.shape[1:], classes=len(classes), largest=largest)

    if attributes:
        whole = replace(RECIPE, largest=largest)
        return learn(
            whole, build, given, Tensor.cpu, metric, part, variant=f" | attributes {largest}", **options
        )
    return learn(RECIPE, build, given, partial(_among, classes), metric, part, **options)


class _AgainstTheRest(nn.Module):
    """Logits of classes (N, K) to log p_k / (1 - p_k)."""

    def forward(self, logits: Tensor) -> Tensor:
        others = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        rest = logits[:, None, :].masked_fill(others, -torch.inf).logsumexp(2)  # (N, K)
        return logits - rest


class _Classifier(nn.Module):
    def __init__(self, channels: int, height: int, width: int, *, classes: int, largest: int) -> None:
        super().__init__()
        sides = (height, width) if max(height, width) <= largest else (largest, largest)
        first, before, shrinking = 16 if channels == 1 else 32, channels, list[nn.Module]()
        while max(sides) > _LARGEST:
            shrinking += convolution(before, first, stride=2)
            before, sides = first, (ceil(sides[0] / 2), ceil(sides[1] / 2))
        stride = 2 if min(sides) >= 16 else 1
        cells = prod(ceil(ceil(side / stride) / 2) for side in sides)
        self.body = nn.Sequential(
            Standardize(channels, largest),
            *shrinking,
            *convolution(before, first, kernel=5, stride=stride),
            *convolution(first, 2 * first, stride=2),
            *convolution(2 * first, 2 * first),
            nn.Flatten(),
            nn.Linear(2 * first * cells, _FEATURES, bias=False), nn.BatchNorm1d(_FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(_FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.dim() == 2:
        return functional.binary_cross_entropy_with_logits(logits, targets.float())
    return functional.cross_entropy(logits, targets)


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of right classes, or of right attributes."""
    right = (logits > 0) == targets if targets.dim() == 2 else logits.argmax(1) == targets
    return right.double().mean().item()


def _check(images: Tensor, labels: Tensor, images_name: str, labels_name: str) -> None:
    attributes = labels.dim() == 2 and labels.dtype == torch.bool and len(labels) == len(images)
    if not attributes and (labels.is_floating_point() or labels.shape != images.shape[:1]):
        must = f"one for each of the {len(images)} images in `{images_name}`, or rows of bool attributes."
        got = f"`{labels_name}` ({labels.dtype}, shape {tuple(labels.shape)})"
        raise InputError(f"{got} must be integers, {must}")


def _among(classes: Tensor, labels: Tensor) -> Tensor:
    """The position of each label in `classes`; -1, never predicted, for one that training has not seen."""
    position = torch.searchsorted(classes, labels.cpu().to(classes.dtype)).clamp(max=len(classes) - 1)
    return torch.where(classes[position] == labels.cpu(), position, -1)


RECIPE = Recipe(
    "classifier",
    "labels",
    2,
    "test_accuracy",
    300_000,
    5,
    _LARGEST,
    "N>3 C H>0 W>0",
    _check,
    _loss,
    _accuracy,
)
