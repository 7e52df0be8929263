"""Feature networks: callables from images (N, C, H, W) in [0, 1] to features (N, F), with an identity."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.checks import check_count, check_images, check_shapes
from flowprior.errors import InputError, reason
from flowprior.files import find_weights, read_state_dict
from flowprior.metrics.cache import cache_folder, file_checksum
from flowprior.tensors import as_input

SQUEEZENET_FILE = "squeezenet1_0_deepcompression.pth"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
_INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"


class FeatureNetwork(nn.Module):
    """A frozen network with the facts that a metric on its features must report.

    Attributes:
        metric: the name of the Fréchet distance on these features; only Inception's is "fid".
        resize: how images are resized before the network.
        checksum: SHA-256 of the weights.
        image_shape: the one (C, H, W) that the network takes, None if it takes any.
        facts: what else is worth reporting, such as a classifier's test accuracy.
    """

    def __init__(
        self, network: nn.Module, *, metric: str, resize: str, checksum: str,
        image_shape: tuple[int, ...] | None = None, facts: Mapping[str, float | int | str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.metric, self.resize, self.checksum, self.image_shape = metric, resize, checksum, image_shape
        self.facts = dict(facts or {})

    @property
    def identity(self) -> str:
        """What the features depend on, in one string: the key of cached statistics."""
        return f"{self.metric} | {self.resize} | {self.checksum}"

    def train(self, mode: bool = True) -> "FeatureNetwork":
        """Stay in evaluation mode: features must not depend on the batch."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N, F); an `InputError` for images that are not of `image_shape`."""
        if self.image_shape is not None and images.shape[1:] != self.image_shape:
            got = f"`images` have shape {tuple(images.shape[1:])}"
            raise InputError(f"{got} but this network was trained on {self.image_shape}: resize them.")
        return self.network(images)


