"""A feature network trained on the data set's own labels: metric "fd_classifier", never "FID"."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics.cache import cached, fingerprint
from flowprior.metrics.features import FeatureNetwork

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
    return _as_features(network.body, "fd_classifier", images, checksum, facts).to(device)


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
    return _as_features(head, "separability", images, checksum, facts).to(device)


def _as_features(
    network: nn.Module, metric: str, images: Tensor, checksum: str, facts: dict[str, float | int | str]
) -> FeatureNetwork:
    resize = "none" if max(images.shape[2:]) <= _LARGEST else f"averaged to {_LARGEST}x{_LARGEST}"
    shape = tuple(images.shape[1:])
    return FeatureNetwork(
        network, metric=metric, resize=resize, checksum=checksum, image_shape=shape, facts=facts
    )


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
    if test_images is not None and test_labels is not None:
        _check(test_images, test_labels, "test_images", "test_labels")
        data = data_fingerprint or fingerprint(images, labels, test_images, test_labels)
        train, test = (images, targets), (test_images, _among(classes, test_labels))
        measured_on = f"test {len(test_images)}"
    else:
        data = data_fingerprint or fingerprint(images, labels)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        held, kept = order[: len(order) // 10 + 1], order[len(order) // 10 + 1 :]
        train, test = (images[kept], targets[kept]), (images[held], targets[held])
        measured_on = f"held-out {len(held)}"

    def compute() -> dict[str, Tensor]:
        network = _train(*train, len(classes), seed, device)
        return {**network.state_dict(), "test_accuracy": torch.tensor(_accuracy(network, *test))}

    kind = " | attributes" if labels.dim() == 2 else ""
    key = f"recipe {RECIPE} | {data} | train {len(train[0])} | {measured_on} | seed {seed}{kind}"
    state = cached("classifier", key, compute)
    accuracy = state.pop("test_accuracy").item()
    with torch.device("meta"):  # draws no random numbers
        network = _Classifier(*images.shape[1:], classes=len(classes))
    network.load_state_dict(state, assign=True)
    checksum = fingerprint(*(state[name].cpu() for name in sorted(state)))
    return network, checksum, {"test_accuracy": accuracy, "test_accuracy_on": measured_on}


class _AgainstTheRest(nn.Module):
    """Logits of classes (N, K) to log p_k / (1 - p_k)."""

    def forward(self, logits: Tensor) -> Tensor:
        others = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        rest = logits[:, None, :].masked_fill(others, -torch.inf).logsumexp(2)  # (N, K)
        return logits - rest


class _Standardise(nn.Module):
    """Shrink what is too large, then zero mean and unit variance a channel, by the training set."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if max(images.shape[2:]) > _LARGEST:
            images = functional.interpolate(images, size=(_LARGEST, _LARGEST), mode="area")
        return ((images - self.mean) / self.std).to(memory_format=torch.channels_last)


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
            _Standardise(channels),
            *_convolution(channels, first, kernel=5, stride=stride),
            *_convolution(first, 2 * first, kernel=3, stride=2),
            *_convolution(2 * first, 2 * first, kernel=3, stride=1),
            nn.Flatten(),
            nn.Linear(2 * first * cells, _FEATURES, bias=False),
            nn.BatchNorm1d(_FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(_FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def _convolution(inputs: int, outputs: int, *, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _train(images: Tensor, targets: Tensor, classes: int, seed: int, device: torch.device) -> _Classifier:
    count = len(images)
    batch = min(count, max(32, min(256, count // 20)))
    epochs = max(5, min(30, _SEEN // count))
    images, targets = images.to(device), targets.to(device)
    devices = [device] if device.type == "cuda" else []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        _one_thread(),
    ):
        torch.manual_seed(seed)
        network = _Classifier(*images.shape[1:], classes=classes).to(device)
        network = network.to(memory_format=torch.channels_last)
        _measure(network.body[0], images)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=5e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1e-2, total_steps=epochs * (count // batch), pct_start=0.2
        )
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            order = torch.randperm(count, generator=generator).to(device)
            for index in order[: count // batch * batch].split(batch):
                loss = _loss(network(_pixels(images[index])), targets[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums then do not depend on the number of threads, and on such small layers more threads gain little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measure(standardise: nn.Module, images: Tensor) -> None:
    """Channel means and standard deviations of the training set, from its first 10,000 images."""
    pixels = _pixels(images[:10_000]).double()
    standardise.get_buffer("mean").copy_(pixels.mean((0, 2, 3)).view(-1, 1, 1))
    standardise.get_buffer("std").copy_(pixels.std((0, 2, 3)).clamp(min=1e-3).view(-1, 1, 1))


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.dim() == 2:
        return functional.binary_cross_entropy_with_logits(logits, targets.float())
    return functional.cross_entropy(logits, targets)


def _accuracy(network: nn.Module, images: Tensor, targets: Tensor) -> float:
    """The share of right classes, or of right attributes."""
    device = next(network.parameters()).device
    right = []
    with torch.inference_mode():
        for x, y in zip(images.split(500), targets.cpu().split(500), strict=True):
            logits = network(_pixels(x.to(device))).cpu()
            right.append((logits > 0) == y if y.dim() == 2 else logits.argmax(1) == y)
    return torch.cat(right).double().mean().item()


def _check(images: Tensor, labels: Tensor, images_name: str, labels_name: str) -> None:
    if images.dim() != 4 or len(images) < 4:
        raise InputError(
            f"`{images_name}` has shape {tuple(images.shape)} but must be (samples, channels, height, width)."
        )
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
