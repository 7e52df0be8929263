"""Small networks that a metric trains on the data set itself: what classifier and pose regressor share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.checks import check_shapes
from flowprior.errors import InputError
from flowprior.metrics.cache import cached, fingerprint
from flowprior.metrics.features import FeatureNetwork
from flowprior.tensors import as_input

Network = TypeVar("Network", bound=nn.Module)
Given = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Images and what belongs to each, such as labels, then the same of the test set, if there is one."""


class Standardize(nn.Module):
    """Shrink what is larger than `largest`, then standardize the channels by the training set."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, largest: int) -> None:
        super().__init__()
        self.largest = largest
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if max(images.shape[2:]) > self.largest:
            images = functional.interpolate(images, self.largest, mode="area")
        return ((images - self.mean) / self.std).to(memory_format=torch.channels_last)

    def measure(self, images: Tensor) -> None:
        """Channel means and standard deviations of the training set, from its first 10,000 images."""
        values = as_input(images[:10_000]).float().double()
        self.mean.copy_(values.mean((0, 2, 3)).view(-1, 1, 1))
        self.std.copy_(values.std((0, 2, 3)).clamp(min=1e-3).view(-1, 1, 1))


def convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution, batch normalization and ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]


class Options(TypedDict, total=False):
    """What every network trained here takes beside its data."""

    data_fingerprint: str | None  # of training and test set together; by default computed from the tensors
    seed: int  # of initialization and order, 0 by default
    device: str | torch.device  # where it is trained and where the returned network lives, by default the CPU


@dataclass(frozen=True)
class Recipe:
    """How one kind of network is trained and measured."""

    kind: str  # of its files in the cache
    belonging: str  # the argument's name of what belongs to each image
    version: int  # in every cache key: count it up when anything changes what is learned
    score: str  # the name of the number that `measure` gives
    seen: int  # images per training, so that small sets take more epochs
    epochs: int  # at least
    largest: int  # larger images are averaged down to this side
    images: str  # their shape as a pattern
    check: Callable[[Tensor, Tensor, str, str], None]  # of images and what belongs to them, and their names
    loss: Callable[[Tensor, Tensor], Tensor]  # of outputs and targets
    measure: Callable[[Tensor, Tensor], float]  # the score of outputs, on the CPU, and targets


def learn(
    recipe: Recipe, build: Callable[[], Network], given: Given, targets: Callable[[Tensor], Tensor],
    metric: str, part: Callable[[Network], nn.Module] = lambda network: network, *, variant: str = "",
    data_fingerprint: str | None = None, seed: int = 0, device: str | torch.device = "cpu",
) -> FeatureNetwork:  # fmt: skip
    """The `part` for `metric` of the network that `build` makes, trained or from the cache, with its score.

    Args:
        given: without a test set a tenth is held out.
        targets: of what belongs to the images.
        variant: what else the cache key must tell apart.

    Raises:
        InputError: if one half of a test set is missing, or as `recipe.check`.
    """
    images, labels, test_images, test_labels = given
    if (test_images is None) != (test_labels is None):
        raise InputError(f"`test_images` and `test_{recipe.belonging}` must be given together or not at all.")
    for x, y, test in ((images, labels, ""), (test_images, test_labels, "test_")):
        if x is not None and y is not None:
            check_shapes("give four images or more", **{f"{test}images": (x, recipe.images)})
            recipe.check(x, y, f"{test}images", f"{test}{recipe.belonging}")
    data = data_fingerprint or fingerprint(*(tensor for tensor in given if tensor is not None))
    examples = images, targets(labels)
    if test_images is not None and test_labels is not None:
        tests, measured_on = (test_images, targets(test_labels)), f"test {len(test_images)}"
    else:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        held, kept = order[: len(order) // 10 + 1], order[len(order) // 10 + 1 :]
        (x, y), measured_on = examples, f"held-out {len(held)}"
        examples, tests = (x[kept], y[kept]), (x[held], y[held])
    count = len(examples[0])

    def compute() -> dict[str, Tensor]:
        epochs = max(recipe.epochs, min(30, recipe.seen // count))
        network = fit(build, *examples, recipe.loss, epochs, seed, torch.device(device))
        score = recipe.measure(_outputs(network, tests[0]), tests[1])
        return {**network.state_dict(), recipe.score: torch.tensor(score)}

    key = f"recipe {recipe.version} | {data} | train {count} | {measured_on} | seed {seed}{variant}"
    state = cached(recipe.kind, key, compute)
    facts = {recipe.score: state.pop(recipe.score).item(), f"{recipe.score}_on": measured_on}
    with torch.device("meta"):  # draws no random numbers
        network = build()
    network.load_state_dict(state, assign=True)
    checksum = fingerprint(*(state[name].cpu() for name in sorted(state)))
    largest, shape = recipe.largest, tuple(images.shape[1:])
    resize = "none" if max(shape[1:]) <= largest else f"averaged to {largest}x{largest}"
    learned = FeatureNetwork(
        part(network), metric=metric, resize=resize, checksum=checksum, image_shape=shape, facts=facts
    )
    return learned.to(device)


def fit(
    build: Callable[[], Network], images: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor],
    epochs: int, seed: int, device: torch.device,
) -> Network:  # fmt: skip
    """Train by AdamW with a one-cycle schedule; the network comes back in evaluation mode.

    The network must hold a `Standardize`. The global random state and the number of threads are left alone.
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
            if isinstance(module, Standardize):
                module.measure(images)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=5e-2)
        steps = epochs * (count // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps, pct_start=0.2)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            order = torch.randperm(count, generator=generator).to(device)
            for index in order[: count // batch * batch].split(batch):
                value = loss(network(as_input(images[index]).float()), targets[index])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


def _outputs(network: nn.Module, images: Tensor) -> Tensor:
    """The network's outputs for all images, on the CPU."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return torch.cat([network(as_input(x.to(device)).float()).cpu() for x in images.split(500)])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums then do not depend on the number of threads, and on such small layers more threads gain little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