def extract(images: Tensor, network: nn.Module, *, batch_size: int = 128) -> Iterator[Tensor]:
    """Features of `images` in batches (n, F), on the network's device, without gradients.

    `images` (N, C, H, W) are floats in [0, 1], or uint8 that are divided by 255.

    Raises:
        InputError: if `images` have another shape, type or range, or `batch_size` is not positive.
    """
    check_images("images", images)
    check_shapes("", images=(images, "N>0 C H W"))
    check_count("batch_size", batch_size)
    state = next(iter([*network.parameters(), *network.buffers()]), images)
    for batch in images.split(batch_size):
        with (
            torch.inference_mode(),
            torch.autocast(state.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            pixels = as_input(batch.to(state.device)).float()
            low, high = pixels.amin().item(), pixels.amax().item()
            if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails as well
                must = "must lie in [0, 1]: rescale them first."
                raise InputError(f"`images` range over [{low:.3g}, {high:.3g}] but {must}")
            features = network(pixels)
        yield features


def inception_features(weights: str | Path | None = None, *, download: bool = False) -> FeatureNetwork:
    """The FID Inception network's last average pool (2048), metric "fid".

    Images are resized to 299 x 299 as pytorch-fid does (bilinear, no antialiasing), gray becomes RGB, pixels
    are scaled to [-1, 1]. Figures compare with papers only if `facts["weights"]` is "as published".
    Source: Heusel et al. 2017 (arXiv:1706.08500); pytorch-fid 0.3.0.

    Args:
        weights: pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, or its folder; by default the folder
            that `FLOWPRIOR_WEIGHTS` names, then `weights` in the cache folder.
        download: whether to fetch a missing file (92 MB) into the cache folder.

    Raises:
        InputError: if the file is missing, cannot be fetched, or is not that network's state dict.
    """
    return _inception(weights, download, "fid")


def inception_logits(weights: str | Path | None = None, *, download: bool = False) -> FeatureNetwork:
    """The FID Inception network's 1008 logits, for `inception_score`: metric "is".

    They are without the last layer's bias, as in the published code of the score and in torch-fidelity; all
    else is as in `inception_features`. Source: Salimans et al. 2016 (arXiv:1606.03498).
    """
    return _inception(weights, download, "is")


def _inception(weights: str | Path | None, download: bool, metric: str) -> FeatureNetwork:
    kept = cache_folder() / "weights" / INCEPTION_FILE
    if weights is None and not os.environ.get("FLOWPRIOR_WEIGHTS"):
        weights = kept if kept.is_file() or download else None
    try:
        path = find_weights(weights, INCEPTION_FILE)
    except InputError as error:
        if not download:
            raise InputError(f"{str(error).removesuffix('.')}, or allow the download (--download).") from None
        path = kept if kept.is_file() else _download_inception(kept)
    network = _inception_body()
    load_weights(network, path, "pytorch-fid's Inception network")
    layers = {name: layer for name, layer in network.named_children() if name != "dropout"}
    last = layers.pop("fc")
    last.register_parameter("bias", None)
    prepare = Prepare(299, antialias=False, mean=(0.5,), std=(0.5,))
    body = nn.Sequential(prepare, *layers.values(), nn.Flatten(), *([last] if metric == "is" else []))
    checksum, resize = file_checksum(path), "bilinear, not antialiased, to 299x299"
    published = checksum.startswith(INCEPTION_FILE[-12:-4])
    facts = {"weights": "as published" if published else "NOT the published file"}
    return FeatureNetwork(body, metric=metric, resize=resize, checksum=checksum, facts=facts)


def _inception_body() -> nn.Module:
    """torchvision's Inception v3 with pytorch-fid's blocks in it; pytorch-fid's own builder downloads."""
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception_v3

    with torch.device("meta"):
        network: nn.Module = inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
        network.Mixed_5b = FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = FIDInceptionE_1(1280)
        network.Mixed_7c = FIDInceptionE_2(2048)
    return network


def _download_inception(path: Path) -> Path:
    from torch.hub import download_url_to_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(_INCEPTION_URL, str(path), hash_prefix=INCEPTION_FILE[-12:-4])
    except (OSError, RuntimeError) as error:
        fix = f"put {INCEPTION_FILE} from {_INCEPTION_URL} into a folder and set FLOWPRIOR_WEIGHTS to it."
        raise InputError(f"`weights` could not be downloaded ({error}): {fix}") from error
    return path


def squeezenet_features(weights: str | Path | None = None, *, size: int = 64) -> FeatureNetwork:
    """ImageNet SqueezeNet 1.0: the last feature map's average (512), metric "fd_squeezenet".

    Images are resized to `size` x `size` (bilinear, antialiased when they shrink), gray becomes RGB; not
    comparable with FID, nor across sizes or files. Source: Iandola et al. 2016 (arXiv:1602.07360).

    Args:
        weights: a state dict of torchvision's `squeezenet1_0`, or the folder that holds
            `squeezenet1_0_deepcompression.pth`; by default the folder that `FLOWPRIOR_WEIGHTS` names.
        size: the side of the network's input in pixels, 32 or more.

    Raises:
        InputError: if the file is missing or is not such a state dict.
    """
    maps = SqueezeNetMaps(weights, size=size)
    body = nn.Sequential(maps.prepare, maps.layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return FeatureNetwork(body, metric="fd_squeezenet", resize=maps.resize, checksum=maps.checksum)


class SqueezeNetMaps(nn.Module):
    """Feature maps of ImageNet SqueezeNet 1.0 at `stages`, indices of its layers, for `PerceptualDistance`.

    Arguments, preparation and errors are those of `squeezenet_features`.
    """

    stages = (1, 4, 8, 12)  # the first ReLU, then one fire module at each of the three later sizes

    def __init__(self, weights: str | Path | None = None, *, size: int = 64) -> None:
        check_count("size", size, least=32)
        super().__init__()
        path = find_weights(weights, SQUEEZENET_FILE)
        from torchvision.models import squeezenet1_0

        with torch.device("meta"):
            network = squeezenet1_0(weights=None)
        load_weights(network, path, "torchvision's squeezenet1_0")
        self.prepare = Prepare(size, antialias=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        self.layers: nn.Sequential = network.features.requires_grad_(False).eval()
        self.resize = f"bilinear, antialiased, to {size}x{size}"
        self.checksum = file_checksum(path)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 1 or 3, H, W) in [0, 1] -> the maps at `stages`, (N, C_l, H_l, W_l)."""
        maps, stages = self.prepare(images), []
        for index, layer in enumerate(self.layers):
            maps = layer(maps)
            if index in self.stages:
                stages.append(maps)
        return stages


class Prepare(nn.Module):
    """Resize, repeat gray to RGB, normalize; channels last, which halves the time on a CPU."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        antialias: bool,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        self.size, self.antialias, self.mode = size, antialias, mode
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        images = functional.interpolate(images, self.size, mode=self.mode, antialias=self.antialias)
        normal = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        return normal.contiguous(memory_format=torch.channels_last)


def load_weights(network: nn.Module, path: Path, kind: str) -> None:
    """Give `network` the state dict in `path`, strictly; a network on the meta device is filled in place."""
    try:
        network.load_state_dict(read_state_dict(path), assign=True)
    except RuntimeError as error:
        must = f"must be a state dict of {kind} ({reason(error)})"
        raise InputError(f"{path} {must}: replace the file.") from error
    network.float()
