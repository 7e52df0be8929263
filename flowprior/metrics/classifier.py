"""A feature network trained on the data set's own labels: metric "fd_classifier", never "FID"."""

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics.cache import fingerprint
from flowprior.metrics.features import FeatureNetwork
from flowprior.metrics.learned import (
    Standardise,
    as_features,
    check_images,
    convolution,
    learned,
    outputs,
    train,
    train_and_test,
)

RECIPE = 2  # in every cache key: count it up when anything below changes what is learned
_FEATURES = 64
_LARGEST = 32  # larger images are averaged down to this side
_SEEN = 300_000  # images per training, so that small sets take more epochs


def classifier_features(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    *,
    data_fingerprint: str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> FeatureNetwork:
    """The 64 penultimate features of a small classifier of this data set, metric "fd_classifier".

    Three convolutions and a linear layer, each with batch normalisation and ReLU, AdamW with a one-cycle
    schedule; images larger than 32 pixels are averaged down to 32. It is trained once and kept in the cache
    folder by the data's fingerprint, the recipe's version and the seed; `facts["test_accuracy"]` says how
    good it is (on the test set, or on a tenth held out when there is none). The global random state is left
    alone. The same seed gives the same network on the same kind of machine: the checksum tells.

    Args:
        images: (N, C, H, W), uint8 or floats in [0, 1].
        labels: (N,) integers, or (N, A) bool for attributes of which an image has any number.
        test_images, test_labels: the same for the test set.
        data_fingerprint: of training and test set together; by default it is computed from the tensors.
        seed: of initialisation and order.
        device: where it is trained and where the returned network lives.

    Raises:
        InputError: if images and labels do not fit together, or there are fewer than two classes.
    """
    network, checksum, facts = _learned(
        images, labels, test_images, test_labels, data_fingerprint, seed, torch.device(device)
    )
    return as_features(network.body, "fd_classifier", images, checksum, facts, _LARGEST).to(device)


def attribute_classifier(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    *,
    data_fingerprint: str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> FeatureNetwork:
    """log p / (1 - p) of each attribute by a small classifier, (N, C, H, W) -> (N, A), for `separability`.

    The network of `classifier_features`, with its cache and its arguments. Of integer labels (N,) every class
    is an attribute, this class against the rest, and the network is the very same; of attributes (N, A) bool
    it has a logistic output for each, and `test_accuracy` is the mean over them.

    Raises:
        InputError: as `classifier_features`.
    """
    network, checksum, facts = _learned(
        images, labels, test_images, test_labels, data_fingerprint, seed, torch.device(device)
    )
    head = network if labels.dim() == 2 else nn.Sequential(network, _AgainstTheRest())
    return as_features(head, "separability", images, checksum, facts, _LARGEST).to(device)


def classifier_logits(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    *,
    data_fingerprint: str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> FeatureNetwork:
    """The class logits (N, K) of a small classifier, for `inception_score`: metric "is_classifier".

    The very network of `classifier_features`, with its cache and its arguments; labels are integers.

    Raises:
        InputError: as `classifier_features`, or for attributes.
    """
    if labels.dim() == 2:
        raise InputError("`labels` are attributes (N, A) but must be integers (N,), one for each image.")
    network, checksum, facts = _learned(
        images, labels, test_images, test_labels, data_fingerprint, seed, torch.device(device)
    )
    return as_features(network, "is_classifier", images, checksum, facts, _LARGEST).to(device)


def _learned(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor | None,
    test_labels: Tensor | None,
    data_fingerprint: str | None,
    seed: int,
    device: torch.device,
) -> tuple["_Classifier", str, dict[str, float | int | str]]:
    """The network, trained or from the cache; the checksum of its weights; its accuracy."""
    _check(images, labels, "images", "labels")
    if labels.dim() == 2:
        classes, targets = torch.arange(labels.shape[1]), labels.cpu()
    else:
        classes, targets = torch.unique(labels.cpu(), return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"`labels` hold {len(classes)} class but a classifier needs two or more.")
    if (test_images is None) != (test_labels is None):
        raise InputError("`test_images` and `test_labels` must be given together or not at all.")
    test, data = None, data_fingerprint
    if test_images is not None and test_labels is not None:
        _check(test_images, test_labels, "test_images", "test_labels")
        test = (test_images, _among(classes, test_labels))
        data = data or fingerprint(images, labels, test_images, test_labels)
    data = data or fingerprint(images, labels)
    real, held, measured_on = train_and_test((images, targets), test, seed)

    def compute() -> tuple[_Classifier, float]:
        network = _train(*real, len(classes), seed, device)
        return network, _accuracy(network, *held)

    kind = " | attributes" if labels.dim() == 2 else ""
    key = f"recipe {RECIPE} | {data} | train {len(real[0])} | {measured_on} | seed {seed}{kind}"
    network, checksum, accuracy = learned(
        "classifier",
        key,
        "test_accuracy",
        lambda: _Classifier(*images.shape[1:], classes=len(classes)),
        compute,
    )
    return network, checksum, {"test_accuracy": accuracy, "test_accuracy_on": measured_on}


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
            Standardise(channels, _LARGEST),
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


def _train(images: Tensor, targets: Tensor, classes: int, seed: int, device: torch.device) -> _Classifier:
    def build() -> _Classifier:
        return _Classifier(*images.shape[1:], classes=classes)

    epochs = max(5, min(30, _SEEN // len(images)))
    return train(build, images, targets, _loss, epochs=epochs, seed=seed, device=device)


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
    check_images(images, images_name)
    attributes = labels.dim() == 2 and labels.dtype == torch.bool and len(labels) == len(images)
    if not attributes and (labels.is_floating_point() or labels.shape != images.shape[:1]):
        raise InputError(
            f"`{labels_name}` ({labels.dtype}, shape {tuple(labels.shape)}) must be integers, one for each "
            f"of the {len(images)} images in `{images_name}`, or rows of bool attributes."
        )


def _among(classes: Tensor, labels: Tensor) -> Tensor:
    """The position of each label in `classes`; -1, never predicted, for one that training has not seen.

    Attributes, (N, A) bool, stay as they are.
    """
    if labels.dim() == 2:
        return labels.cpu()
    position = torch.searchsorted(classes, labels.cpu().to(classes.dtype)).clamp(max=len(classes) - 1)
    return torch.where(classes[position] == labels.cpu(), position, -1)
