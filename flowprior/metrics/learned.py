"""Small networks that a metric trains on the data set itself: what classifier and pose regressor share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics.cache import cached, fingerprint
from flowprior.metrics.features import FeatureNetwork
from flowprior.tensors import as_input

Network = TypeVar("Network", bound=nn.Module)
Pair = tuple[Tensor, Tensor]
"""Images (N, C, H, W), uint8 or floats in [0, 1], and what belongs to each."""


class Standardise(nn.Module):
    """Shrink what is larger than `largest`, then standardise the channels by the training set."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, largest: int) -> None:
        super().__init__()
        self.largest = largest
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if max(images.shape[2:]) > self.largest:
            images = functional.interpolate(images, size=(self.largest, self.largest), mode="area")
        return ((images - self.mean) / self.std).to(memory_format=torch.channels_last)

    def measure(self, images: Tensor) -> None:
        """Channel means and standard deviations of the training set, from its first 10,000 images."""
        values = pixels(images[:10_000]).double()
        self.mean.copy_(values.mean((0, 2, 3)).view(-1, 1, 1))
        self.std.copy_(values.std((0, 2, 3)).clamp(min=1e-3).view(-1, 1, 1))


def convolution(inputs: int, outputs: int, *, kernel: int, stride: int) -> list[nn.Module]:
    """A convolution, batch normalisation and ReLU."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def check_images(images: Tensor, name: str) -> None:
    """Refuse what is not four images (C, H, W) or more.

    Raises:
        InputError: on another shape.
    """
    if images.dim() != 4 or len(images) < 4:
        raise InputError(
            f"`{name}` has shape {tuple(images.shape)} but must be (samples, channels, height, width)."
        )


def train_and_test(train: Pair, test: Pair | None, seed: int) -> tuple[Pair, Pair, str]:
    """The training and the test set, a tenth held out where none is given, and what to call the second."""
    if test is not None:
        return train, test, f"test {len(test[0])}"
    images, targets = train
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, kept = order[: len(order) // 10 + 1], order[len(order) // 10 + 1 :]
    return (images[kept], targets[kept]), (images[held], targets[held]), f"held-out {len(held)}"


def learned(
    kind: str,
    key: str,
    score: str,
    build: Callable[[], Network],
    compute: Callable[[], tuple[Network, float]],
) -> tuple[Network, str, float]:
    """The network of `key`, computed or from the cache; the checksum of its weights; its test score.

    Args:
        kind: of cached files; `score` is the name of the number beside the weights.
        build: the network without its weights.
        compute: the trained network and its score.
    """

    def tensors() -> dict[str, Tensor]:
        network, value = compute()
        return {**network.state_dict(), score: torch.tensor(value)}

    state = cached(kind, key, tensors)
    value = state.pop(score).item()
    with torch.device("meta"):  # draws no random numbers
        network = build()
    network.load_state_dict(state, assign=True)
    return network, fingerprint(*(state[name].cpu() for name in sorted(state))), value


def as_features(
    network: nn.Module,
    metric: str,
    images: Tensor,
    checksum: str,
    facts: dict[str, float | int | str],
    largest: int,
) -> FeatureNetwork:
    """A network for images of the training set's shape, with its facts."""
    resize = "none" if max(images.shape[2:]) <= largest else f"averaged to {largest}x{largest}"
    shape = tuple(images.shape[1:])
    return FeatureNetwork(
        network, metric=metric, resize=resize, checksum=checksum, image_shape=shape, facts=facts
    )


def train(
    build: Callable[[], Network],
    images: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    epochs: int,
    seed: int,
    device: torch.device,
) -> Network:
    """Train by AdamW with a one-cycle schedule; the network comes back in evaluation mode.

    The network must hold a `Standardise`. The global random state and the number of threads are left alone.
    """
    count = len(images)
    batch = min(count, max(32, min(256, count // 20)))
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
        network = build().to(device).to(memory_format=torch.channels_last)
        for module in network.modules():
            if isinstance(module, Standardise):
                module.measure(images)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=5e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1e-2, total_steps=epochs * (count // batch), pct_start=0.2
        )
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            order = torch.randperm(count, generator=generator).to(device)
            for index in order[: count // batch * batch].split(batch):
                value = loss(network(pixels(images[index])), targets[index])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    """The network's outputs for all images, on the CPU."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return torch.cat([network(pixels(x.to(device))).cpu() for x in images.split(500)])


def pixels(images: Tensor) -> Tensor:
    """uint8 or floats in [0, 1] to float32 in [0, 1]."""
    return as_input(images).float()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums then do not depend on the number of threads, and on such small layers more threads gain little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
